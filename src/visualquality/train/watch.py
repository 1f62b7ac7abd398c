"""What a run shows while it goes: a live line for people, `metrics.jsonl` for programs."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SHOWN = (  # metric, label, format
    ("reward", "reward", ".3f"),
    ("kl", "KL", ".4f"),
    ("score_std", "std", ".3f"),
    ("readable", "readable", ".1%"),
    ("loss", "loss", ".3f"),
)
EVERY = 15.0  # seconds between lines where there is no terminal


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
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        record = {"step": state.global_step, "time": round(time.time(), 3)}
        # The run is laid out as one long epoch, so the loop's own count of epochs says nothing.
        record |= {k: v for k, v in logs.items() if k not in record and k != "epoch"}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class LiveProgress(TrainerCallback):
    """A bar with the metrics and the time left; plain lines where the output is no terminal."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.started = self.printed = 0.0
        self.first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.task = self.progress.add_task(
            "train", total=state.max_steps, completed=state.global_step, metrics=""
        )
        if state.is_world_process_zero:
            self.progress.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        metrics = "  ".join(
            f"{label} {logs[name]:{form}}"
            for name, label, form in SHOWN
            if logs.get(name) is not None
        )
        self.progress.update(self.task, completed=state.global_step, metrics=metrics)
        now = time.monotonic()
        if not self.console.is_terminal and (
            now - self.printed > EVERY or state.global_step == state.max_steps
        ):
            self.printed = now
            done = state.global_step - self.first
            left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
            line = (
                f"step {state.global_step}/{state.max_steps}  {metrics}  {left / 60:.1f} min left"
            )
            self.console.print(line, soft_wrap=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.stop()
