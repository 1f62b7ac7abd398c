"""Supervised warm-up on TRL's `SFTTrainer`: the model learns to answer in the form, with scores near the MOS."""

from hashlib import blake2b
from typing import Any

import torch
from datasets import Dataset
from scipy.stats import norm
from torch import Tensor
from trl import SFTTrainer

from .. import response
from ..models.encode import pad_right
from ..models.generate import random_streams
from ..models.load import VisionLanguageModel
from .examples import Example, PromptEncoder
from .recipe import Recipe
from .resume import ExactResume


class SupervisedTrainer(ExactResume, SFTTrainer):
    """`SFTTrainer` on our own batches."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        examples: list[Example],
        recipe: Recipe,
        order: list[tuple[int, int]],
        **kwargs: Any,
    ):
        super().__init__(
            model=vlm.model,
            data_collator=TargetCollator(vlm, examples, recipe),
            train_dataset=Dataset.from_dict(
                {"row": [r for r, _ in order], "visit": [v for _, v in order]}
            ),
            processing_class=vlm.processor,
            **kwargs,
        )


class TargetCollator:
    """Rows -> prompts with their targets, padded on the right; only the target's tokens are learnt."""

    def __init__(self, vlm: VisionLanguageModel, examples: list[Example], recipe: Recipe):
        self.examples, self.recipe = examples, recipe
        self.tokenizer = vlm.processor.tokenizer
        self.encode = PromptEncoder(vlm, remember=recipe.freeze_vision)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        examples = [self.examples[row["row"]] for row in rows]
        forms = [self._form(e) for e in examples]
        questions = [response.prompt_text(*form, reference=self.recipe.reference) for form in forms]
        prompts = self.encode(
            [(e.images, question) for e, question in zip(examples, questions, strict=True)]
        )
        targets = [
            torch.tensor(self._target_ids(e, row["visit"], form[1]))
            for e, row, form in zip(examples, rows, forms, strict=True)
        ]
        lengths = [len(p["input_ids"]) for p in prompts]
        ids = [torch.cat([p["input_ids"], t]) for p, t in zip(prompts, targets, strict=True)]
        labels = [
            torch.cat([torch.full((n,), -100), t]) for n, t in zip(lengths, targets, strict=True)
        ]
        batch = {
            "input_ids": pad_right(ids, self.tokenizer.pad_token_id),
            "attention_mask": pad_right([torch.ones(len(row), dtype=torch.long) for row in ids], 0),
            "labels": pad_right(labels, -100),
        }
        for key in prompts[0].keys() - batch.keys():
            if key.endswith("_ids"):  # one a token, such as mm_token_type_ids: the target is text
                padded = [
                    torch.cat([p[key], torch.zeros_like(t)])
                    for p, t in zip(prompts, targets, strict=True)
                ]
                batch[key] = pad_right(padded, 0)
            else:
                batch[key] = torch.cat([p[key] for p in prompts])
        return batch

    def _form(self, example: Example) -> tuple[response.PromptName, bool]:
        """The prompt of an image, and whether it asks for reasoning. Half of all are asked as the recipe says."""
        own = (self.recipe.prompt, self.recipe.reasoning)
        if not self.recipe.sft.every_prompt:
            return own
        others = [
            (name, form)
            for name in response.PROMPTS
            for form in (True, False)
            if (name, form) != own
        ]
        return ([own] * 3 + others)[
            int(blake2b(example.key.encode(), digest_size=4).hexdigest(), 16) % 6
        ]

    def _target_ids(self, example: Example, visit: int, reasoning: bool) -> list[int]:
        # A function of seed, visit and image: batches are read ahead, so a generator's state would not resume exactly.
        uniform = random_streams(self.recipe.seed, [f"noise/{visit}/{example.key}"], 1, 1)[0, 0, 0]
        score = example.mos + self.recipe.sft.score_noise * float(norm.ppf(max(uniform, 1e-12)))
        text = target_text(score, example.reasoning if reasoning else None)
        return [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]


def target_text(score: float, reasoning: str | None) -> str:
    """The response to learn; a score beyond the scale is taken to its end.

    >>> target_text(3.456, "Sharp."), target_text(5.2, None)
    ('<think>Sharp.</think><answer>3.46</answer>', '<answer>5.00</answer>')
    """
    answer = f"<answer>{min(max(score, response.LOWEST), response.HIGHEST):.2f}</answer>"
    return answer if reasoning is None else f"<think>{reasoning}</think>{answer}"
