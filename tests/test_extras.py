"""Scoring and evaluation need none of the packages that the extra `train` brings; what needs them names it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from conftest import picture

OF_TRAIN = ("trl", "peft", "datasets", "accelerate")

# Runs command lines of ours in a process for which some packages do not exist, as if they had not been installed.
# Prints for each its exit status and what it said.
WITHOUT_PACKAGES = """
import json, sys

class Without:
    def __init__(self, finder, names):
        self.finder, self.names = finder, names
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

names, commands = json.loads(sys.argv[1])
sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]

from typer.testing import CliRunner
from visualquality.cli import app

for command in commands:
    done = CliRunner().invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
loaded = {name.partition(".")[0] for name in sys.modules} & set(names)
assert not loaded, loaded
"""


def run_without(packages: tuple[str, ...], *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each command line."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, json.dumps([packages, commands])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four photos with a manifest, a recipe, and an adapter."""
    names = [f"{i}.png" for i in range(4)]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / name)
    rows = [f"{name},{mos}" for mos, name in enumerate(names, start=1)]
    (tmp_path / "mine.csv").write_text("\n".join(["image,mos", *rows]) + "\n")
    recipe = {
        "method": "rl2r",
        "model": "nano",
        "data": [{"manifest": "mine.csv"}],
        "output": "run",
        "optimizer": {"steps": 1, "images_per_device": 4},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "adapter").mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nano", "r": 1}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    # The package that reads the layers is asked for before it would miss them.
    layer = {"layer.lora_A.weight": np.zeros((1, 4)), "layer.lora_B.weight": np.zeros((4, 1))}
    save_file(layer, tmp_path / "adapter" / "adapter_model.safetensors")
    return tmp_path


def test_only_training_and_adapters_need_the_extra_train(folder):
    photo, manifest, recipe = (str(folder / name) for name in ("0.png", "mine.csv", "mine.yaml"))
    scored, evaluated, planned, trained, adapted = run_without(
        OF_TRAIN,
        ["score", photo, "--json"],
        ["evaluate", "--mode", "expect", "--data", manifest],
        ["train", recipe, "--dry-run"],
        ["train", recipe],
        ["score", photo, "--model", str(folder / "adapter")],
    )
    assert scored[0] == evaluated[0] == planned[0] == 0
    assert 1 <= json.loads(scored[1])["score"] <= 5
    assert "SRCC" in evaluated[1]
    for status, _, said in (trained, adapted):
        assert status == 2
        assert "pip install 'visualquality[train]'" in said.replace("\n", " ")
    assert "training needs" in trained[2]
    assert "LoRA adapter" in adapted[2]
    assert not (folder / "run" / "metrics.jsonl").exists()
