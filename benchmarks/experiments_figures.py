"""The figures of experiments.py."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw_rows(result: dict[str, Any], path: Path) -> None:
    """SRCC of each row on each test set: a dot a seed, a bar for their mean."""
    labels = list(dict.fromkeys(r["row"] for r in result["rows"]))
    tests = list(dict.fromkeys(r["test"] for r in result["rows"]))
    height = 0.9 + 0.34 * len(labels)
    fig, axes = plt.subplots(1, len(tests), figsize=(9, height), sharey=True, layout="constrained")
    for axis, test in zip(axes, tests, strict=True):
        for at, label in enumerate(labels):
            values = [r["srcc"]["value"] for r in result["rows"] if r["row"] == label and r["test"] == test]
            axis.plot(values, [at] * len(values), "o", color="C0", alpha=0.6, markersize=5)
            axis.plot([np.mean(values)] * 2, [at - 0.3, at + 0.3], color="black", linewidth=1.5)
        axis.set(title=f"{test}, SRCC", yticks=range(len(labels)), yticklabels=labels)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="0.9")
    axes[0].invert_yaxis()
    fig.savefig(path, dpi=130)
    plt.close(fig)


def draw_training(runs: Sequence[Path], path: Path) -> None:
    """As the paper's Fig. 3: std over the K answers along the steps, mean over the images of each set and the runs."""
    stds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in (json.loads(line) for probes in runs for line in probes.read_text().splitlines()):
        read = [s for s in record["scores"][0] if s is not None]
        if len(read) > 1:
            stds[record["dataset"]][record["step"]].append(float(np.std(read, ddof=1)))
    fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, steps in stds.items():
        axis.plot(list(steps), [np.mean(values) for values in steps.values()], "o-", markersize=3, label=name)
    over = f"mean over images and {len(runs)} seeds" if len(runs) > 1 else "mean over images"
    axis.set(xlabel="step", ylabel=f"std over K = 6, {over}", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)
