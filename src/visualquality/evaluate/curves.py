"""The curves of an RL2R run, from its `metrics.jsonl`; `curves.html.jinja` shows them."""

import json
import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .. import rl2r
from ..errors import UserError
from .page import LIGHT, Panel, draw

MEANS = 15  # a curve of many steps gets a running mean, over this part of them
PART = "reward/"  # what the metrics of a reward's parts begin with
STROKES = [
    (LIGHT["blue"], "-"),
    (LIGHT["violet"], "--"),
    (LIGHT["green"], ":"),
    (LIGHT["orange"], "-."),
]


def read_metrics(path: Path) -> list[dict]:
    """The objects of a run's `metrics.jsonl`, in order; blank lines are skipped.

    Raises UserError where the file cannot be read, and naming the line that is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give the metrics.jsonl of a run"
        ) from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(
                    f"line {number} of {path} is not JSON ({error.msg}): remove it"
                ) from error
            if not isinstance(records[-1], dict):
                raise UserError(f"line {number} of {path} is not a JSON object: remove it")
    return records


def curves(metrics: Sequence[dict]) -> dict[str, Any]:
    """What `curves.html.jinja` shows of `metrics`; where a record has no number, a panel's note says so."""
    window = max(1, len(metrics) // MEANS)
    parts = {
        key: key.removeprefix(PART)
        for key in sorted({k for r in metrics for k in r if k.startswith(PART)})
    }
    return {
        "window": window,
        "meaning": {part: rl2r.description(part) for part in parts.values()},
        "reward": _curves(metrics, window, {"reward": "total"} | parts),
        "score_std": _curves(metrics, window, {"score_std": "mean standard deviation"}),
        "kl": _curves(metrics, window, {"kl": "KL divergence"}),
        "readable": [
            v for v in (_number(record.get("readable")) for record in metrics) if not math.isnan(v)
        ],
    }


def _number(value: Any) -> float:
    """A finite number as it is, all else as NaN, which is a gap in a line."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _curves(metrics: Sequence[dict], window: int, labels: dict[str, str]) -> Panel:
    """Lines of metrics over the training steps; `labels` is metric -> name in the legend."""
    steps = np.array([_number(record.get("step")) for record in metrics])
    lines = {key: steps * 0 + [_number(record.get(key)) for record in metrics] for key in labels}
    found = {key: line[np.isfinite(line)] for key, line in lines.items()}
    drawn = [key for key in labels if len(found[key])]
    if not drawn:
        keys = " or ".join(f"“{key}”" for key in labels)
        return Panel(
            None, f"Nothing to plot: no line of the metrics has a step and a number for {keys}."
        )
    gaps = {key: len(steps) - len(line) for key, line in found.items() if len(line) < len(steps)}
    note = ", ".join(f"“{key}” in {count} of {len(steps)}" for key, count in gaps.items())
    ends = [
        f"{labels[key]} {found[key][0]:.3g} at first, {found[key][-1]:.3g} at last" for key in drawn
    ]

    def plot(axes: Axes) -> None:
        for key, (colour, dashes) in zip(drawn, cycle(STROKES)):
            _line(
                axes, steps, lines[key], window, color=colour, linestyle=dashes, label=labels[key]
            )
        if min(found[key].min() for key in drawn) >= 0:
            axes.set_ylim(0, 1.08 * max(found[key].max() for key in drawn) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(labels) > 1:
            axes.figure.legend(
                loc="outside upper left", ncols=3, handlelength=2.2, columnspacing=1.2
            )

    alt = f"Line plot over {len(steps)} training steps: {'; '.join(ends)}."
    svg = draw(next(iter(labels)), alt, (3.3, 2.3), plot, xlabel="training step")
    return Panel(svg, note and f"Lines of the metrics without a number, not drawn: {note}.")


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, window: int, **stroke: Any) -> None:
    """A line with its gaps; where there is a running mean, that boldly and the steps faintly."""
    if window == 1:
        axes.plot(steps, values, marker="o", markersize=2.5, linewidth=1.6, clip_on=False, **stroke)
        return
    box, known = np.ones(window), np.isfinite(values)
    total, count = (
        np.convolve(np.where(known, values, 0), box, "same"),
        np.convolve(known, box, "same"),
    )
    mean = np.where(known, total / np.maximum(count, 1), np.nan)
    axes.plot(steps, values, color=stroke["color"], alpha=0.3, linewidth=0.7)
    axes.plot(steps, mean, linewidth=1.8, **stroke)
