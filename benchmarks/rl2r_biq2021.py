"""RL2R on human ratings: from nano's supervised base to BIQ2021, and zero-shot to AGIQA-3K.

    python benchmarks/rl2r_biq2021.py --data FOLDER --json benchmarks/results/rl2r_biq2021.json

FOLDER holds biq2021/ (train.csv, test.csv, images/) and agiqa3k/ (data.csv, images/). The base (`nano-base`) has seen
synthetic distortions only, and no human score. Each seed trains with `rl2r_biq2021.yaml` on BIQ2021's train part; both
test sets are scored by the mean of K = 6 reasonings, before and after. AGIQA-3K is only tested on.
Runs and scores are kept in --work, so that the command goes on where it stopped; the figure is drawn beside the JSON.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

from visualquality.data.manifest import Manifest, Row
from visualquality.evaluate.agreement import agreement
from visualquality.evaluate.run_page import read_metrics
from visualquality.models.load import load
from visualquality.quiet import quiet_libraries
from visualquality.score.batch import score_all
from visualquality.score.rating import Rating
from visualquality.score.scorer import Scorer
from visualquality.train.recipe import read_recipe
from visualquality.train.run import FINAL, train

mpl.use("Agg")
import matplotlib.pyplot as plt

RECIPE = Path(__file__).with_suffix(".yaml")
BASE = "nano-base"


def train_set(data: Path) -> Manifest:
    biq = data / "biq2021"
    return Manifest.read(
        biq / "train.csv", columns={"image": "Image Name", "mos": "MOS"}, images=biq / "images"
    )


def test_sets(data: Path) -> dict[str, Manifest]:
    biq, agiqa = data / "biq2021", data / "agiqa3k"
    return {
        "BIQ2021 test": Manifest.read(
            biq / "test.csv", columns={"image": "Image Name", "mos": "MOS"}, images=biq / "images"
        ),
        "AGIQA-3K": Manifest.read(
            agiqa / "data.csv",
            columns={"image": "name", "mos": "mos_quality"},
            images=agiqa / "images",
        ),
    }


def measure(model: str, manifest: Manifest, journal: Path, console: Console) -> dict[str, Any]:
    """Agreement with the MOS, mean std over K, and readable answers of one model on one set."""
    images = [str(row.image) for row in manifest.rows]
    return summary(
        manifest.rows,
        list(score_all(Scorer(model, batch=16), images, journal=journal, console=console)),
    )


def summary(rows: Sequence[Row], ratings: Sequence[Rating]) -> dict[str, Any]:
    """Agreement with the MOS, mean std, and the share of readable answers (1 where none was drawn)."""
    found = agreement([r.score for r in ratings], [row.mos for row in rows])
    samples = [s for r in ratings for s in r.samples]
    return {
        "n": found.n + found.n_unreadable,
        "srcc": found.srcc.to_dict(),
        "plcc": found.plcc.to_dict(),
        "plcc_logistic": found.plcc_logistic.to_dict(),
        "std": float(np.mean([r.std for r in ratings if r.std is not None])),
        "readable": sum(s is not None for s in samples) / len(samples) if samples else 1.0,
    }


def run_seed(seed: int, data: Path, work: Path, base: str, console: Console) -> Path:
    output = work / f"seed{seed}"
    if not (output / FINAL / "model.safetensors").exists():
        folder = (data / "biq2021").resolve()
        where = (f"data.0.manifest={folder / 'train.csv'}", f"data.0.images={folder / 'images'}")
        overrides = (f"seed={seed}", f"model={base}", *where)
        train(
            read_recipe(RECIPE, overrides, output),
            resume=(output / "recipe.yaml").exists(),
            console=console,
        )
    return output


def row(seed: int, name: str, before: dict, after: dict) -> dict[str, object]:
    return {
        "seed": seed,
        "test": name,
        "n": after["n"],
        "base_srcc": before["srcc"]["value"],
        "srcc": after["srcc"]["value"],
        "srcc_95": [after["srcc"]["low"], after["srcc"]["high"]],
        "base_plcc": before["plcc"]["value"],
        "plcc": after["plcc"]["value"],
        "plcc_95": [after["plcc"]["low"], after["plcc"]["high"]],
        "base_std": before["std"],
        "std": after["std"],
        "base_readable": before["readable"],
        "readable": after["readable"],
    }


def draw(rows: list[dict], runs: dict[int, list[dict]], figure: Path) -> None:
    """Reward and std along the steps, and SRCC before and after."""
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for seed, metrics in runs.items():
        steps = [m["step"] for m in metrics]
        for axis, name in zip(axes, ("reward/fidelity", "score_std"), strict=False):
            values = np.array([m[name] for m in metrics], dtype=float)
            smooth = np.convolve(np.pad(values, 5, mode="edge"), np.ones(11) / 11, mode="valid")
            axis.plot(steps, smooth, label=f"seed {seed}")
    axes[0].set(title="Fidelity reward (Eq. 3)", xlabel="step", ylabel="mean over the batch")
    axes[1].set(
        title="Std of the K scores (as in Fig. 3)",
        xlabel="step",
        ylabel="mean over images, training",
    )
    axes[0].legend(frameon=False)
    sets = list(dict.fromkeys(r["test"] for r in rows))
    for i, name in enumerate(sets):
        mine = [r for r in rows if r["test"] == name]
        axes[2].scatter(
            [i - 0.12] * len(mine),
            [r["base_srcc"] for r in mine],
            color="0.5",
            label=None if i else "base",
        )
        label = None if i else "after RL2R"
        axes[2].scatter([i + 0.12] * len(mine), [r["srcc"] for r in mine], color="C0", label=label)
    axes[2].set(
        title="SRCC with human ratings",
        xticks=range(len(sets)),
        xticklabels=sets,
        xlim=(-0.6, len(sets) - 0.4),
    )
    axes[2].legend(frameon=False, loc="upper right")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(figure, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/rl2r_biq2021"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--base", default=BASE, help="start from another model, a folder for instance"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    quiet_libraries()
    console = Console(stderr=True)
    sets = test_sets(args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    slug = {name: name.split()[0].lower() for name in sets}
    before = {
        n: measure(args.base, m, args.work / f"base_{slug[n]}.jsonl", console)
        for n, m in sets.items()
    }
    rows, runs = [], {}
    for seed in args.seeds:
        output = run_seed(seed, args.data, args.work, args.base, console)
        runs[seed] = read_metrics(output / "metrics.jsonl")
        for name, manifest in sets.items():
            after = measure(str(output / FINAL), manifest, output / f"{slug[name]}.jsonl", console)
            rows.append(row(seed, name, before[name], after))
    table = Table(
        "seed",
        "test set",
        "n",
        "SRCC base",
        "SRCC",
        "PLCC base",
        "PLCC",
        "std base",
        "std",
        "readable",
    )
    for r in rows:
        low, high = r["srcc_95"]
        numbers = (
            r["base_srcc"],
            f"{r['srcc']:.3f} [{low:.3f}, {high:.3f}]",
            *(r[k] for k in ("base_plcc", "plcc")),
        )
        shown = [
            v if isinstance(v, str) else f"{v:.3f}" for v in (*numbers, r["base_std"], r["std"])
        ]
        table.add_row(str(r["seed"]), str(r["test"]), str(r["n"]), *shown, f"{r['readable']:.1%}")
    Console(width=140).print(table)
    if args.json:
        curves = {
            str(seed): [
                {k: m[k] for k in ("step", "reward/fidelity", "score_std", "kl", "readable")}
                for m in metrics[::10]
            ]
            for seed, metrics in runs.items()
        }
        result = {
            "machine": f"{os.cpu_count()} CPU cores, no GPU, {platform.system()}, Python {platform.python_version()}",
            "command": shlex.join(
                [
                    "python",
                    "benchmarks/rl2r_biq2021.py",
                    *("FOLDER" if a == str(args.data) else a for a in arguments or sys.argv[1:]),
                ]
            ),
            "base_weights": load(args.base, device="cpu").digest,
            "recipe": RECIPE.name,
            "base": before,
            "rows": rows,
            "curves": curves,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
        draw(rows, runs, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
