"""The figures of experiments.py."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw_rows(result: dict[str, Any], path: Path) -> None:
    """SRCC of each row on each test set: a dot for each seed, and a bar for their mean."""
    labels = list(dict.fromkeys(r["row"] for r in result["rows"]))
    tests = list(dict.fromkeys(r["test"] for r in result["rows"]))
    height = 0.9 + 0.34 * len(labels)
    fig, axes = plt.subplots(1, len(tests), figsize=(9, height), sharey=True, layout="constrained")
    for axis, test in zip(axes, tests, strict=True):
        for at, label in enumerate(labels):
            values = [
                r["srcc"]["value"]
                for r in result["rows"]
                if r["row"] == label and r["test"] == test
            ]
            axis.plot(values, [at] * len(values), "o", color="C0", alpha=0.6, markersize=5)
            axis.plot([np.mean(values)] * 2, [at - 0.3, at + 0.3], color="black", linewidth=1.5)
        axis.set(title=f"{test}, SRCC", yticks=range(len(labels)), yticklabels=labels)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="0.9")
    axes[0].invert_yaxis()
    fig.savefig(path, dpi=130)
    plt.close(fig)


def draw_training(stds: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    """Like the paper's Fig. 3: for each set, the std over the K answers along the steps, averaged over seeds.

    `stds`: seed -> set -> (step, mean std of its images).
    """
    fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name in next(iter(stds.values())):
        found: dict[int, list[float]] = defaultdict(list)
        for curves in stds.values():
            for step, std in curves[name]:
                found[step].append(std)
        axis.plot(
            list(found),
            [np.mean(values) for values in found.values()],
            "o-",
            markersize=3,
            label=name,
        )
    title = f"mean over images and {len(stds)} seeds" if len(stds) > 1 else "mean over images"
    axis.set(xlabel="step", ylabel="std over K = 6", ylim=(0, None), title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)
