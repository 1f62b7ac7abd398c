import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from visualquality import Scorer, UserError, create_metric
from visualquality.cli import app
from visualquality.process import usable_device
from visualquality.score.settings import score_settings

CODE = """
import resource, sys, torch
from visualquality.process import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def step():
    return (torch.ones(20_000_000) + 1).sum()
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again():
    """Ten times the same work: the kernel hands out no new pages for it."""
    faults = {}
    for how in ("keep", "default"):
        run = subprocess.run(
            [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
        )
        kept, count = run.stdout.split()
        faults[how] = int(count)
        if how == "keep" and kept == "False":
            pytest.skip("not glibc: there is nothing to tell")
    assert faults["default"] > 10 * faults["keep"], faults


NAMES = [
    "gpu",
    "GPU",
    "cuda:",
    "cuda:-1",
    "cuda:01",
    "cuda:1:2",
    "mps:1",
    "cpu:1",
    "xpu",
    "",
    "0",
    " cpu",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_there_never_is_is_one_sentence_that_names_those_there_are(name):
    for refused in (usable_device, lambda name: score_settings(device=name)):
        with pytest.raises(UserError, match=r"device is .*: the devices are cpu, cuda, cuda:N"):
            refused(name)


class Cuda:
    """A PyTorch with CUDA and so many GPUs."""

    def __init__(self, monkeypatch, count: int):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "name", "words"),
    [
        (0, "cuda", "finds no GPU: check the driver"),
        (0, "cuda:0", "finds no GPU: check the driver"),
        (1, "cuda:1", "device is cuda:1, but there is cuda:0 alone"),
        (2, "cuda:7", "device is cuda:7, but there is cuda:0 to cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch, count, name, words):
    Cuda(monkeypatch, count)
    with pytest.raises(UserError, match=words):
        usable_device(name)


def test_a_device_that_is_there_is_taken_as_given(monkeypatch):
    assert [usable_device(name) for name in ("cpu", "cpu:0")] == ["cpu", "cpu:0"]
    Cuda(monkeypatch, 2)
    assert [usable_device(name) for name in (None, "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [usable_device(name) for name in ("mps", "mps:0")] == ["mps", "mps:0"]
    Cuda(monkeypatch, 0)
    assert usable_device(None) == "cpu"


def test_a_build_without_a_kind_of_device_says_so_wherever_the_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name, words in (("cuda", "built without CUDA"), ("mps", "GPU of a Mac")):
        for refused in (
            lambda: usable_device(name),  # noqa: B023
            lambda: Scorer("nano", device=name),  # noqa: B023
            lambda: Scorer("nano", device=torch.device(name)),  # noqa: B023
            lambda: create_metric("visualquality-nano", device=name),  # noqa: B023
        ):
            with pytest.raises(UserError, match=words):
                refused()
        done = CliRunner().invoke(app, ["score", __file__, "--device", name])
        assert done.exit_code == 2
        assert words in " ".join(done.stderr.split())


def test_an_engine_chooses_its_own_device(tmp_path):
    command = ["score", __file__, "--engine", "openai", "--url", "http://localhost:1/v1"]
    done = CliRunner().invoke(app, [*command, "--device", "cuda"])
    assert done.exit_code == 2
    assert "the engine openai chooses its own" in " ".join(done.stderr.split())
