"""Supervised warm-up on TRL's `SFTTrainer`: the model learns to answer in the form, with scores near the MOS."""

from typing import Any

import torch
from datasets import Dataset
from scipy.stats import norm
from torch import Tensor
from trl import SFTTrainer

from .. import response
from ..models.load import VisionLanguageModel
from ..models.prompt import collate, pad
from ..seeds import choice, uniform_streams
from .examples import Example, FeatureCache, PromptEncoder
from .recipe import Recipe
from .resume import ExactResume


def order_dataset(order: list[tuple[int, int]]) -> Dataset:
    """The order of a run (`run_order`) as the data set of a trainer: a row and its visit each."""
    return Dataset.from_dict({"row": [row for row, _ in order], "visit": [v for _, v in order]})


class SupervisedTrainer(ExactResume, SFTTrainer):
    """`SFTTrainer` on our own batches."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        examples: list[Example],
        recipe: Recipe,
        order: list[tuple[int, int]],
        cache: FeatureCache | None,
        **kwargs: Any,
    ):
        super().__init__(
            model=vlm.model,
            data_collator=TargetCollator(vlm, examples, recipe, cache),
            train_dataset=order_dataset(order),
            processing_class=vlm.processor,
            **kwargs,
        )


class TargetCollator:
    """Rows -> prompts with their targets, padded on the right; only the target's tokens are learnt."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        examples: list[Example],
        recipe: Recipe,
        cache: FeatureCache | None,
    ):
        self.examples, self.recipe = examples, recipe
        self.tokenizer = vlm.processor.tokenizer
        self.encode = PromptEncoder(vlm, cache)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        examples = [self.examples[row["row"]] for row in rows]
        forms = [self._form(example) for example in examples]
        wanted = []
        for example, (name, reasoning) in zip(examples, forms, strict=True):
            question = response.prompt_text(name, reasoning, reference=self.recipe.reference)
            wanted.append((example.images, question))
        prompts, labels = [], []
        for number, prompt in enumerate(self.encode(wanted)):
            visit, (_, reasoning) = rows[number]["visit"], forms[number]
            target = self._target_ids(examples[number], visit, reasoning)
            prompts.append(prompt.followed_by(target))
            # -100 is what the loss leaves out: the prompt.
            labels.append(torch.tensor([-100] * len(prompt) + target))
        batch = collate(prompts, self.tokenizer.pad_token_id, side="right").inputs()
        return {**batch, "labels": pad(labels, -100, side="right")}

    def _form(self, example: Example) -> tuple[response.PromptName, bool]:
        """The prompt of an image, and whether it asks for reasoning.

        With `every_prompt` half of the images are asked as the recipe says, the others in one of the three other ways.
        """
        own = (self.recipe.prompt, self.recipe.reasoning)
        if not self.recipe.sft.every_prompt:
            return own
        forms = [(name, form) for name in response.PROMPTS for form in (True, False)]
        others = [form for form in forms if form != own]
        return ([own] * 3 + others)[choice(example.key, 6)]

    def _target_ids(self, example: Example, visit: int, reasoning: bool) -> list[int]:
        """Tokens of the response to learn."""
        # A function of seed, visit and image: batches are read ahead, so a generator's state would not resume exactly.
        name = f"noise/{visit}/{example.key}"
        uniform = uniform_streams(self.recipe.seed, [name], 1, 1)[0, 0, 0]
        noise = float(norm.ppf(max(uniform, 1e-12)))
        score = example.mos + self.recipe.sft.score_noise * noise
        text = target_text(score, example.reasoning if reasoning else None)
        return [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]


def target_text(score: float, reasoning: str | None) -> str:
    """The response to learn; a score beyond the scale is taken to its end.

    >>> target_text(3.456, "Sharp."), target_text(5.2, None)
    ('<think>Sharp.</think><answer>3.46</answer>', '<answer>5.00</answer>')
    """
    answer = f"<answer>{min(max(score, response.LOWEST), response.HIGHEST):.2f}</answer>"
    return answer if reasoning is None else f"<think>{reasoning}</think>{answer}"
