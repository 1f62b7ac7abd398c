"""The figures of experiments.py, and what its runs say of the probe images along the steps."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from visualquality.evaluate.page import pick_evenly
from visualquality.evaluate.run_images import read_answers


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


def words(probes: Path) -> dict[str, Any]:
    """Like the paper's Fig. 4: the answers about one generated image (the middle one by MOS) along the steps."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for visit in read_answers(probes):
        if visit.image.dataset.startswith("AGIQA"):
            found[visit.image].append(visit)
    key = sorted(found, key=lambda k: k.mos)[len(found) // 2]
    steps = [
        {"step": visit.step, "score": visit.score, "std": visit.std, "words": visit.words}
        for visit in pick_evenly(found[key], 6)
        if visit.score is not None and visit.std is not None
    ]
    return {"image": key.name, "dataset": "AGIQA-3K", "mos": key.mos, "steps": steps}


def std_curves(probes: Path) -> dict[str, list[tuple[int, float]]]:
    """Like the paper's Fig. 3: for each set, (step, std over the K answers, averaged over its images)."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for visit in read_answers(probes):
        if visit.std is not None:
            found[visit.image.dataset][visit.step].append(visit.std)
    return {
        name: [(step, float(np.mean(stds))) for step, stds in steps.items()]
        for name, steps in found.items()
    }


def along_training(
    rows: list[dict[str, Any]], work: Path, earlier: dict[str, Any]
) -> dict[str, Any]:
    """The answers of the first seed and the std curves of all, from the runs or, where one is not here, `earlier`."""
    probes = {str(row["seed"]): work / row["run"] / "run" / "probes.jsonl" for row in rows}
    first = next(iter(probes.values()))
    curves = {}
    for seed, path in probes.items():
        curves[seed] = std_curves(path) if path.exists() else earlier["std"][seed]
    return {"words": words(first) if first.exists() else earlier["words"], "std": curves}
