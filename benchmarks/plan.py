"""The memory that `train --dry-run` announces against what the same run takes.

    python benchmarks/plan.py --json benchmarks/results/plan.json

Each run has two steps with a randomly initialised Qwen2.5-VL of about 30 M parameters, on a CPU in float32, in a
process of its own. Ours is the plan; theirs is the resident memory at its highest, minus what the process had before it
loaded the model. By then it has trained a far smaller model for a step, since libraries load parts of themselves when
they are first used, which is no memory of the run. The ratio is measured / planned. What no CPU can show (bfloat16,
several devices, ZeRO-3) is planned by the same arithmetic with other numbers of bytes, and was not measured.
"""

import gc
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from common import Row, finish, in_fresh_process, parser, resident_megabytes, row
from qwen import SIZES, save
from rich.console import Console
from step import rated_images

from small_models import small_qwen
from visualquality.process import quiet_libraries

IMAGES, SIDE, TOKENS = 2, 224, 32
# Text and vision as in qwen.SIZES. Large enough that what libraries take beside does not count.
MIDDLE = ((512, 8, 8, 2, 1536, 8192, True), (256, 6, 4, 512, [5]))

CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, checkpointing": {"gradient_checkpointing": True},
    "all weights, two parts of a batch": {"optimizer": {"accumulation": 2}},
    "vision frozen, no frozen policy": {"freeze_vision": True, "rl2r": {"kl_weight": 0}},
    "LoRA of rank 16": {"lora": {"rank": 16, "alpha": 32}},
}


def write_recipe(folder: Path, model: str, changes: dict[str, Any]) -> Path:
    tree: dict[str, Any] = {
        "model": str(folder / model),
        "data": [{"manifest": str(folder / "ratings.csv")}],
        "output": str(folder / f"run-{model}"),
        "rl2r": {"responses": 6, "max_new_tokens": TOKENS},
        "optimizer": {"steps": 2, "images_per_device": IMAGES},
        "max_pixels": SIDE**2,
        "checkpoint_every": 10_000,
    }
    for name, value in changes.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def planned_and_measured(changes: dict[str, Any]) -> tuple[float, float]:
    """MB."""
    from visualquality.train.memory import memory, model_size
    from visualquality.train.recipe import read_recipe
    from visualquality.train.run import train

    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_fresh_process(save_model, folder / "model")
        rated_images(folder, 8, SIDE)
        small_qwen(folder / "small", "qwen2_5_vl")
        recipe = read_recipe(write_recipe(folder, "model", changes))
        planned = memory(recipe, model_size(recipe), cuda=False).peak / 1e6
        # No token ends a response, so all of them have the full length, as the plan has it.
        with patch("visualquality.train.trainer.eos_token_ids", lambda *_: [-1]):
            small = changes | {"optimizer": {"steps": 1}, "max_pixels": 56**2}
            train(read_recipe(write_recipe(folder, "small", small)), console=Console(quiet=True))
            gc.collect()
            before = resident_megabytes()
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            train(recipe, console=Console(quiet=True))
        return planned, resident_megabytes("VmHWM") - before


def save_model(folder: Path) -> None:
    SIZES["middle"] = MIDDLE
    save(folder, "middle")


def measure(case: str) -> Row:
    planned, measured = in_fresh_process(planned_and_measured, CASES[case])
    print(f"{case}: planned {planned:.0f} MB, measured {measured:.0f} MB", flush=True)
    return row(case, planned, measured, "MB")


def main() -> None:
    args = parser(__doc__).parse_args()
    cases = list(CASES)[:1] if args.short else list(CASES)
    rows = [measure(case) for case in cases]
    finish("Memory of a run: planned (ours) against measured (theirs)", rows, args)


if __name__ == "__main__":
    main()
