"""What the trainers of all methods share, beside what they inherit from TRL."""

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import SequentialSampler

from ..errors import UserError, first_line
from ..models.folder import check_folder
from ..models.load import VisionLanguageModel, load_strictly
from .examples import Example, PromptEncoder
from .recipe import Recipe


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Remove a folder that could not be written whole, as on a full disk, and raise one UserError."""
    try:
        yield
    # Of a full disk, safetensors and torch.save raise errors of their own.
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{folder} cannot be written ({first_line(error)}): make room, and continue with --resume"
        ) from error


@contextmanager
def readable_checkpoint(checkpoint: str | None) -> Iterator[None]:
    """What PyTorch raises about a file of a checkpoint, as one UserError.

    transformers opens these pickles with `weights_only`, so that code in them is refused and not run.
    """
    try:
        yield
    except (pickle.UnpicklingError, EOFError, RuntimeError, LookupError, TypeError) as error:
        reason = first_line(error)
        # PyTorch then advises to open it all the same.
        if isinstance(error, pickle.UnpicklingError):
            reason = "a file in it is damaged or holds code"
        raise UserError(
            f"{checkpoint} cannot be read ({reason}): delete it, and --resume takes the one before"
        ) from error


class RunTrainer:
    """Stands before a trainer of TRL in a class's bases.

    `examples` are trained on in the `order` of `run_order`; `encode` makes their prompts, and `encode.vlm` is the
    model that is trained. TRL's trainer gets `kwargs`.
    """

    vlm: VisionLanguageModel
    examples: list[Example]
    recipe: Recipe
    encode: PromptEncoder

    def __init__(
        self: Any,
        recipe: Recipe,
        examples: list[Example],
        order: list[tuple[int, int]],
        encode: PromptEncoder,
        **kwargs: Any,
    ):
        self.recipe, self.examples, self.encode, self.vlm = recipe, examples, encode, encode.vlm
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
        check_folder(Path(resume_from_checkpoint))
        if self.is_deepspeed_enabled or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        # `Trainer` ignores keys that do not fit. Where a checkpoint has older key names, as those of Qwen2.5-VL do, it
        # would load nothing, and the run would go on from the start without a word.
        saved = load_strictly(type(model), resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(saved.state_dict(), strict=True)

    def _save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with disk_errors(folder):
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]

    def save_model(self: Any, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        with disk_errors(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, *args, **kwargs)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        with readable_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        with readable_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def log_metrics(self: Any, metrics: dict[str, Any]) -> None:
        """Add to the step's line of metrics.jsonl; TRL averages what comes several times in a step."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(value.item() if torch.is_tensor(value) else value)

    def check_loss(self: Any, loss: Tensor) -> None:
        """Raises FloatingPointError for a loss that is not finite: an update with it would destroy all weights."""
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step}")
