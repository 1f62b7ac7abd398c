"""SRCC and PLCC with human MOS before and after RL2R on BIQ2021, tested on BIQ2021 and, zero-shot, on AGIQA-3K.

    python benchmarks/rl2r_biq2021.py --data FOLDER --json benchmarks/results/rl2r_biq2021.json

FOLDER holds biq2021/ (train.csv, test.csv, images/) and agiqa3k/ (data.csv, images/). Training starts from `nano-base`,
which has seen synthetic distortions only and no human score. Each seed trains with `rl2r_biq2021.yaml` on BIQ2021's
train part. Both test sets are scored by the mean of K = 6 reasonings. AGIQA-3K is never trained on.
Runs and scores are kept in --work, so a second call resumes. The figure is drawn beside the JSON.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from common import rated_parser, this_command, write_result
from rich.console import Console
from rich.table import Table

from recipes.nano.measure import file_stem, summary, test_sets
from visualquality.data.manifest import Manifest
from visualquality.evaluate.run_page import read_metrics
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.score.resume import score_all
from visualquality.score.scorer import Scorer
from visualquality.train.recipe import read_recipe
from visualquality.train.run import FINAL, train

mpl.use("Agg")
import matplotlib.pyplot as plt

RECIPE = Path(__file__).with_suffix(".yaml")
BASE = "nano-base"


def measure(model: str, manifest: Manifest, journal: Path, console: Console) -> dict[str, Any]:
    """The `summary` of one model on one set; the ratings are kept in `journal`."""
    images = [str(row.image) for row in manifest.rows]
    scorer = Scorer(model, batch=16)
    ratings = list(score_all(scorer, images, journal=journal, console=console))
    return summary(manifest.rows, ratings)


def run_seed(seed: int, data: Path, work: Path, base: str, console: Console) -> Path:
    """Train with this seed, or resume; the folder of the run."""
    output = work / f"seed{seed}"
    if not (output / FINAL / "model.safetensors").exists():
        folder = (data / "biq2021").resolve()
        overrides = (
            f"seed={seed}",
            f"model={base}",
            f"data.0.manifest={folder / 'train.csv'}",
            f"data.0.images={folder / 'images'}",
        )
        train(
            read_recipe(RECIPE, overrides, output),
            resume=(output / "recipe.yaml").exists(),
            console=console,
        )
    return output


def row(seed: int, name: str, before: dict, after: dict) -> dict[str, object]:
    """A line of the result: one seed on one test set."""
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
            # A moving average over 11 steps.
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


def main() -> None:
    options = rated_parser(__doc__, "runs/rl2r_biq2021")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument(
        "--base", default=BASE, help="start from another model, a folder for instance"
    )
    args = options.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    sets = test_sets(args.data)
    args.work.mkdir(parents=True, exist_ok=True)
    before = {
        name: measure(args.base, manifest, args.work / f"base_{file_stem(name)}.jsonl", console)
        for name, manifest in sets.items()
    }
    rows, runs = [], {}
    for seed in args.seeds:
        output = run_seed(seed, args.data, args.work, args.base, console)
        runs[seed] = read_metrics(output / "metrics.jsonl")
        for name, manifest in sets.items():
            journal = output / f"{file_stem(name)}.jsonl"
            after = measure(str(output / FINAL), manifest, journal, console)
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
            "base_weights": load(args.base, device="cpu").digest,
            "recipe": RECIPE.name,
            "base": before,
            "rows": rows,
            "curves": curves,
        }
        write_result(args.json, this_command(FOLDER=args.data), result)
        draw(rows, runs, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
