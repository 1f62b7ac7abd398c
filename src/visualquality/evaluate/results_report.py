"""The HTML page about a file of results: with ratings, how well it agrees with them and where it does not; without,
what scores there are.

What the page says in words is in `results_report.html.jinja` and `scores_report.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from ..score.rating import Rating
from .correlation import COEFFICIENTS, average
from .page import LIGHT, MAX_POINTS, Panel, draw, evenly, thumbnail, widened, write_page
from .results import (
    EXPECTED,
    FEWEST,
    Calibration,
    DataSet,
    Group,
    Rated,
    breakdowns,
    calibration,
    data_sets,
)

WORST = 6  # cards of a data set; and of the best, and of the worst images without ratings
FAILURES = 50  # rows
BARS = 200  # images, above which a scatter plot does not draw each one's std
STRIP = 220  # width of a breakdown's strip in its own units


@dataclass(frozen=True)
class Card:
    """An image with its words; `mapped` is f(score). `mos` and `mapped` are None where there are no ratings."""

    rating: Rating
    mos: float | None
    mapped: float | None
    thumbnail: str | None
    fault: str | None

    @property
    def name(self) -> str:
        return Path(self.rating.image).name


def write_results_report(
    output: Path,
    *,
    title: str,
    header: Mapping[str, Any],
    rated: Sequence[Rated],
    notes: Sequence[str],
) -> None:
    """Write the page about rated images to the file `output`; its folder is made where it is missing.

    Args:
        header: what made the results, by name (`read_results`).
        rated: the images with their ratings (`join`), of any number of data sets; at least one.
        notes: sentences to stand under the title.

    Raises UserError where `output` cannot be written. An image that cannot be opened is no error: its card says so.
    """
    sets = data_sets(rated)
    table = {data.name: data.agreement for data in sets}
    if len(sets) > 1:
        table["average"] = average(table.values())
    write_page(
        output,
        "results_report.html.jinja",
        title=title,
        notes=notes,
        header=_settings(header),
        coefficients=COEFFICIENTS,
        table=table,
        problems=[f"{name}: {problem}" for name, row in table.items() for problem in row.problems],
        sets=[_section(number, data) for number, data in enumerate(sets)],
        fewest=FEWEST,
        expected=EXPECTED,
        **_failures(
            [each.rating for each in rated], {each.rating.image: each.row.image for each in rated}
        ),
    )


def write_scores_report(
    output: Path,
    *,
    title: str,
    header: Mapping[str, Any],
    ratings: Sequence[Rating],
    notes: Sequence[str],
) -> None:
    """The same of images that nobody rated: the distribution of scores and std, the best and the worst images."""
    scored = sorted(
        (r for r in ratings if r.score is not None), key=lambda r: (-(r.score or 0), r.image)
    )
    scores = [r.score for r in scored if r.score is not None]
    stds = [r.std for r in scored if r.std is not None]
    answers = [sample for r in ratings for sample in r.samples]
    count = min(WORST, len(scored) // 2)
    worst = [_plain_card(rating) for rating in scored[: len(scored) - count - 1 : -1]]
    write_page(
        output,
        "scores_report.html.jinja",
        title=title,
        notes=notes,
        header=_settings(header),
        images=len(ratings),
        scores=scores,
        mean=float(np.mean(scores)) if scores else None,
        quartiles=np.percentile(scores, [0, 25, 50, 75, 100]).tolist() if scores else [],
        mean_std=float(np.mean(stds)) if stds else None,
        readable=sum(answer is not None for answer in answers) / len(answers) if answers else None,
        panels=[
            ("Scores", _histogram("scores", scores, "score", "blue")),
            ("Spread of the answers", _histogram("std", stds, "standard deviation", "violet")),
        ],
        best=[_plain_card(rating) for rating in scored[: min(WORST, len(scored) - count)]],
        worst=worst,
        **_failures(ratings, {}),
    )


def _settings(header: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of a header: all that is set."""
    return {key.replace("_", " "): str(value) for key, value in header.items() if value is not None}


def _failures(ratings: Sequence[Rating], paths: Mapping[str, Path]) -> dict[str, Any]:
    """The images without a score and why, with file names in place of paths."""
    failed = [rating for rating in ratings if rating.problem is not None]
    rows = []
    for rating in failed[:FAILURES]:
        name, problem = (
            Path(rating.image).name,
            str(rating.problem).replace(rating.image, Path(rating.image).name),
        )
        path = paths.get(rating.image)
        rows.append((name, problem if path is None else problem.replace(str(path), name)))
    return {"failures": rows, "failed": len(failed)}


def _plain_card(rating: Rating) -> Card:
    return Card(rating, None, None, *thumbnail(Path(rating.image)))


def _section(number: int, data: DataSet) -> dict[str, Any]:
    """What the page shows of one data set."""
    cards = []
    for each in data.worst(WORST):
        mapped = float(data.fit(np.array([each.rating.score]))[0])
        cards.append(Card(each.rating, each.row.mos, mapped, *thumbnail(each.row.image)))
    calibrated = calibration(data)
    return {
        "name": data.name,
        "n": len(data.scored),
        "fit": data.fit,
        "scatter": _scatter(number, data),
        "calibration": calibrated,
        "calibration_panel": _calibration_panel(number, calibrated),
        "breakdowns": [_breakdown(column, groups) for column, groups in breakdowns(data).items()],
        "worst": cards,
    }


def _breakdown(
    column: str, groups: Sequence[Group]
) -> tuple[str, float, list[tuple[Group, Markup]]]:
    """A column, the lower end of its strips, and its groups, each with its strip."""
    low = min([0.0, *(group.srcc.low for group in groups if not group.problem)])
    return column, low, [(group, _strip(group, low)) for group in groups]


def _scatter(number: int, data: DataSet) -> Panel:
    """MOS against scores, with the fitted curve."""
    shown = evenly(data.scored, MAX_POINTS)
    count = f"{len(data.scored)} of {len(data.images)} images have a score."
    if not shown:
        return Panel(None, f"Nothing to plot: {count}")
    scores, mos = [each.rating.score or 0.0 for each in shown], [each.row.mos for each in shown]
    std = [each.rating.std or 0.0 for each in shown]
    bars = len(shown) <= BARS and any(std)
    ends = (
        [s + sign * e for s, e in zip(scores, std, strict=True) for sign in (-1, 1)]
        if bars
        else scores
    )
    limits = widened(ends)

    def plot(axes: Axes) -> None:
        if bars:
            axes.errorbar(
                scores, mos, xerr=std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.6, alpha=0.6
            )
        axes.plot(
            scores, mos, "o", color=LIGHT["blue"], markersize=3.5, markeredgewidth=0, alpha=0.75
        )
        if not data.fit.problem:
            x = np.linspace(data.scores.min(), data.scores.max(), 100)
            axes.plot(x, data.fit(x), color=LIGHT["orange"], linewidth=2, label="logistic fit")
            axes.legend(loc="lower right")

    notes = (
        []
        if len(shown) == len(data.scored)
        else [f"Shown are {len(shown)} of them, evenly over the MOS."]
    )
    if data.fit.problem:
        notes.append(f"No curve: {data.fit.problem}.")
    if bars:
        notes.append("A bar is ± 1 standard deviation of the model’s answers.")
    note = " ".join([count, *notes])
    svg = draw(
        f"scatter-{number}",
        f"Scatter plot of MOS against predicted score. {note}",
        (4.2, 3.1),
        plot,
        xlabel="predicted score",
        ylabel="true score (MOS)",
        xlim=limits,
        ylim=widened(mos),
    )
    return Panel(svg, note)


def _calibration_panel(number: int, calibrated: Calibration) -> Panel:
    """Mean error against std, in bins of images."""
    if calibrated.problem:
        return Panel(None, f"Nothing to plot: {calibrated.problem}.")
    bins = calibrated.bins
    std, error = [b.std for b in bins], [b.error for b in bins]
    reach = [[b.error - b.low for b in bins], [b.high - b.error for b in bins]]

    def plot(axes: Axes) -> None:
        axes.errorbar(
            std,
            error,
            reach,
            fmt="o",
            color=LIGHT["blue"],
            ecolor=LIGHT["blue"],
            markersize=5,
            capsize=3,
        )
        axes.set_ylim(0, 1.08 * max(b.high for b in bins) or 1)

    said = "; ".join(f"{b.error:.3g} at std {b.std:.3g}" for b in bins)
    svg = draw(
        f"calibration-{number}",
        f"Mean error in {len(bins)} bins of images by std: {said}.",
        (4.2, 3.1),
        plot,
        xlabel="std of the answers, in points of the score",
        ylabel="mean error, in units of the MOS",
        xlim=widened([0.0, *std]),
    )
    sizes = sorted({b.n for b in bins})
    images = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return Panel(
        svg,
        f"{calibrated.n} images in {len(bins)} bins of {images}; bars are 95 % intervals of the mean.",
    )


def _histogram(name: str, values: Sequence[float], label: str, colour: str) -> Panel:
    if not values:
        return Panel(None, f"Nothing to plot: no image has a {label}.")
    limits = widened(values)

    def plot(axes: Axes) -> None:
        axes.hist(
            values,
            bins=min(30, max(8, round(len(values) ** 0.5))),
            range=limits,
            color=LIGHT[colour],
            rwidth=0.9,
        )
        axes.grid(False, axis="x")

    alt = f"Histogram of the {label} of {len(values)} images, from {min(values):.3g} to {max(values):.3g}."
    svg = draw(
        f"histogram-{name}", alt, (4.2, 2.6), plot, xlabel=label, ylabel="images", xlim=limits
    )
    return Panel(svg, f"{len(values)} images.")


def _strip(group: Group, low: float) -> Markup:
    """The SRCC of a group and its interval on a line from `low` (at most 0) to 1."""
    if group.problem:
        return Markup("")

    def place(value: float) -> str:
        return f"{4 + (STRIP - 8) * (value - low) / (1 - low):.1f}"

    e = group.srcc
    return Markup(
        '<svg viewBox="0 0 {} 16" width="{}" height="16" aria-hidden="true">'
        '<line x1="{}" x2="{}" y1="8" y2="8" stroke="var(--rule)"/>'
        '<line x1="{}" x2="{}" y1="2" y2="14" stroke="var(--muted)"/>'
        '<line x1="{}" x2="{}" y1="8" y2="8" stroke="var(--blue)" stroke-width="2"/>'
        '<circle cx="{}" cy="8" r="4" fill="var(--blue)"/></svg>'
    ).format(
        *(STRIP, STRIP, place(low), place(1.0), place(0.0), place(0.0)),
        *(place(e.low), place(e.high), place(e.value)),
    )
