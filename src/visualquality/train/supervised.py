"""Supervised warm-up on TRL's `SFTTrainer`: the model learns to answer in the form, with scores near the MOS."""

from typing import Any

import torch
from scipy.stats import norm
from trl import SFTTrainer

from .. import response
from ..models.prompt import collate, pad
from ..seeds import choice, uniform_streams
from .base import RunTrainer
from .examples import Example


class SupervisedTrainer(RunTrainer, SFTTrainer):
    """Trains on the response that each image should have: the manifest's reasoning, where it has one, and the MOS."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, data_collator=self.make_batch, **kwargs)

    def make_batch(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Prompts with their targets after them, padded on the right; the loss sees the targets only."""
        examples = [self.examples[row["row"]] for row in rows]
        forms = [self._form(example) for example in examples]
        wanted = []
        for example, (name, reasoning) in zip(examples, forms, strict=True):
            question = response.prompt_text(name, reasoning, reference=self.recipe.reference)
            wanted.append((example.images, question))
        prompts, labels = [], []
        for i, prompt in enumerate(self.encode(wanted)):
            target = self._target_ids(examples[i], rows[i]["visit"], reasoning=forms[i][1])
            prompts.append(prompt.followed_by(target))
            # The loss leaves out what is -100: here the prompt, below the padding.
            labels.append(torch.tensor([-100] * len(prompt) + target))
        pad_token_id = self.vlm.processor.tokenizer.pad_token_id
        inputs = collate(prompts, pad_token_id, side="right").inputs()
        return {**inputs, "labels": pad(labels, -100, side="right")}

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, which must be finite."""
        found = super().compute_loss(*args, **kwargs)
        # With return_outputs TRL gives the model's outputs beside the loss.
        self.check_loss(found[0] if isinstance(found, tuple) else found)
        return found

    def _form(self, example: Example) -> tuple[response.PromptName, bool]:
        """The prompt of an image, and whether it asks for reasoning.

        With `every_prompt` half of the images get the prompt of the recipe, the others one of the three other forms.
        """
        own = (self.recipe.prompt, self.recipe.reasoning)
        if not self.recipe.sft.every_prompt:
            return own
        forms = [(name, form) for name in response.PROMPTS for form in (True, False)]
        others = [form for form in forms if form != own]
        # By the image alone: a form that changed from visit to visit would need the image to be encoded for each.
        return ([own] * 3 + others)[choice(example.key, 6)]

    def _target_ids(self, example: Example, visit: int, *, reasoning: bool) -> list[int]:
        """Tokens of the response to learn."""
        # A function of seed, visit and image: batches are read ahead, so a generator's state would not resume exactly.
        name = f"noise/{visit}/{example.key}"
        uniform = uniform_streams(self.recipe.seed, [name], 1, 1)[0, 0, 0]
        noise = float(norm.ppf(max(uniform, 1e-12)))  # at 0 it would be infinite
        deviation = self.recipe.sft.score_noise
        if deviation == "std":
            deviation = example.std or 0.0
        score = example.mos + deviation * noise
        text = target_text(
            score, example.reasoning if reasoning else None, opened=bool(self.opening)
        )
        tokenizer = self.vlm.processor.tokenizer
        return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def target_text(score: float, reasoning: str | None, *, opened: bool = False) -> str:
    """The response to learn; a score beyond the scale is taken to its end.

    opened: the prompt ends with <think>, which then has to be closed in any case.

    >>> target_text(3.456, "Sharp."), target_text(5.2, None)
    ('<think>Sharp.</think><answer>3.46</answer>', '<answer>5.00</answer>')
    """
    answer = f"<answer>{min(max(score, response.LOWEST), response.HIGHEST):.2f}</answer>"
    if opened:
        return f"{reasoning or ''}</think>{answer}"
    return answer if reasoning is None else f"<think>{reasoning}</think>{answer}"
