"""Continuing a run where it stopped."""

from pathlib import Path
from typing import Any

from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel

from ..models.load import load_strictly


class ExactResume:
    """What all trainers put before TRL's: the order that `run_order` laid out, and a strict load of a checkpoint."""

    def _get_train_sampler(self: Any, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        if self.is_deepspeed_enabled or hasattr(model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        else:
            load_weights(model, resume_from_checkpoint)


def load_weights(model: PreTrainedModel, checkpoint: str | Path) -> None:
    """Load a checkpoint's weights strictly: a key too many or too few is an error.

    `Trainer` loads non-strictly, which for checkpoints with older key names (Qwen2.5-VL) loads nothing.
    """
    saved = load_strictly(type(model), checkpoint, dtype=model.dtype)
    model.load_state_dict(saved.state_dict(), strict=True)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of steps that were done when a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None. A checkpoint is complete when its trainer state is there."""
    found = [path.parent for path in output.glob("checkpoint-*/trainer_state.json")]
    return max(found, key=checkpoint_step, default=None)
