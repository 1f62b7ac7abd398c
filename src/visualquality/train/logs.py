"""What a run writes while it trains: `metrics.jsonl`, `samples.jsonl`, `probes.jsonl`, and a live line for people."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..io import append_jsonl, filter_jsonl, progress_bar
from .examples import Example, read_source
from .recipe import Recipe

SHOWN = (  # metric, label, format
    ("reward", "reward", ".3f"),
    ("kl", "KL", ".4f"),
    ("score_std", "std", ".3f"),
    ("readable", "readable", ".1%"),
    ("loss", "loss", ".3f"),
)
LINE_SECONDS = 15.0  # between lines where there is no terminal


def step_record(
    step: int, examples: Sequence[Example], scores: Sequence[Sequence[float | None]], **more: Any
) -> dict[str, Any]:
    """What `samples.jsonl` and `probes.jsonl` say of a step: its images, all of one data set, and their scores.

    `keys` tell images apart that have the same name and MOS; `paths` are where they were when this was written.
    """
    return {
        "step": step,
        "dataset": examples[0].dataset,
        "images": [e.path.name for e in examples],
        "mos": [round(e.mos, 6) for e in examples],
        "scores": scores,
        **more,
        "keys": [e.key for e in examples],
        "paths": [str(e.path) for e in examples],
    }


def cut_back(log: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again."""
    filter_jsonl(log, lambda record: record["step"] <= step)


@dataclass(frozen=True)
class Probes:
    """Probe images: scored every few steps, and never trained on. The std over K on several sets (Fig. 3) and one
    image's words along the run (Fig. 4) are drawn from them."""

    examples: list[Example]
    file: Path

    def write(
        self, step: int, example: Example, scores: Sequence[float | None], texts: list[str]
    ) -> None:
        """Append a line for one image at one step, in the form of `samples.jsonl`, without rewards."""
        append_jsonl(self.file, step_record(step, [example], [scores], texts=texts))


def read_probes(recipe: Recipe, file: Path) -> Probes | None:
    """The probes of a recipe, if it names any. Raises UserError for a faulty manifest."""
    if recipe.probes is None:
        return None
    examples = read_source(recipe.probes, on_1_to_5=False, reference=recipe.reference)
    return Probes(examples, file)


def _is_step(state: TrainerState, logs: dict[str, Any] | None) -> bool:
    """Whether a log of the trainer is a step's, on the process that writes; its last one sums up the run."""
    return bool(state.is_world_process_zero and logs and "train_runtime" not in logs)


class MetricsFile(TrainerCallback):
    """Appends one JSON object a step to `metrics.jsonl`."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or not _is_step(state, logs):
            return
        record = {"step": state.global_step, "time": round(time.time(), 3)}
        # The run is laid out as one long epoch, so the loop's own count of epochs says nothing.
        record |= {k: v for k, v in logs.items() if k not in record and k != "epoch"}
        append_jsonl(self.path, record)


class LiveProgress(TrainerCallback):
    """A bar with the metrics and the time left; plain lines where the output is no terminal."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = progress_bar(console, transient=False)
        self.started = self.printed = 0.0
        self.first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.task = self.bar.add_task(
            "step", total=state.max_steps, completed=state.global_step, note=""
        )
        if state.is_world_process_zero:
            self.bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or not _is_step(state, logs):
            return
        shown = [
            f"{label} {logs[name]:{form}}"
            for name, label, form in SHOWN
            if logs.get(name) is not None
        ]
        metrics = "  ".join(shown)
        self.bar.update(self.task, completed=state.global_step, note=metrics)
        now, last = time.monotonic(), state.global_step == state.max_steps
        if not self.console.is_terminal and (now - self.printed > LINE_SECONDS or last):
            self.printed = now
            # Steps of the run before it was resumed took none of this time.
            done = max(state.global_step - self.first, 1)
            left = (now - self.started) / done * (state.max_steps - state.global_step)
            line = (
                f"step {state.global_step}/{state.max_steps}  {metrics}  {left / 60:.1f} min left"
            )
            self.console.print(line, soft_wrap=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.stop()
