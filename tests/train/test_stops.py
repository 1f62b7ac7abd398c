"""A run that a signal, an error or a kill ends goes on to the weights of one that nothing ended."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import Trainer
from typer.testing import CliRunner

from small_runs import (
    assert_same_weights,
    lines,
    reward_on_a_letter,
    small_recipe,
    untimed,
    weights,
)
from visualquality.cli import app
from visualquality.errors import UserError
from visualquality.process import quiet_libraries
from visualquality.train import faults
from visualquality.train.base import PART, RunTrainer
from visualquality.train.logs import StepLog
from visualquality.train.run import last_checkpoint, train
from visualquality.train.stops import SIGNALS, Stopped

quiet_libraries()
FIVE_STEPS = {"optimizer": {"steps": 5}, "checkpoint_every": 50}


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored():
    """As on a terminal: where pytest is started with `nohup … &`, it and its runs would ignore SIGINT, rightly."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def recipe(tmp_path, model_folder, ranking_set, monkeypatch):
    """A function: overrides -> a recipe of five steps that writes a checkpoint at its end only."""
    reward_on_a_letter(monkeypatch)
    source = {"manifest": str(ranking_set), "mos_range": [0, 100]}

    def make(name: str = "run", **changes):
        changes = {"data": [source], **FIVE_STEPS, **changes}
        return small_recipe(tmp_path, model_folder("nano"), ranking_set, name, **changes)

    return make


@pytest.fixture(scope="module")
def straight(tmp_path_factory, model_folder, ranking_set):
    """A function: overrides -> the folder of a run of five steps that nothing interrupted."""
    runs: dict[str, Path] = {}

    def run(**changes) -> Path:
        key = repr(sorted(changes.items()))
        if key not in runs:
            with pytest.MonkeyPatch.context() as patch:
                reward_on_a_letter(patch)
                source = {"manifest": str(ranking_set), "mos_range": [0, 100]}
                changes = {"data": [source], **FIVE_STEPS, **changes}
                folder = tmp_path_factory.mktemp("straight")
                made = small_recipe(folder, model_folder("nano"), ranking_set, **changes)
                runs[key] = train(made).parent
        return runs[key]

    return run


@pytest.fixture
def after_step(monkeypatch):
    """A function: (step, act) -> `act` is called once, when the line of that step is written."""

    def set_up(step: int, act) -> None:
        real = StepLog.on_log

        def spied(self, args, state, control, **kwargs):
            real(self, args, state, control, **kwargs)
            if state.global_step == step:
                monkeypatch.setattr(StepLog, "on_log", real)
                act()

        monkeypatch.setattr(StepLog, "on_log", spied)

    return set_up


def kill(number: int, times: int = 1):
    def act():
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


def assert_goes_on_to_the_same(stopped, straight: Path) -> None:
    """Resumes `stopped` and compares all that it leaves with a run that was not interrupted."""
    assert_same_weights(straight / "final", train(stopped, resume=True))
    logs = [untimed(run / "metrics.jsonl") for run in (stopped.output, straight)]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4, 5]
    assert logs[0] == logs[1]
    samples = [run / "samples.jsonl" for run in (stopped.output, straight)]
    if samples[1].is_file():
        assert lines(samples[0]) == lines(samples[1])


@pytest.mark.parametrize(
    ("method", "name"),
    [("rl2r", "SIGTERM"), ("sft", "SIGINT"), ("expect", "SIGUSR1"), ("rl2r", "SIGINT")],
)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on_to_the_bit(
    recipe, straight, after_step, capfd, method, name
):
    number = getattr(signal, name)
    changes = {"method": method}
    if method == "sft":
        changes["sft"] = {"score_noise": 0.3}
    elif name == "SIGINT":
        changes["lora"] = {"rank": 2}
    before = [signal.getsignal(each) for each in SIGNALS]
    after_step(2, kill(number))
    stopped = recipe("stopped", **changes)
    with pytest.raises(Stopped) as caught:
        train(stopped)
    assert caught.value.status == 128 + number
    # The step in progress, the third one, is finished.
    kept = stopped.output / "checkpoint-3"
    assert last_checkpoint(stopped.output) == kept
    assert str(caught.value) == (
        f"stopped by {name}: step 3 is kept in {kept}; go on with: "
        f"visualquality train --resume {stopped.output}"
    )
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert not (stopped.output / "final").exists()
    capfd.readouterr()
    assert_goes_on_to_the_same(stopped, straight(**changes))
    assert f"going on from step 3 of 5 ({kept})" in capfd.readouterr().err


def test_a_second_ctrl_c_ends_at_once(recipe, after_step):
    stopped = recipe(checkpoint_every=2)
    after_step(3, kill(signal.SIGINT, times=2))
    with pytest.raises(Stopped, match=r"SIGINT: step 2 is kept in .*checkpoint-2;"):
        train(stopped)
    assert len(lines(stopped.output / "metrics.jsonl")) == 3


def test_what_torchrun_passes_on_is_not_a_second_ctrl_c(recipe, after_step, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    after_step(3, kill(signal.SIGINT, times=2))
    with pytest.raises(Stopped, match=r"step 4 is kept"):
        train(recipe())


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no SIGUSR1")
def test_a_signal_before_the_first_step_ends_at_once(recipe, monkeypatch, capfd):
    real = faults.image_problems

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR1)
        return real(*args, **kwargs)

    monkeypatch.setattr(faults, "image_problems", signalled)
    stopped = recipe()
    with pytest.raises(Stopped, match="there is no checkpoint yet"):
        train(stopped)
    assert not (stopped.output / "metrics.jsonl").exists()
    monkeypatch.undo()
    train(stopped, resume=True)
    said = capfd.readouterr().err
    assert f"there is no checkpoint in {stopped.output}: starting from the beginning" in said
    assert [line["step"] for line in lines(stopped.output / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_signal_in_the_last_step_lets_the_run_end(recipe, after_step):
    after_step(4, kill(signal.SIGTERM))
    assert (train(recipe()) / "model.safetensors").is_file()


def test_a_signal_while_a_checkpoint_is_written_waits_for_no_other_step(recipe, after_step):
    # The line of a step is written after its end, and before its checkpoint.
    after_step(2, kill(signal.SIGTERM))
    with pytest.raises(Stopped, match="step 2 is kept"):
        train(recipe(checkpoint_every=2))


def test_an_ignored_signal_stays_ignored(recipe, after_step):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        after_step(2, kill(signal.SIGINT))
        assert train(recipe()).is_dir()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("status", [130, 143])
def test_the_command_says_how_to_go_on_and_goes_on(recipe, after_step, tmp_path, status):
    chosen = recipe()
    after_step(1, kill(status - 128))
    words = ["train", str(tmp_path / "run.yaml"), "--set", "seed=3", "-o", str(tmp_path / "other")]
    stopped = CliRunner().invoke(app, words)
    assert stopped.exit_code == status
    assert "step 2 is kept" in stopped.output
    command = f"visualquality train --resume {tmp_path / 'other'}"
    assert stopped.output.rstrip().endswith(command)
    if status == 143:
        # The folder alone is enough: it has the recipe with what was set.
        done = CliRunner().invoke(app, command.split()[1:])
        assert done.exit_code == 0, done.output
        assert "going on from step 2 of 5" in done.output
        assert len(lines(tmp_path / "other" / "metrics.jsonl")) == 5
        assert not chosen.output.exists()


# Errors


def fail_at(monkeypatch, owner, name: str, call: int, error: Exception) -> None:
    """The so-manyth call of a method raises."""
    real, calls = getattr(owner, name), []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            # As a step with dropout does: these numbers are of no whole step.
            torch.rand(3), random.random()
            raise error
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("method", ["rl2r", "sft"])
def test_an_error_leaves_the_state_of_the_last_whole_step(recipe, straight, monkeypatch, method):
    """In the second part of the third step: its first part has left gradients behind."""
    parts = {"steps": 5, "images_per_device": 2, "accumulation": 2}
    changes = {"method": method, "optimizer": parts, "sft": {"score_noise": 0.3}}
    with monkeypatch.context() as patch:
        fail_at(patch, RunTrainer, "check_loss", 6, RuntimeError("out of memory"))
        stopped = recipe("stopped", **changes)
        with pytest.raises(RuntimeError, match="out of memory") as caught:
            train(stopped)
    kept = stopped.output / "checkpoint-2"
    (note,) = caught.value.__notes__
    assert f"step 2 is kept in {kept}; go on with: visualquality train --resume" in note
    regular = straight(**changes, checkpoint_every=2, keep_checkpoints=9)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [
            torch.load(run / "checkpoint-2" / name, weights_only=False)
            for run in (stopped.output, regular)
        ]
        assert_equal(*states)
    assert_same_weights(kept, regular / "checkpoint-2")
    assert_goes_on_to_the_same(stopped, regular)


def assert_equal(a, b) -> None:
    """Nested values of a checkpoint, tensors and arrays among them."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_equal(*pair)
    elif torch.is_tensor(a):
        assert torch.equal(a, b)
    else:
        assert str(a) == str(b)


def test_an_image_that_vanishes_is_one_sentence_and_the_way_on(recipe, ranking_set, tmp_path):
    """Through the command line: it is no bug, so there is no traceback."""
    for image in ranking_set.parent.glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    (tmp_path / "own.csv").write_bytes(ranking_set.read_bytes())
    chosen = recipe(data=[{"manifest": str(tmp_path / "own.csv")}])
    # Read when their step comes: the images of the fourth step are gone after the second.
    gone = lines_of_step(chosen, 4)
    real = StepLog.on_log

    def spied(self, args, state, control, **kwargs):
        real(self, args, state, control, **kwargs)
        if state.global_step == 2:
            for path in gone:
                path.unlink(missing_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepLog, "on_log", spied)
        result = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml")])
    assert result.exit_code == 2, result.output
    assert "does not exist" in result.output
    assert f"step 3 is kept in {chosen.output / 'checkpoint-3'}" in result.output


def lines_of_step(chosen, step: int) -> list[Path]:
    """The images of a step that none of the steps before it has."""
    from visualquality.train.examples import read_examples, run_order

    examples = read_examples(chosen)
    order = [row for row, _ in run_order(chosen, examples, step)]
    last = set(order[-chosen.global_batch :]) - set(order[: -chosen.global_batch])
    assert last
    return [examples[row].path for row in last]


@pytest.mark.parametrize("where", ["optimizer", "log", "checkpoint"])
def test_no_checkpoint_is_made_of_a_step_that_is_not_whole(recipe, straight, monkeypatch, where):
    stopped = recipe("stopped", checkpoint_every=2)
    error = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        if where == "optimizer":
            fail_at(patch, torch.optim.AdamW, "step", 4, error)
        elif where == "log":
            fail_at(patch, StepLog, "on_log", 3, error)
        else:  # of the fourth step, and again when the error is handled
            fail_at(patch, Trainer, "_save_rng_state", 2, error)
            fail_at(patch, Trainer, "_save_rng_state", 2, error)
        # Of a checkpoint, the sentence says what could not be written and what to do.
        kind = UserError if where == "checkpoint" else OSError
        with pytest.raises(kind, match="No space left") as caught:
            train(stopped)
    *others, last = caught.value.__notes__
    assert f"step 2 is kept in {stopped.output / 'checkpoint-2'}" in last
    again = f"no checkpoint could be written after it: {caught.value}"
    assert others == ([again] if where == "checkpoint" else [])
    assert last_checkpoint(stopped.output).name == "checkpoint-2"
    # What could not be written whole is not there at all, and takes no room.
    assert not (stopped.output / PART).exists()
    assert len(list(stopped.output.glob("checkpoint-*"))) == 1
    if where == "log":  # samples.jsonl has a line of the step that is done again
        assert_goes_on_to_the_same(stopped, straight(method="rl2r"))


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_one(recipe, straight, after_step):
    stopped = recipe("stopped")
    after_step(2, kill(signal.SIGTERM))
    with pytest.raises(Stopped):
        train(stopped)
    # As a kill in the middle of the next one leaves it, and as one of an older version did.
    unfinished = stopped.output / PART / "checkpoint-4"
    unfinished.mkdir(parents=True)
    (unfinished / "trainer_state.json").write_text("{")
    (stopped.output / "checkpoint-4").mkdir()
    (stopped.output / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert_goes_on_to_the_same(stopped, straight(method="rl2r"))
    assert not (stopped.output / PART).exists()


def test_a_finished_run_that_is_resumed_is_left_as_it_is(recipe):
    final = train(recipe())
    before = weights(final)
    again = weights(train(recipe(), resume=True))
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert len(lines(final.parent / "metrics.jsonl")) == 5


def test_a_line_tells_how_long_a_step_and_a_checkpoint_take(recipe):
    train(chosen := recipe(checkpoint_every=2))
    metrics = lines(chosen.output / "metrics.jsonl")
    assert all(line["seconds/step"] > 0 for line in metrics)
    assert [line["step"] for line in metrics if "seconds/checkpoint" in line] == [3, 5]


def test_another_recipe_is_refused_but_checkpoints_may_be_more_frequent(recipe, after_step):
    after_step(1, kill(signal.SIGTERM))
    with pytest.raises(Stopped):
        train(recipe())
    with pytest.raises(UserError, match="skip_bad"):
        train(recipe(skip_bad=True), resume=True)
    assert train(recipe(checkpoint_every=1), resume=True).is_dir()


# Several processes, as `srun` starts them: nothing ends one of them when another ends.

WORKER = """
import os, signal, sys
from pathlib import Path
from visualquality.train.logs import StepLog
from visualquality.train.base import RunTrainer
from visualquality.cli import app

rank, what, folder = os.environ["RANK"], sys.argv.pop(1), Path(sys.argv[-1]).parent
real = StepLog.on_step_begin
def begin(self, args, state, control, **kwargs):
    real(self, args, state, control, **kwargs)
    if state.global_step == 2 and rank == "1" and what == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
StepLog.on_step_begin = begin
check = RunTrainer.check_loss
def failing(self, loss):
    if self.state.global_step == 2 and rank == "1" and what == "error":
        raise RuntimeError("the second process fails")
    check(self, loss)
RunTrainer.check_loss = failing
app()
"""


def start_two(script: Path, what: str, words: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, str(script), what, *words],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, float]]:
    """Exit status, standard error and time of the end of each."""
    left, found = dict(enumerate(processes)), {}
    while left:
        for i, process in list(left.items()):
            if process.poll() is not None:
                found[i] = (process.returncode, process.communicate()[1], time.monotonic())
                del left[i]
        time.sleep(0.05)
    return [found[i] for i in sorted(found)]


def test_processes_agree_on_a_signal_and_leave_together(recipe, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    two = recipe("two", method="sft", devices=2, optimizer={"steps": 5, "images_per_device": 2})
    words = ["train", str(tmp_path / "two.yaml"), "-o", str(two.output)]
    first, second = ends(start_two(tmp_path / "worker.py", "signal", words))
    assert (first[0], second[0]) == (143, 143), first[1] + second[1]
    assert "step 3 is kept in" in first[1]
    assert "torchrun --nproc_per_node 2 -m visualquality train --resume" in first[1]
    # One of them speaks for both.
    assert "is kept in" not in second[1]
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {
        path.name for path in (two.output / "checkpoint-3").iterdir()
    }
    resumed = ends(start_two(tmp_path / "worker.py", "nothing", [*words, "--resume"]))
    assert [status for status, _, _ in resumed] == [0, 0], resumed
    assert [line["step"] for line in lines(two.output / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_an_error_of_one_process_ends_all_within_a_minute(recipe, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    two = recipe(
        "two",
        method="sft",
        devices=2,
        optimizer={"steps": 5, "images_per_device": 2},
        checkpoint_every=1,
    )
    words = ["train", str(tmp_path / "two.yaml"), "-o", str(two.output)]
    first, second = ends(start_two(tmp_path / "worker.py", "error", words))
    assert abs(first[2] - second[2]) < 60
    assert first[0] not in (0, None)
    assert second[0] == 1
    assert "the second process fails" in second[1]
    for _, said, _ in (first, second):
        assert f"step 2 is kept in {two.output / 'checkpoint-2'}" in said
