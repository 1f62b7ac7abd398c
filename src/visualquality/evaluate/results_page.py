"""The HTML page about a file of results: with human ratings, how well scores agree with them; without, the scores.

The words of the page are in `results.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..data.manifest import Row, read_manifests
from ..score.rating import Rating
from ..score.journal import journal_path
from .agreement import COEFFICIENTS, average
from .analysis import NORMAL_SHARES, Analysis, Calibration, analyse, breakdowns, calibration
from .matching import Rated, match, read_results, rows_of
from .page import LIGHT, MAX_POINTS, Panel, axis_limits, draw, pick_evenly, write_page

# Images with the largest errors of a data set; without ratings, of the best and of the worst images.
CARDS = 6
# Rows of the table of images without a score.
FAILURES = 50
# Above this many images, a scatter plot does not draw the std of each.
BARS = 200


def report_results(
    source: Path,
    output: Path,
    *,
    manifests: Sequence[Path] = (),
    split: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page about a file of results to the file `output`.

    Args:
        source: what `score` or `evaluate` wrote with -o; of a .csv or .parquet file, the journal beside it is read.
        manifests: the human ratings of these images, if there are any. Images that are only in one of the two are
            left out, and the page says how many.
        split: take only the rows of this split of the manifests.
        notes: sentences to stand under the title.

    Raises UserError where a file cannot be read or written, or results and manifests do not match (`match`).
    """
    if source.suffix in (".csv", ".parquet"):
        source = journal_path(source)
    header, ratings = read_results(source)
    model = str(header.get("model", "a model"))
    if not manifests:
        title = f"Scores of {model}"
        write_results_page(output, title=title, header=header, ratings=ratings, notes=notes)
        return
    # An image that is gone has no picture in the page, but its rating is there all the same.
    groups = rows_of(read_manifests(manifests, check_images=False), split)
    rows = [row for group in groups.values() for row in group]
    found = {rating.image: rating for rating in ratings}
    rated = [Rated(*pair) for pair in match(rows, found, source=str(source), complete=False)]
    notes = list(notes)
    if absent := len(rows) - len(rated):
        notes.append(f"{absent} of the {len(rows)} images of the manifests are not in the results.")
    if others := len(ratings) - len(rated):
        notes.append(
            f"{others} of the {len(ratings)} images of the results are not in the manifests."
        )
    write_results_page(
        output,
        title=f"Agreement of {model} with human ratings",
        header=header,
        ratings=[each.rating for each in rated],
        rows=[each.row for each in rated],
        notes=notes,
    )


def write_results_page(
    output: Path,
    *,
    title: str,
    header: Mapping[str, Any],
    ratings: Sequence[Rating],
    rows: Sequence[Row] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page about `ratings`, at least one, to the file `output`; its folder is made.

    Args:
        header: what made the ratings, by name (`read_results`).
        rows: the human rating of each image, of any number of data sets; None where nobody rated the images.
        notes: sentences to stand under the title.

    Raises UserError where `output` cannot be written. An image that cannot be opened is no error: its card says so.
    """
    # Where the pictures are: results may have been made elsewhere, the manifest is of this machine.
    paths = {rating.image: Path(rating.image) for rating in ratings}
    if rows is None:
        sections = _scores(ratings)
    else:
        rated = [Rated(*pair) for pair in zip(rows, ratings, strict=True)]
        paths = {each.rating.image: each.row.image for each in rated}
        sections = _agreement(rated)
    # Listed whatever the page: an image without a score must not vanish.
    failed = [rating for rating in ratings if rating.problem is not None]
    write_page(
        output,
        "results.html.jinja",
        title=title,
        notes=notes,
        header={k.replace("_", " "): str(v) for k, v in header.items() if v is not None},
        with_ratings=rows is not None,
        images=len(ratings),
        paths=paths,
        failed=len(failed),
        failures=[_failure(rating, paths[rating.image]) for rating in failed[:FAILURES]],
        **sections,
    )


def _failure(rating: Rating, path: Path) -> tuple[str, str]:
    """The file name of an image without a score, and why, without the folders of this machine."""
    problem = str(rating.problem).replace(rating.image, path.name).replace(str(path), path.name)
    return path.name, problem


def _scores(ratings: Sequence[Rating]) -> dict[str, Any]:
    """The sections of a page without human ratings."""
    scored = [(r.score, r) for r in ratings if r.score is not None]
    scored.sort(key=lambda pair: (-pair[0], pair[1].image))
    scores = [score for score, _ in scored]
    ordered = [rating for _, rating in scored]
    stds = [r.std for r in ordered if r.std is not None]
    answers = [sample for r in ratings for sample in r.samples]
    # No image is both among the best and among the worst.
    worst = min(CARDS, len(ordered) // 2)
    best = min(CARDS, len(ordered) - worst)
    readable = sum(answer is not None for answer in answers)
    return {
        "scored": len(scores),
        "mean": float(np.mean(scores)) if scores else None,
        "quartiles": np.percentile(scores, [0, 25, 50, 75, 100]).tolist() if scores else [],
        "mean_std": float(np.mean(stds)) if stds else None,
        "readable": readable / len(answers) if answers else None,
        "panels": [
            ("Scores", _histogram("scores", scores, "score", "blue")),
            ("Std of the answers", _histogram("std", stds, "standard deviation", "violet")),
        ],
        "best": ordered[:best],
        "worst": ordered[::-1][:worst],
    }


def _agreement(rated: Sequence[Rated]) -> dict[str, Any]:
    """The sections of a page with human ratings."""
    sets = analyse(rated)
    table = {data.name: data.agreement for data in sets}
    if len(sets) > 1:
        table["average"] = average(table.values())
    return {
        "coefficients": COEFFICIENTS,
        "table": table,
        "problems": [f"{name}: {text}" for name, row in table.items() for text in row.problems],
        "sets": [_data_set(number, data) for number, data in enumerate(sets)],
        "normal_shares": NORMAL_SHARES,
    }


def _data_set(number: int, data: Analysis) -> dict[str, Any]:
    calibrated = calibration(data)
    return {
        "name": data.name,
        "n": len(data.scored),
        "fit": data.fit,
        "scatter": _scatter(number, data),
        "calibration": calibrated,
        "calibration_panel": _calibration_panel(number, calibrated),
        "breakdowns": breakdowns(data),
        "worst": data.worst(CARDS),
    }


def _scatter(number: int, data: Analysis) -> Panel:
    """MOS against scores, with the fitted curve."""
    count = f"{len(data.scored)} of {len(data.images)} images have a score."
    if not data.scored:
        return Panel(None, f"Nothing to plot: {count}")
    by_mos = sorted(data.scored, key=lambda each: (each.row.mos, str(each.row.image)))
    shown = pick_evenly(by_mos, MAX_POINTS)
    scores = np.array([each.rating.score for each in shown], dtype=np.float64)
    mos = [each.row.mos for each in shown]
    # A bar of length 0 is not seen.
    std = np.array([each.rating.std or 0.0 for each in shown])
    bars = len(shown) <= BARS and bool(std.any())
    limits = axis_limits([*(scores - bars * std), *(scores + bars * std)])

    def plot(axes: Axes) -> None:
        if bars:
            line: dict[str, Any] = {"ecolor": LIGHT["muted"], "elinewidth": 0.6, "alpha": 0.6}
            axes.errorbar(scores, mos, xerr=std, fmt="none", **line)
        dots: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0, "alpha": 0.75}
        axes.plot(scores, mos, "o", color=LIGHT["blue"], **dots)
        if not data.fit.problem:
            # Only over the scores that there are: a fitted curve says nothing beyond them.
            x = np.linspace(data.scores.min(), data.scores.max(), 100)
            axes.plot(x, data.fit(x), color=LIGHT["orange"], linewidth=2, label="logistic fit")
            axes.legend(loc="lower right")

    notes = [count]
    if len(shown) < len(data.scored):
        notes.append(f"{len(shown)} of them are shown, at equal steps in the order of the MOS.")
    if data.fit.problem:
        notes.append(f"No curve: {data.fit.problem}.")
    if bars:
        notes.append("A bar is ± 1 standard deviation of the model’s answers.")
    note = " ".join(notes)
    alt = f"Scatter plot of MOS against predicted score. {note}"
    labels = {"xlabel": "predicted score", "ylabel": "human rating (MOS)"}
    ends = {"xlim": limits, "ylim": axis_limits(mos)}
    return Panel(draw(f"scatter-{number}", alt, (4.2, 3.1), plot, **labels, **ends), note)


def _calibration_panel(number: int, calibrated: Calibration) -> Panel:
    """Mean error against std, in bins of images."""
    if calibrated.problem:
        return Panel(None, f"Nothing to plot: {calibrated.problem}.")
    bins = calibrated.bins
    std, error = [b.std for b in bins], [b.error for b in bins]
    bars = [[b.error - b.low for b in bins], [b.high - b.error for b in bins]]

    def plot(axes: Axes) -> None:
        axes.errorbar(std, error, bars, fmt="o", color=LIGHT["blue"], markersize=5, capsize=3)
        # From 0, so that one error can be seen to be twice another; never empty, where all errors are 0.
        axes.set_ylim(0, 1.08 * max(b.high for b in bins) or 1)

    points = "; ".join(f"{b.error:.3g} at std {b.std:.3g}" for b in bins)
    svg = draw(
        f"calibration-{number}",
        f"Mean error in {len(bins)} bins of images by std: {points}.",
        (4.2, 3.1),
        plot,
        xlabel="std of the answers, in points of the score",
        ylabel="mean error, in units of the MOS",
        xlim=axis_limits([0.0, *std]),
    )
    sizes = sorted({b.n for b in bins})
    images = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note = f"{calibrated.n} images in {len(bins)} bins of {images}; bars are 95 % intervals of the mean."
    return Panel(svg, note)


def _histogram(name: str, values: Sequence[float], label: str, colour: str) -> Panel:
    if not values:
        return Panel(None, f"Nothing to plot: no image has a {label}.")
    limits = axis_limits(values)

    def plot(axes: Axes) -> None:
        # The square root of the number of values is a usual number of bins.
        bins = min(30, max(8, round(len(values) ** 0.5)))
        axes.hist(values, bins=bins, range=limits, color=LIGHT[colour], rwidth=0.9)
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))

    alt = f"Histogram of the {label} of {len(values)} images, from {min(values):.3g} to {max(values):.3g}."
    labels = {"xlabel": label, "ylabel": "images", "xlim": limits}
    svg = draw(f"histogram-{name}", alt, (4.2, 2.6), plot, **labels)
    return Panel(svg, f"{len(values)} images.")
