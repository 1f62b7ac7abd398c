"""A small Qwen2.5-VL for `benchmarks/compat.py`: random weights, then taught the form of answers by our own training.

    python benchmarks/compat_model.py runs/compat

It sees eight drawn pictures, and answers most questions in a form that can be read; its scores mean nothing. The size
of its attention's heads is 64, since vLLM has no kernels for smaller ones. Runs in .venv, where training is installed.
"""

import argparse
from pathlib import Path

import common  # noqa: F401  # puts tests/ on the path
import yaml

from conftest import picture
from small_models import small_qwen
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

STEPS = 120


def make_model(folder: Path) -> Path:
    """The folder of the trained model, inside `folder`."""
    start = small_qwen(folder / "start", "qwen2_5_vl", head_size=64)
    lines = ["image,mos,reasoning"]
    for i in range(8):
        picture(i).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{1 + i / 2},The image is sharp.")
    (folder / "drawn.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {
        "method": "sft",
        "model": str(start.resolve()),
        "data": [{"manifest": "drawn.csv", "mos_range": [1, 5]}],
        "output": str((folder / "run").resolve()),
        "optimizer": {"steps": STEPS, "images_per_device": 8, "learning_rate": 3e-3},
        "checkpoint_every": STEPS,
    }
    (folder / "sft.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return train(read_recipe(folder / "sft.yaml"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    folder = options.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    print(make_model(folder))


if __name__ == "__main__":
    main()
