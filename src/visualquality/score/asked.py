"""What `Scorer` asks a model, and what it reads scores by: the prompts of an image, and the tree of digits."""

from .. import response
from ..errors import UserError
from ..models.digits import DigitTree
from ..models.load import VisionLanguageModel
from ..models.prompt import numbers_images, prompt_opening
from .reading import Question, Reader
from .settings import ScoreSettings


def digit_tree(
    vlm: VisionLanguageModel,
    eos: list[int],
    options: ScoreSettings,
    prompt: response.PromptName,
    reading: response.Reading,
) -> DigitTree | None:
    """The tree that scores are read by, or None where they are drawn alone. Raises UserError where there can be none.

    `eos`: the tokens that end an answer. `prompt`, `reading`: those of `options`, or the model's own.
    """
    after_words = options.mode != "expect" and reading == "expected"
    if not after_words and options.mode in ("reason", "direct"):
        return None
    if prompt == "q-insight":
        raise UserError(
            f"the prompt {prompt!r} asks for JSON, not for a bare score: use mode reason and reading strict"
        )
    tree = DigitTree(vlm.processor.tokenizer, eos, prompt_opening(vlm.processor))
    if after_words and tree.joined is not None:
        raise UserError(
            f"this model's tokenizer has the token {tree.joined!r}, so that the digits of an answer "
            "cannot be told from its tag; use reading strict"
        )
    return tree


def reader_for(
    vlm: VisionLanguageModel,
    options: ScoreSettings,
    prompt: response.PromptName,
    digits: DigitTree | None,
) -> Reader:
    """What makes an image ready: its questions, and how files are read.

    Mode auto has two questions: the second is for images that the first leaves in doubt. Raises UserError for an
    `add_vision_id` that the model's chat template does not know.
    """
    if options.add_vision_id and not numbers_images(vlm.processor):
        raise UserError(
            f"the chat template of {vlm.name} does not number images: leave add_vision_id out"
        )

    def question(reasoning: bool) -> str:
        return response.prompt_text(prompt, reasoning, reference=options.reference)

    questions = []
    if digits is not None and options.mode in ("expect", "auto"):
        questions.append(Question(question(False), tuple(digits.opening)))
    if options.mode != "expect":
        questions.append(Question(question(options.mode != "direct")))
    return Reader(
        vlm.processor,
        tuple(questions),
        prompt,
        options.reference,
        options.file_options,
        options.add_vision_id,
    )
