"""Short training runs on small random models, and what the tests of training read of them."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from visualquality import response, rl2r
from visualquality.train.recipe import Recipe, read_recipe


def small_recipe(
    folder: Path, trained: Path, manifest: Path, name: str = "run", **changes
) -> Recipe:
    """A recipe of four steps in `folder`, written as NAME.yaml beside its output NAME."""
    tree = {
        "method": "rl2r",
        "model": str(trained),
        "data": [{"manifest": str(manifest)}],
        "output": str(folder / name),
        "optimizer": {"steps": 4, "images_per_device": 4, "learning_rate": 1e-3},
        "rl2r": {"responses": 3, "max_new_tokens": 8, "kl_weight": 0.1},
        "checkpoint_every": 2,
        "max_pixels": 56 * 56,
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return read_recipe(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def untimed(metrics: Path) -> list[dict]:
    """The lines of metrics.jsonl without what differs from run to run."""
    timed = ("time", "step_time")
    return [
        {k: v for k, v in line.items() if k not in timed and not k.startswith("seconds")}
        for line in lines(metrics)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }
    assert found
    return found


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def reward_on_a_letter(monkeypatch, letter: str = "e"):
    """A score that a random model can give, and earns as its reward: how often a letter comes.

    Without it the model answers nothing that could be read, so all advantages are 0 and no weight changes.
    """

    def read(text, **options):
        return response.Response(float(text.count(letter)), None, None)

    monkeypatch.setitem(response.READINGS, "strict", read)
    monkeypatch.setitem(rl2r.REWARDS, "fidelity", lambda scores, mos, datasets: scores)
