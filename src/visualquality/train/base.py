"""What the trainers of all methods share, beside what they inherit from TRL."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler

from ..models.load import VisionLanguageModel, load_strictly
from ..models.prompt import prompt_opening
from .examples import Example, PromptEncoder
from .recipe import Recipe


class RunTrainer:
    """Stands before a trainer of TRL in a class's bases.

    `examples` are trained on in the `order` of `run_order`; `encode` makes their prompts, and `encode.vlm` is the
    model that is trained. TRL's trainer gets `kwargs`.
    """

    vlm: VisionLanguageModel
    examples: list[Example]
    recipe: Recipe
    encode: PromptEncoder
    opening: str  # of each response, that the chat template has written already

    def __init__(
        self: Any,
        recipe: Recipe,
        examples: list[Example],
        order: list[tuple[int, int]],
        encode: PromptEncoder,
        **kwargs: Any,
    ):
        self.recipe, self.examples, self.encode, self.vlm = recipe, examples, encode, encode.vlm
        self.opening = prompt_opening(self.vlm.processor)
        rows, visits = zip(*order, strict=True)
        # Numbers only: images are opened when a batch is made.
        dataset = Dataset.from_dict({"row": rows, "visit": visits})
        kwargs |= {"train_dataset": dataset, "processing_class": self.vlm.processor}
        super().__init__(model=self.vlm.model, **kwargs)  # type: ignore[call-arg]  # TRL's, not object's

    def _get_train_sampler(self: Any, dataset: Any = None) -> SequentialSampler:
        # `run_order` has shuffled. Skipping to a step is then all that it takes to resume in the same order.
        return SequentialSampler(self.train_dataset)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        if self.is_deepspeed_enabled or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        # `Trainer` ignores keys that do not fit. Where a checkpoint has older key names, as those of Qwen2.5-VL do, it
        # would load nothing, and the run would go on from the start without a word.
        saved = load_strictly(type(model), resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict(), strict=True)

    def log_metrics(self: Any, metrics: dict[str, Any]) -> None:
        """Add to the step's line of metrics.jsonl; TRL averages what comes several times in a step."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(value.item() if torch.is_tensor(value) else value)

    def check_loss(self: Any, loss: Tensor) -> None:
        """Raises FloatingPointError for a loss that is not finite: an update with it would destroy all weights."""
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step}")
