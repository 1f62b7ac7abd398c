"""What a chat model is asked about an image, whether vLLM runs it in this process or a server does, and its answer."""

import base64
import math
from importlib.metadata import version
from io import BytesIO
from typing import Any

from PIL import Image

from .. import response
from ..errors import UserError
from ..models.releases import trained_prompt
from ..response import PromptName, TextReading
from .settings import Engine, ScoreSettings, in_use
from .source import OpenedSource, Source, open_source


class ChatRater:
    """Base of the raters whose model an inference engine runs: the question, its images, and what a score depends on.

    Attributes:
        options: the settings as they were given.
        prompt: the prompt that was asked for, else the one that a known model was trained with, else "paper".
        temperature: of drawing; 1 by default.
        rating_fields: the fields of a `Rating` that say what made it.
    """

    def __init__(self, engine: Engine, model: str, options: ScoreSettings):
        options = options.for_model(model)
        # Engines return text, not the probabilities that the other modes and an automatic number of samples need.
        if options.mode not in ("reason", "direct") or options.samples == "auto":
            raise UserError(
                f"engine {engine} draws a number of answers: use mode reason or direct, "
                "and a number of samples"
            )
        if options.reading == "expected":
            raise UserError(
                f"engine {engine} returns text without the probabilities of digits: use reading strict"
            )
        if options.device is not None:
            raise UserError(
                f"device is {options.device}, but the engine {engine} chooses its own: leave it out here"
            )
        if options.quantization is not None:
            raise UserError(
                f"quantization is {options.quantization}, but the engine {engine} loads weights in its own way: "
                "leave it out here"
            )
        self.engine = engine
        self.model = model
        self.options = options
        self.reading: TextReading = options.reading or "strict"
        self.samples = options.samples
        self.prompt: PromptName = options.prompt or trained_prompt(model) or "paper"
        # nano, for which another temperature is better, does not run on engines.
        self.temperature = 1.0 if options.temperature is None else options.temperature
        self.question = response.prompt_text(
            self.prompt, options.mode == "reason", reference=options.reference
        )
        self.rating_fields: dict[str, Any] = {
            "model": model,
            "mode": options.mode,
            "seed": options.seed,
            "prompt": self.prompt,
        }

    def settings(self) -> dict[str, Any]:
        """What a score depends on besides the image. Which weights a server holds, and an engine's kernels, are
        not known here."""
        # The header of a journal: a run goes on only where it is the same, so keys and values must not change.
        header: dict[str, Any] = {
            "model": self.model,
            "engine": self.engine,
            "prompt": self.prompt,
            "mode": self.options.mode,
            "samples": self.samples,
            "seed": self.options.seed,
            "preset": self.options.preset,
            "temperature": self.temperature,
            "top_k": self.options.top_k,
            "top_p": self.options.top_p,
            "repetition_penalty": self.options.repetition_penalty,
            "add_vision_id": self.options.add_vision_id,
            "reading": self.reading,
            "max_new_tokens": self.options.token_limit,
            "max_pixels": self.options.max_pixels,
            "assume_bits": self.options.assume_bits,
            "reference": self.options.reference,
            "version": version("visualquality"),
        }
        return in_use(header)

    @property
    def sampling(self) -> dict[str, float]:
        """How tokens are drawn besides the temperature, in the names of OpenAI's API. All of them are always sent.

        Engines otherwise fill in their own defaults (min_p 0.05 and top_k 40 in llama.cpp) or those of the model's
        generation_config.json (Qwen's has a repetition penalty).
        """
        return {"top_p": self.options.top_p, "presence_penalty": 0.0, "frequency_penalty": 0.0}

    @property
    def extra_sampling(self) -> dict[str, float]:
        """The same for fields that OpenAI itself does not have.

        A server that does not know them ignores them, or refuses the request and says so.
        """
        return {
            "top_k": self.options.top_k or -1,  # -1: all tokens
            "min_p": 0.0,
            "repetition_penalty": self.options.repetition_penalty,
        }

    @property
    def template_options(self) -> dict[str, bool]:
        """What the chat template is given. A template that does not know it ignores it."""
        return {"add_vision_id": True} if self.options.add_vision_id else {}

    def read(self, text: str, *, truncated: bool) -> response.Response:
        """A response, read as the options say."""
        return response.READINGS[self.reading](text, truncated=truncated, prompt=self.prompt)

    def messages(self, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat in OpenAI's form; `images` are the parts of its content that hold the images."""
        content = [*images, {"type": "text", "text": self.question}]
        if self.prompt in response.IMAGE_LAST:
            content = content[-1:] + images
        user = {"role": "user", "content": content}
        # Without one of its own, the model's chat template may bring a system message.
        if self.prompt not in response.SYSTEM:
            return [user]
        return [{"role": "system", "content": response.SYSTEM[self.prompt]}, user]

    def open(self, source: Source) -> OpenedSource:
        """A source whose images are resized to at most `max_pixels` each. Raises UserError.

        The digest is that of the images as they were given.
        """
        options = self.options
        opened = open_source(source, reference=options.reference, **options.file_options)
        images = (shrink(image, self.options.max_pixels) for image in opened.images)
        return opened._replace(images=tuple(images))


def shrink(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """The image in at most `max_pixels`, by bicubic resizing that keeps its aspect ratio as far as that is possible."""
    pixels = image.width * image.height
    if max_pixels is None or pixels <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / pixels)
    # The inner bounds matter for lines: an image of 3000 x 1 pixels cannot keep its aspect ratio.
    width = min(max(1, int(image.width * scale)), max_pixels)
    height = min(max(1, int(image.height * scale)), max_pixels // width)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def png_data_url(image: Image.Image) -> str:
    """The image as a data URL."""
    png = BytesIO()
    # Little compression: its time matters more than the bytes, which are sent once for each sample.
    image.save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getbuffer()).decode()


def read_completion(completion: Any) -> tuple[str, bool]:
    """The text of a chat completion, and whether it ran out of tokens.

    A server that separates the thinking from the answer (`reasoning_content`, in newer vLLM `reasoning`) has taken the
    tags away: they are put back. Raises LookupError, TypeError or AttributeError for what is no completion.
    """
    choice = completion["choices"][0]
    message = choice["message"]
    thinking = message.get("reasoning_content") or message.get("reasoning")
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    text = f"<think>{thinking}</think>{content}" if thinking else content
    return text, choice.get("finish_reason") == "length"
