"""Going on where a run stopped."""

import json
import os
from pathlib import Path
from typing import Any

from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel

from ..models.load import load_strictly


class ExactResume:
    """What both trainers put before TRL's: the order that `run_order` laid out, and a strict load of a checkpoint."""

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


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None. A checkpoint is complete when its trainer state is there."""
    found = [path.parent for path in output.glob("checkpoint-*/trainer_state.json")]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def rewind(log: Path, step: int) -> None:
    """Drop the lines of a JSON Lines log that a resumed run will write again: those after `step`, and a torn one."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").split("\n"):  # words may hold other ends of lines
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    part = log.with_suffix(".part")
    part.write_text("".join(kept), encoding="utf-8")
    os.replace(part, log)
