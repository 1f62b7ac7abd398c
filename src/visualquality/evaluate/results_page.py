"""The HTML page about a file of results: with human ratings, how well scores agree with them; without, the scores.

The words of the page are in `results.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..data.find import listed_path
from ..data.manifest import Row, read_manifests
from ..score.journal import journal_path
from ..score.rating import Rating, warning_lines
from .agreement import COEFFICIENTS, with_average
from .analysis import NORMAL_SHARES, Analysis, StdCheck, analyse, breakdowns, std_check
from .matching import Rated, match, read_results, rows_of
from .page import LIGHT, MAX_POINTS, Panel, axis_limits, draw, pick_evenly, write_page

# Images with the largest errors of a data set; without ratings, of the best and of the worst images.
CARDS = 6
# Rows of the table of images without a score.
FAILURES = 50
# Inches of the plots beside each other.
SIZE = (4.2, 3.1)
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
    rows = rows_of(read_manifests(manifests, check_images=False), split)
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
    paths = {rating.image: listed_path(Path(), rating.image) for rating in ratings}
    if rows is None:
        sections = _scores(ratings)
    else:
        rated = [Rated(*pair) for pair in zip(rows, ratings, strict=True)]
        paths = {each.rating.image: each.row.image for each in rated}
        sections = _agreement(rated)
    # Listed whatever the page: an image without a score must not vanish.
    for line in warning_lines(replace(r, image=paths[r.image].name) for r in ratings):
        notes = [*notes, f"{line}."]
    failures = []
    for rating in ratings:
        if rating.problem is not None:
            # Without the folders of this machine, since a page may be passed on.
            path = paths[rating.image]
            problem = rating.problem.replace(rating.image, path.name)
            failures.append((path.name, problem.replace(str(path), path.name)))
    write_page(
        output,
        "results.html.jinja",
        title=title,
        notes=notes,
        header=header,
        with_ratings=rows is not None,
        images=len(ratings),
        paths=paths,
        failed=len(failures),
        failures=failures[:FAILURES],
        **sections,
    )


def _scores(ratings: Sequence[Rating]) -> dict[str, Any]:
    """The sections of a page without human ratings."""
    # The best first; equal scores in the order of their names, so that a page is the same every time.
    scored = [(r.score, r) for r in ratings if r.score is not None]
    scored.sort(key=lambda pair: (-pair[0], pair[1].image))
    scores = [score for score, _ in scored]
    ordered = [rating for _, rating in scored]
    stds = [r.std for r in ordered if r.std is not None]
    # No image is both among the best and among the worst.
    worst = min(CARDS, len(ordered) // 2)
    best = min(CARDS, len(ordered) - worst)
    return {
        "scores": scores,
        "quartiles": np.percentile(scores, [0, 25, 50, 75, 100]).tolist() if scores else [],
        "stds": stds,
        "answers": [sample for r in ratings for sample in r.samples],
        "panels": [
            ("Scores", _histogram("scores", scores, "score", "blue")),
            ("Std of the answers", _histogram("std", stds, "standard deviation", "violet")),
        ],
        "best": ordered[:best],
        "worst": ordered[::-1][:worst],
    }


def _agreement(rated: Sequence[Rated]) -> dict[str, Any]:
    """The sections of a page with human ratings."""
    sets = []
    for number, data in enumerate(analyse(rated)):
        checked = std_check(data)
        panels = (_scatter(number, data), _std_panel(number, checked))
        sets.append((data, *panels, checked, breakdowns(data), data.worst(CARDS)))
    return {
        "coefficients": COEFFICIENTS,
        "table": with_average({data.name: data.agreement for data, *_ in sets}),
        "sets": sets,
        "normal_shares": NORMAL_SHARES,
    }


def _scatter(number: int, data: Analysis) -> Panel:
    """MOS against scores, with the fitted curve."""
    n, left_out = data.agreement.n, data.agreement.n_unreadable
    notes = [f"{n} of {n + left_out} images have a score."]
    if not n:
        return Panel(None, f"Nothing to plot: {notes[0]}")
    by_mos = sorted(data.scored, key=lambda each: (each.row.mos, str(each.row.image)))
    shown = pick_evenly(by_mos, MAX_POINTS)
    scores = np.array([each.rating.score for each in shown], dtype=np.float64)
    mos = [each.row.mos for each in shown]
    # A bar of length 0 is not seen.
    std = np.array([each.rating.std or 0.0 for each in shown])
    bars = len(shown) <= BARS and bool(std.any())

    def plot(axes: Axes) -> None:
        if bars:
            axes.errorbar(
                scores, mos, xerr=std, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.6, alpha=0.6
            )
        blue = LIGHT["blue"]
        axes.plot(scores, mos, "o", color=blue, markersize=3.5, markeredgewidth=0, alpha=0.75)
        if not data.fit.problem:
            # Only over the scores that there are: a fitted curve says nothing beyond them.
            x = np.linspace(data.scores.min(), data.scores.max(), 100)
            axes.plot(x, data.fit(x), color=LIGHT["orange"], linewidth=2, label="logistic fit")
            axes.legend(loc="lower right")

    if len(shown) < n:
        notes.append(f"{len(shown)} of them are shown, at equal steps in the order of the MOS.")
    if data.fit.problem:
        notes.append(f"No curve: {data.fit.problem}.")
    if bars:
        notes.append("A bar is ± 1 standard deviation of the model’s answers.")
    note = " ".join(notes)
    svg = draw(
        f"scatter-{number}",
        f"Scatter plot of MOS against predicted score. {note}",
        SIZE,
        plot,
        xlabel="predicted score",
        ylabel="human rating (MOS)",
        xlim=axis_limits([*(scores - bars * std), *(scores + bars * std)]),
        ylim=axis_limits(mos),
    )
    return Panel(svg, note)


def _std_panel(number: int, checked: StdCheck) -> Panel:
    """Mean error against std, in bins of images."""
    if checked.problem:
        return Panel(None, f"Nothing to plot: {checked.problem}.")
    bins = checked.bins
    std, error = bins["std"], bins["error"]

    def plot(axes: Axes) -> None:
        bars = [error - bins["low"], bins["high"] - error]
        axes.errorbar(std, error, bars, fmt="o", color=LIGHT["blue"], markersize=5, capsize=3)
        # From 0, so that one error can be seen to be twice another; never empty, where all errors are 0.
        axes.set_ylim(0, 1.08 * bins["high"].max() or 1)

    points = "; ".join(f"{e:.3g} at std {s:.3g}" for e, s in zip(error, std, strict=True))
    svg = draw(
        f"calibration-{number}",
        f"Mean error in {len(bins)} bins of images by std: {points}.",
        SIZE,
        plot,
        xlabel="std of the answers, in points of the score",
        ylabel="mean error, in units of the MOS",
        xlim=axis_limits([0.0, *std]),
    )
    least, most = bins["n"].min(), bins["n"].max()
    images = f"{least}" if least == most else f"{least} to {most}"
    note = (
        f"{checked.n} images in {len(bins)} bins of {images}; bars are 95 % intervals of the mean."
    )
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

    ends = f"{min(values):.3g} to {max(values):.3g}"
    svg = draw(
        f"histogram-{name}",
        f"Histogram of the {label} of {len(values)} images, from {ends}.",
        (4.2, 2.6),
        plot,
        xlabel=label,
        ylabel="images",
        xlim=limits,
    )
    return Panel(svg, f"{len(values)} images.")
