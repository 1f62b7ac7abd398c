"""How a run is stopped without losing steps: by a signal, at the end of the step in progress; by an error, with the
state of the last whole step.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from transformers import TrainerCallback

from ..process import is_main
from .checkpoints import checkpoint_step, last_checkpoint, resume_command
from .recipe import Recipe

# Ctrl-C; the signal of `kill`, spot machines and batch systems; Slurm's warning. Windows has no SIGUSR1.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]
# torchrun passes on the Ctrl-C that its processes got from the terminal themselves.
PASSED_ON_SECONDS = 1.0


class Stopped(KeyboardInterrupt):
    """A signal ended the run. `str()` is a sentence that says where, and how to go on."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def status(self) -> int:
        """The exit status of a process that a signal ended, as shells report it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class StopSignals(TrainerCallback):
    """While it is entered, signals stop a run: at once before its first step, then at the end of the step in progress.

    All processes of a run agree after each step on whether one of them got a signal, and so write the checkpoint and
    leave together. That takes one number from each, which is nothing beside the gradients. A second Ctrl-C ends the
    run at once. In another thread than the main one no signal can be caught, and nothing is changed; a signal that is
    ignored, as Ctrl-C is in the background of a script, stays so.

    agreed: the signal that ends the run after its checkpoint, or 0.
    """

    def __init__(self) -> None:
        self.agreed = 0
        self._received = 0  # by this process
        self._since = 0.0  # when the first came, in seconds
        self._waits = False  # for the end of a step
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set by Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = number == signal.SIGINT and self._received
        passed_on = "TORCHELASTIC_RUN_ID" in os.environ and now - self._since < PASSED_ON_SECONDS
        if not self._waits or (again and not passed_on):
            raise Stopped(number)
        if not self._received:
            self._received, self._since = number, now
            if is_main():
                name = signal.Signals(number).name
                _say(f"{name}: stopping at the end of this step\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._waits = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agree(args):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A signal that came while a checkpoint was written anyway need not wait for another step.
        if self._agree(args):
            control.should_training_stop = True

    def _agree(self, args: Any) -> int:
        self.agreed = self._received
        if args.world_size > 1:
            number = torch.tensor(self._received, device=args.device)
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
            self.agreed = int(number)
        return self.agreed


def _say(text: str) -> None:
    """Write from inside a signal handler, where the console may be in the middle of a line of its own."""
    # There need not be a standard error.
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text.encode())


class LastWholeStep(TrainerCallback):
    """Whether the trainer's state is that of a whole step, and the random states that belong to it.

    An error may come anywhere. While a batch is read, rolled out or differentiated, the weights are those of the step
    before; during the optimizer's update they are of no step, and no line of metrics.jsonl stands for a step that was
    not logged. It must come after the callback that writes metrics.jsonl.
    """

    def __init__(self) -> None:
        self.saved = self.logged = 0  # steps
        self._updating = False
        self._random: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = self.logged = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._updating = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._updating = False
        self._random = _random_states()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.logged = state.global_step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = state.global_step

    def keep(self, trainer: Any) -> None:
        """Write a checkpoint after an error, where there is a whole step that has none yet. Raises as saving does."""
        step = trainer.state.global_step
        # Several processes may have got to different places, and a checkpoint needs all of them.
        if (
            trainer.args.world_size > 1
            or self._updating
            or self.logged != step
            or self.saved == step
        ):
            return
        self._random()
        trainer.current_flos = 0  # of the step that failed
        trainer._save_checkpoint(trainer.model, trial=None)


def _random_states() -> Callable[[], None]:
    """A function that puts all random generators back to where they are now."""
    # NumPy's old generator is the one that a checkpoint holds.
    own, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cpu = torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(own)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)

    return restore


def where_it_stands(recipe: Recipe) -> str:
    """What an interrupted run has kept, and how to go on with it: the end of a sentence."""
    checkpoint = last_checkpoint(recipe.output)
    command = resume_command(recipe)
    if checkpoint is None:
        return f"there is no checkpoint yet, so that it starts from the beginning with: {command}"
    return f"step {checkpoint_step(checkpoint)} is kept in {checkpoint}; go on with: {command}"
