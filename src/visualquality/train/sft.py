"""Supervised warm-up on TRL's `SFTTrainer`: the model learns to answer in the form, with scores near the MOS."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTTrainer

from .. import response
from ..models.encode import pad_right
from ..models.load import VisionLanguageModel
from .examples import Example, PromptEncoder
from .recipe import Recipe
from .resume import load_weights


class SupervisedTrainer(SFTTrainer):
    """`SFTTrainer` on our own batches. It resumes strictly, as `RL2RTrainer` does."""

    def __init__(self, vlm: VisionLanguageModel, examples: list[Example], recipe: Recipe, **kwargs: Any):
        super().__init__(
            model=vlm.model,
            data_collator=TargetCollator(vlm, examples, recipe),
            train_dataset=Dataset.from_dict({"row": range(len(examples))}),
            processing_class=vlm.processor,
            **kwargs,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(model, resume_from_checkpoint)


class TargetCollator:
    """Rows -> prompts with their targets, padded on the right; only the target's tokens are learnt."""

    def __init__(self, vlm: VisionLanguageModel, examples: list[Example], recipe: Recipe):
        self.examples, self.recipe = examples, recipe
        self.tokenizer = vlm.processor.tokenizer
        question = response.prompt_text(recipe.prompt, recipe.reasoning)
        self.encode = PromptEncoder(vlm, question, remember=recipe.freeze_vision)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        examples = [self.examples[row["row"]] for row in rows]
        prompts = self.encode([e.path for e in examples])
        targets = [torch.tensor(self._target_ids(e)) for e in examples]
        lengths = [len(p["input_ids"]) for p in prompts]
        ids = [torch.cat([p["input_ids"], t]) for p, t in zip(prompts, targets, strict=True)]
        labels = [torch.cat([torch.full((n,), -100), t]) for n, t in zip(lengths, targets, strict=True)]
        batch = {
            "input_ids": pad_right(ids, self.tokenizer.pad_token_id),
            "attention_mask": pad_right([torch.ones(len(row), dtype=torch.long) for row in ids], 0),
            "labels": pad_right(labels, -100),
        }
        for key in prompts[0].keys() - batch.keys():
            if key.endswith("_ids"):  # one a token, such as mm_token_type_ids: the target is text
                padded = [torch.cat([p[key], torch.zeros_like(t)]) for p, t in zip(prompts, targets, strict=True)]
                batch[key] = pad_right(padded, 0)
            else:
                batch[key] = torch.cat([p[key] for p in prompts])
        return batch

    def _target_ids(self, example: Example) -> list[int]:
        # The global generator: its state is in every checkpoint.
        score = example.mos + self.recipe.sft.score_noise * torch.randn(()).item()
        text = target_text(score, example.reasoning if self.recipe.reasoning else None)
        return [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]


def target_text(score: float, reasoning: str | None) -> str:
    """The response to learn; a score beyond the scale is taken to its end.

    >>> target_text(3.456, "Sharp."), target_text(5.2, None)
    ('<think>Sharp.</think><answer>3.46</answer>', '<answer>5.00</answer>')
    """
    answer = f"<answer>{min(max(score, response.LOWEST), response.HIGHEST):.2f}</answer>"
    return answer if reasoning is None else f"<think>{reasoning}</think>{answer}"
