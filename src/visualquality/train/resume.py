"""Going on where a run stopped."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from ..models.load import load_strictly


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
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    log.write_text("".join(kept), encoding="utf-8")
