"""One calm HTML page about an RL2R run: its curves, its agreement with people before and after, and examples.

The page stands alone: figures are inline SVG, thumbnails are base64 JPEG, and nothing is fetched from a network.
The same input gives the same bytes. What the page says in words is in `report.html.jinja`.
"""

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files
from io import BytesIO, StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.images import open_image
from ..errors import UserError

EXAMPLES = 8  # cards
THUMBNAIL = 192  # pixels, the longer side
MAX_POINTS = 1000  # in a scatter plot: more would be a page of many megabytes, and one blot
MEANS = 15  # a curve of many steps gets a running mean, over this part of them
PART = "reward/"  # what the metrics of a reward's parts begin with

# name -> (light, dark). Figures are drawn in the light colour, which then becomes the CSS variable of that name, so
# that they follow the page. Line styles and markers tell apart what colours may not.
THEME = {
    "page": ("#fafaf8", "#16181b"),
    "panel": ("#ffffff", "#1e2125"),
    "text": ("#23272e", "#e4e6e9"),
    "muted": ("#5c6470", "#a2aab5"),
    "rule": ("#dfe2e6", "#363b42"),
    "orange": ("#c2540a", "#f0a35e"),
    "blue": ("#0b6bb0", "#6cb8ee"),
    "green": ("#0a7d5c", "#4cc9a2"),
    "violet": ("#9a4c95", "#d69bd2"),
}
LIGHT = {name: light for name, (light, _) in THEME.items()}
STROKES = [(LIGHT["blue"], "-"), (LIGHT["violet"], "--"), (LIGHT["green"], ":"), (LIGHT["orange"], "-.")]
STYLE: dict[str, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), LIGHT["muted"]),
    "text.color": LIGHT["text"],
    "grid.color": LIGHT["rule"],
    "axes.grid": True,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "font.size": 8.5,
    "text.parse_math": False,  # the name of a metric may hold a dollar sign
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "visualquality",  # ids would be random
}


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
            raise ValueError(f"{self.image}: mos, score and std are finite numbers or None, not {numbers}")


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


@dataclass(frozen=True)
class Panel:
    """A figure, or None where there is nothing to draw, and what its reader must know of missing numbers."""

    svg: Markup | None
    note: str


Pairs = list[tuple[Prediction, Prediction]]


def read_metrics(path: Path) -> list[dict]:
    """The objects of a run's `metrics.jsonl`, in order; blank lines are skipped.

    Raises UserError where the file cannot be read, and naming the line that is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the metrics.jsonl of a run") from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"line {number} of {path} is not JSON ({error.msg}): remove it") from error
            if not isinstance(records[-1], dict):
                raise UserError(f"line {number} of {path} is not a JSON object: remove it")
    return records


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
    that cannot be opened is no error: its card says so.
    """
    pairs = _pair(before, after)
    window = max(1, len(metrics) // MEANS)
    parts = {key: key.removeprefix(PART) for key in sorted({k for r in metrics for k in r if k.startswith(PART)})}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        title=title,
        notes=notes,
        theme=THEME,
        summary=summary,
        undefined=any(value != value for row in summary for value in astuple(row)),  # NaN is not equal to itself
        parts=parts.values(),
        reward=_curves(metrics, window, {"reward": "total"} | parts),
        score_std=_curves(metrics, window, {"score_std": "mean standard deviation"}),
        kl=_curves(metrics, window, {"kl": "KL divergence"}),
        readable=[v for v in (_number(record.get("readable")) for record in metrics) if not math.isnan(v)],
        window=window,
        scatters=zip(("before", "after"), _scatters(pairs), strict=True),
        max_points=MAX_POINTS,
        examples=[(old, new, *_thumbnail(old.image)) for old, new in _examples(pairs)],
        images=len(pairs),
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Half a character, as a cut-off response or an odd file name may hold, is written as a question mark.
        output.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): give a file in a writable folder") from error


def _number(value: Any) -> float:
    """A finite number as it is, all else as NaN, which is a gap in a line."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _pair(before: Sequence[Prediction], after: Sequence[Prediction]) -> Pairs:
    """(before, after) of each image, from the lowest true score to the highest."""
    old, new = ({(p.mos, str(p.image)): p for p in predictions} for predictions in (before, after))
    if len(old) + len(new) < len(before) + len(after):
        raise UserError("an image is predicted twice: give each image once before and once after training")
    for mos, image in sorted(old.keys() ^ new.keys()):
        raise UserError(f"{image}, of mos {mos:g}, is predicted only before or only after training: give both")
    return [(old[key], new[key]) for key in sorted(old)]


def _examples(pairs: Pairs) -> Pairs:
    """At most `EXAMPLES` pairs, those nearest to evenly spaced true scores, in the order of `pairs` (by mos)."""
    if len(pairs) <= EXAMPLES:
        return pairs
    left = list(range(len(pairs)))
    for target in np.linspace(pairs[0][0].mos, pairs[-1][0].mos, EXAMPLES):
        left.remove(min(left, key=lambda i: abs(pairs[i][0].mos - target)))
    return [pair for i, pair in enumerate(pairs) if i not in left]


def _thumbnail(image: Path) -> tuple[str | None, str | None]:
    """A data URI of a JPEG of at most `THUMBNAIL` pixels a side, or why there is none."""
    try:
        opened = open_image(image)
    except UserError as error:
        return None, str(error).replace(str(image), image.name)
    opened.thumbnail((THUMBNAIL, THUMBNAIL))
    opened.save(buffer := BytesIO(), "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), None


def _curves(metrics: Sequence[dict], window: int, labels: dict[str, str]) -> Panel:
    """Lines of metrics over the training steps; `labels` is metric -> name in the legend."""
    steps = np.array([_number(record.get("step")) for record in metrics])
    lines = {key: steps * 0 + [_number(record.get(key)) for record in metrics] for key in labels}
    found = {key: line[np.isfinite(line)] for key, line in lines.items()}
    drawn = [key for key in labels if len(found[key])]
    if not drawn:
        keys = " or ".join(f"“{key}”" for key in labels)
        return Panel(None, f"Nothing to plot: no line of the metrics has a step and a number for {keys}.")
    gaps = {key: len(steps) - len(line) for key, line in found.items() if len(line) < len(steps)}
    note = ", ".join(f"“{key}” in {count} of {len(steps)}" for key, count in gaps.items())
    ends = [f"{labels[key]} {found[key][0]:.3g} at first, {found[key][-1]:.3g} at last" for key in drawn]
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(3.3, 2.3), layout="constrained")
        axes = figure.add_subplot(xlabel="training step")
        for key, (colour, dashes) in zip(drawn, cycle(STROKES)):
            _line(axes, steps, lines[key], window, color=colour, linestyle=dashes, label=labels[key])
        if min(found[key].min() for key in drawn) >= 0:
            axes.set_ylim(0, 1.08 * max(found[key].max() for key in drawn) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(labels) > 1:
            figure.legend(loc="outside upper left", ncols=3, handlelength=2.2, columnspacing=1.2)
        svg = _svg(figure, next(iter(labels)), f"Line plot over {len(steps)} training steps: {'; '.join(ends)}.")
    return Panel(svg, note and f"Lines of the metrics without a number, not drawn: {note}.")


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, window: int, **stroke: Any) -> None:
    """A line with its gaps; where there is a running mean, that boldly and the steps faintly."""
    if window == 1:
        axes.plot(steps, values, marker="o", markersize=2.5, linewidth=1.6, clip_on=False, **stroke)
        return
    box, known = np.ones(window), np.isfinite(values)
    total, count = np.convolve(np.where(known, values, 0), box, "same"), np.convolve(known, box, "same")
    mean = np.where(known, total / np.maximum(count, 1), np.nan)
    axes.plot(steps, values, color=stroke["color"], alpha=0.3, linewidth=0.7)
    axes.plot(steps, mean, linewidth=1.8, **stroke)


def _scatters(pairs: Pairs) -> list[Panel]:
    """Predicted against true scores before and after training, on the same axes."""
    shown = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_POINTS)).astype(int)]
    mos = [old.mos for old, _ in shown] or [1.0, 5.0]
    ends = [p.score + sign * (p.std or 0) for pair in shown for p in pair if p.score is not None for sign in (-1, 1)]
    limits = _widened(mos), _widened([1.0, 5.0, *ends])
    before = _scatter("before", [old for old, _ in shown], limits, "orange", "s")
    return [before, _scatter("after", [new for _, new in shown], limits, "blue", "o")]


def _widened(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _scatter(name: str, predictions: Sequence[Prediction], limits: tuple[Any, Any], colour: str, marker: str) -> Panel:
    read = [(p.mos, p.score, p.std or 0) for p in predictions if p.score is not None]  # a bar of length 0 is not seen
    count = f"{len(read)} of these {len(predictions)} images have a score."
    if not read:
        return Panel(None, f"Nothing to plot: {count}")
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(4.2, 3.1), layout="constrained")
        axes = figure.add_subplot(xlabel="true score (MOS)", ylabel="predicted score", xlim=limits[0], ylim=limits[1])
        mos, score, std = zip(*read, strict=True)
        axes.errorbar(mos, score, std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.7)
        axes.plot(mos, score, marker, color=LIGHT[colour], markersize=3.5, markeredgewidth=0, alpha=0.8)
        svg = _svg(figure, name, f"Scatter plot of predicted against true scores {name} training. {count}")
    return Panel(svg, count)


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure for use inside the page; `name` keeps its ids apart from those of other figures."""
    figure.savefig(buffer := StringIO(), format="svg")
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{colour})")
    opening = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', svg)
    assert opening, "matplotlib writes the size of an SVG as a viewBox"
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(opening[1]), alt)
    return head + Markup(svg[opening.end() :])
