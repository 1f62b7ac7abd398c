"""What a run writes while it trains: lines of `metrics.jsonl`, `samples.jsonl` and `probes.jsonl`, and progress."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress
from transformers import TrainerCallback

from ..io import append_jsonl, filter_jsonl, read_jsonl
from .examples import Example
from .validation import SCORED

METRICS = "metrics.jsonl"  # in the folder of a run
SHOWN = (  # metric, label, format
    ("reward", "reward", ".3f"),
    ("kl", "KL", ".4f"),
    ("score_std", "std", ".3f"),
    ("readable", "readable", ".1%"),
    ("loss", "loss", ".3f"),
)
LINE_SECONDS = 15.0  # between lines where there is no terminal


class Answers(NamedTuple):
    """The K responses to an image in one step, a number or text for each."""

    example: Example
    texts: list[str]
    scores: list[float | None]
    well_formed: list[bool]
    tokens: list[int]


def write_answers(file: Path, step: int, answers: Sequence[Answers], **more: Any) -> None:
    """Append a step to `samples.jsonl` or `probes.jsonl`: its images, all of one data set, and their scores.

    `more` are fields of the one or the other file.
    """
    examples = [each.example for each in answers]
    record = {
        "step": step,
        "dataset": examples[0].dataset,
        "images": [e.path.name for e in examples],
        "mos": [round(e.mos, 6) for e in examples],
        "scores": [each.scores for each in answers],
        **more,
        # Names and MOS may agree for several images; a path is where an image was when this was written.
        "keys": [e.key for e in examples],
        "paths": [str(e.path) for e in examples],
    }
    append_jsonl(file, record)


def cut_back(log: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again."""
    filter_jsonl(log, lambda record: record["step"] <= step)


def last_number(log: Path, key: str) -> Any:
    """What the last line that has `key` says of it; 0 where none has."""
    found = [line.record[key] for line in read_jsonl(log) if key in line.record]
    return found[-1] if found else 0


class StepLog(TrainerCallback):
    """Appends each step to `metrics.jsonl`, and shows its metrics: in `bar`, or in lines where there is no terminal."""

    def __init__(self, metrics: Path, bar: Progress):
        self.metrics, self.bar = metrics, bar
        self.printed = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        # Of the last line or checkpoint, and what the last checkpoint took.
        self.ended, self.saving = self.started, 0.0
        self.task = self.bar.add_task("step", total=state.max_steps, completed=self.first, note="")
        if state.is_world_process_zero:
            self.bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # Of several processes one writes. The trainer's last log sums up the run, and is not a step's.
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        step = state.global_step
        record = {"step": step, "time": round(time.time(), 3)}
        if SCORED in logs:
            self._validated(record, logs)
            return
        ended = time.monotonic()
        record["seconds/step"] = round(ended - self.ended, 3)
        if self.saving:
            # Of the checkpoint before this step, which is written after the line of its own step.
            record["seconds/checkpoint"] = round(self.saving, 3)
        self.ended, self.saving = ended, 0.0
        # The run is laid out as one long epoch, so the loop's own count of epochs says nothing.
        record |= {k: v for k, v in logs.items() if k not in record and k != "epoch"}
        append_jsonl(self.metrics, record)
        shown = [(label, logs.get(name), form) for name, label, form in SHOWN]
        # A metric of which nothing is known in this step, such as the std without a readable answer, is None.
        line = "  ".join(
            f"{label} {value:{form}}" for label, value, form in shown if value is not None
        )
        self.bar.update(self.task, completed=step, note=line)
        now, last = time.monotonic(), step == state.max_steps
        if not self.bar.console.is_terminal and (now - self.printed > LINE_SECONDS or last):
            self.printed = now
            # Steps of the run before it was resumed took none of this time.
            seconds = (now - self.started) / (step - self.first) * (state.max_steps - step)
            text = f"step {step}/{state.max_steps}  {line}  {seconds / 60:.1f} min left"
            self.bar.console.print(text, soft_wrap=True)

    def _validated(self, record: dict[str, Any], logs: dict[str, Any]) -> None:
        """A validation has a line of its own after that of its step, and is no part of the seconds of the next one."""
        append_jsonl(self.metrics, record | {k: v for k, v in logs.items() if k != "epoch"})
        self.ended = time.monotonic()
        values = [f"{k.removeprefix('eval_')} {logs[k]:.3f}" for k in logs if k.startswith("eval_")]
        text = f"validation at step {record['step']}: {', '.join(values)}"
        self.bar.console.print(text, soft_wrap=True, markup=False)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = time.monotonic()
        self.ended, self.saving = saved, saved - self.ended
