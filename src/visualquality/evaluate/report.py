"""One calm HTML page about an RL2R run: its curves, its agreement with people before and after, and examples.

What the page says in words is in `report.html.jinja`.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..errors import UserError
from .curves import curves, read_metrics
from .page import LIGHT, MAX_POINTS, Panel, draw, evenly, spread, thumbnail, widened, write_page

__all__ = ["Prediction", "SummaryRow", "read_metrics", "write_training_report"]

EXAMPLES = 8  # cards


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image whose true score is known.

    `mos` is on the scale of its data set; `score` is in [1, 5], or None where `problem` says why; `std` is of the
    samples behind `score`, or None for fewer than two. NaN and infinity are refused (`ValueError`).
    """

    image: Path
    mos: float
    score: float | None
    std: float | None
    reasoning: str | None
    problem: str | None

    def __post_init__(self) -> None:
        numbers = (self.mos, self.score, self.std)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(
                f"{self.image}: mos, score and std are finite numbers or None, not {numbers}"
            )


@dataclass(frozen=True)
class SummaryRow:
    """One model's agreement with the true scores of `n` images. A number that is not defined is NaN.

    `srcc` and `plcc` are in [-1, 1], `readable` is a share in [0, 1], `mean_std` is in points of the score.
    """

    name: str
    srcc: float
    plcc: float
    mean_std: float
    readable: float
    n: int


Pairs = list[tuple[Prediction, Prediction]]


def write_training_report(
    output: Path,
    *,
    title: str,
    metrics: Sequence[dict],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    summary: Sequence[SummaryRow],
    notes: Sequence[str],
) -> None:
    """Write the page about a run to the file `output`; its folder is made where it is missing.

    Args:
        metrics: the objects of `metrics.jsonl` (`read_metrics`); where one has no number, the page says so.
        before, after: predictions of the same images by the model before and after training, in any order.
        summary: the rows of the table, which is not computed here.
        notes: sentences to stand under the title.

    Raises UserError where `before` and `after` are not of the same images, or `output` cannot be written. An image
    that cannot be opened is no error: its card says so. Of a run without predictions, `run_report` writes a page.
    """
    pairs = _pair(before, after)
    write_page(
        output,
        "report.html.jinja",
        title=title,
        notes=notes,
        summary=summary,
        undefined=any(
            value != value for row in summary for value in astuple(row)
        ),  # NaN is not equal to itself
        **curves(metrics),
        scatters=list(zip(("before", "after"), _scatters(pairs), strict=True)),
        examples=[
            (old, new, *thumbnail(old.image))
            for old, new in spread(pairs, lambda p: p[0].mos, EXAMPLES)
        ],
        images=len(pairs),
    )


def _pair(before: Sequence[Prediction], after: Sequence[Prediction]) -> Pairs:
    """(before, after) of each image, from the lowest true score to the highest."""
    old, new = ({(p.mos, str(p.image)): p for p in predictions} for predictions in (before, after))
    if len(old) + len(new) < len(before) + len(after):
        raise UserError(
            "an image is predicted twice: give each image once before and once after training"
        )
    for mos, image in sorted(old.keys() ^ new.keys()):
        raise UserError(
            f"{image}, of mos {mos:g}, is predicted only before or only after training: give both"
        )
    return [(old[key], new[key]) for key in sorted(old)]


def _scatters(pairs: Pairs) -> list[Panel]:
    """Predicted against true scores before and after training, on the same axes."""
    shown = evenly(pairs, MAX_POINTS)
    mos = [old.mos for old, _ in shown] or [1.0, 5.0]
    ends = [
        p.score + sign * (p.std or 0)
        for pair in shown
        for p in pair
        if p.score is not None
        for sign in (-1, 1)
    ]
    limits = widened(mos), widened([1.0, 5.0, *ends])
    before = _scatter("before", [old for old, _ in shown], limits, "orange", "s")
    return [before, _scatter("after", [new for _, new in shown], limits, "blue", "o")]


def _scatter(
    name: str, predictions: Sequence[Prediction], limits: tuple[Any, Any], colour: str, marker: str
) -> Panel:
    read = [
        (p.mos, p.score, p.std or 0) for p in predictions if p.score is not None
    ]  # a bar of length 0 is not seen
    count = f"{len(read)} of these {len(predictions)} images have a score."
    if not read:
        return Panel(None, f"Nothing to plot: {count}")
    mos, score, std = zip(*read, strict=True)

    def plot(axes: Axes) -> None:
        axes.errorbar(mos, score, std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.7)
        axes.plot(
            mos, score, marker, color=LIGHT[colour], markersize=3.5, markeredgewidth=0, alpha=0.8
        )

    labels = {"xlabel": "true score (MOS)", "ylabel": "predicted score"}
    alt = f"Scatter plot of predicted against true scores {name} training. {count}"
    return Panel(draw(name, alt, (4.2, 3.1), plot, **labels, xlim=limits[0], ylim=limits[1]), count)
