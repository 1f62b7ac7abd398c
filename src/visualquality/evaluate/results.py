"""Results beside human ratings: which belongs to which image, where scores err, and what the stated std is worth.

MOS of different data sets have different scales, so everything here is of one data set. Errors are in units of its
MOS: error = |MOS − f(score)|, f being the 4-parameter logistic that is fitted to all scored images of the data set.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.manifest import Row
from ..errors import UserError
from ..score.journal import read_journal
from ..score.rating import Rating
from .coefficients import Array, LogisticFit, logistic4, srcc, weighted_srcc, why_undefined
from .correlation import Agreement, Estimate, agreement

FEWEST = 5  # images of a group, below which no correlation is given
MOST_GROUPS = 40  # of a column that is not the distortion or its level
BINS, FEWEST_IN_BIN = 5, 10  # of the std
BOOTSTRAP, BOOTSTRAP_ELEMENTS = (
    1000,
    2_000_000,
)  # resamples, and the bound on resamples × images (200 at least)
UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))
EXPECTED = (0.683, 0.954)  # of a normal distribution within 1 and 2 standard deviations


@dataclass(frozen=True)
class Rated:
    """An image of a manifest and what a model says of it."""

    row: Row
    rating: Rating


@dataclass(frozen=True)
class DataSet:
    """The results of one data set: all its `images`, those with a score, and how the scores agree with the MOS.

    `scored` goes from the lowest MOS to the highest; `scores`, `mos` and `error` (NaN where the logistic fit failed)
    are in its order, (n,) each.
    """

    name: str
    images: tuple[Rated, ...]
    scored: tuple[Rated, ...]
    agreement: Agreement
    fit: LogisticFit
    scores: Array
    mos: Array
    error: Array

    def worst(self, count: int) -> list[Rated]:
        """The images of the largest errors, the largest first; none where the fit failed."""
        if self.fit.problem:
            return []
        return [self.scored[i] for i in np.argsort(-self.error, kind="stable")[:count]]


@dataclass(frozen=True)
class Group:
    """Images of one value of a column. `srcc` is NaN where `problem` says why; `mean_error` is in units of the MOS."""

    name: str
    n: int
    srcc: Estimate
    mean_error: float
    problem: str | None


@dataclass(frozen=True)
class Bin:
    """Images of similar std: their number, mean std (points of the score) and mean error with its 95 % interval."""

    n: int
    std: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Whether a larger std goes with a larger error, and how often the MOS is as near as the std says.

    `n` images have a std. `within` are the shares whose MOS lies between f(score − k·std) and f(score + k·std) for
    k = 1, 2; `EXPECTED` are those of a std that is the whole uncertainty. `problem` says why there are no `bins`.
    """

    n: int
    bins: tuple[Bin, ...]
    srcc: Estimate
    within: tuple[float, float]
    problem: str | None = None


def read_results(path: Path) -> tuple[dict[str, Any], list[Rating]]:
    """The header and the ratings of a journal. Raises UserError where `path` is none, or holds no rating."""
    header, ratings = read_journal(path)
    if not ratings:
        raise UserError(f"{path} holds no results yet: let the command that writes it go on")
    return header, ratings


def join(rows: Sequence[Row], ratings: Sequence[Rating]) -> list[Rated]:
    """The rows that have a rating, with it. Images are told by path; where no path agrees at all, by file name.

    Raises UserError where none belongs to another, and for a file name that several images have.
    """
    by_path = {str(_real(Path(rating.image))): rating for rating in ratings}
    rated = [Rated(row, by_path[str(row.image)]) for row in rows if str(row.image) in by_path]
    if rated:
        return rated
    by_name, rows_by_name = defaultdict(list), defaultdict(list)
    for rating in ratings:
        by_name[Path(rating.image).name].append(rating)
    for row in rows:
        rows_by_name[row.image.name].append(row)
    for name in rows_by_name.keys() & by_name.keys():
        if len(rows_by_name[name]) > 1 or len(by_name[name]) > 1:
            raise UserError(
                f"the results and the manifests agree in no path, and several images are named {name}: "
                "score the images at the paths of the manifest"
            )
    rated = [Rated(row, by_name[row.image.name][0]) for row in rows if row.image.name in by_name]
    if not rated:
        raise UserError(
            "no image of the manifests is in the results: give the manifest of the images that were scored"
        )
    return rated


def _real(image: Path) -> Path:
    """As a manifest has it: links are followed in the folder, not in the file."""
    return Path(os.path.realpath(image.parent), image.name)


def data_sets(rated: Sequence[Rated]) -> list[DataSet]:
    """The results of each data set, in the order in which they first come."""
    groups: dict[str, list[Rated]] = defaultdict(list)
    for each in rated:
        groups[each.row.dataset].append(each)
    return [_data_set(name, images) for name, images in groups.items()]


def _data_set(name: str, images: Sequence[Rated]) -> DataSet:
    scored = [each for each in images if each.rating.score is not None]
    scored.sort(key=lambda each: (each.row.mos, str(each.row.image)))
    scores = np.array([each.rating.score for each in scored], dtype=np.float64)
    mos = np.array([each.row.mos for each in scored], dtype=np.float64)
    fit = logistic4(scores, mos)
    agreed = agreement([each.rating.score for each in images], [each.row.mos for each in images])
    return DataSet(
        name, tuple(images), tuple(scored), agreed, fit, scores, mos, np.abs(mos - fit(scores))
    )


def breakdowns(data: DataSet) -> dict[str, list[Group]]:
    """Column -> its groups, for the distortion, its level, and other columns of the manifest that tell groups.

    A column other than the first two counts where it has 2 to `MOST_GROUPS` values, of `FEWEST` images each on average.
    Groups named by numbers are in their order, others from the highest SRCC to the lowest.
    """
    columns: dict[str, list[str]] = {
        "distortion": [each.row.distortion or "" for each in data.scored]
    }
    for key in dict.fromkeys(["level", *(key for each in data.scored for key in each.row.extra)]):
        columns[key] = [
            "" if (value := each.row.extra.get(key)) is None else str(value) for each in data.scored
        ]
    found = {}
    for column, values in columns.items():
        names = sorted(set(values) - {""})
        limit = (
            len(values)
            if column in ("distortion", "level")
            else min(MOST_GROUPS, len(values) / FEWEST)
        )
        if 2 <= len(names) <= limit:
            indices = [
                np.array([i for i, value in enumerate(values) if value == name]) for name in names
            ]
            groups = [_group(data, name, index) for name, index in zip(names, indices, strict=True)]
            found[column] = sorted(groups, key=_group_order)
    return found


def _group(data: DataSet, name: str, index: np.ndarray) -> Group:
    scores, mos = data.scores[index], data.mos[index]
    too_few = (
        f"too few images for a correlation, which needs {FEWEST}" if len(index) < FEWEST else None
    )
    problem = too_few or why_undefined(scores, mos)
    estimate = UNDEFINED if problem else srcc_interval(scores, mos)
    return Group(name, len(index), estimate, float(data.error[index].mean()), problem)


def _group_order(group: Group) -> tuple[int, float, str]:
    try:
        return 0, float(group.name), group.name
    except ValueError:
        return (2, 0.0, group.name) if group.problem else (1, -group.srcc.value, group.name)


def srcc_interval(x: Array, y: Array, *, seed: int = 0) -> Estimate:
    """SRCC of `x` (n,) with `y` (n,) and its percentile bootstrap 95 % interval; NaN where `why_undefined` says why.

    Resamples in which it is undefined are left out of the interval.
    """
    if why_undefined(x, y):
        return UNDEFINED
    resamples = min(BOOTSTRAP, max(200, BOOTSTRAP_ELEMENTS // len(x)))
    counts = (
        np.random.default_rng(seed)
        .multinomial(len(x), np.full(len(x), 1 / len(x)), resamples)
        .astype(float)
    )
    drawn = weighted_srcc(counts, x, y)
    low, high = np.percentile(drawn[~np.isnan(drawn)], [2.5, 97.5])
    return Estimate(srcc(x, y), float(low), float(high))


def calibration(data: DataSet) -> Calibration:
    """How the std of the scores goes with their errors. Bins hold about equally many images, equal std together."""
    known = np.array(
        [i for i, each in enumerate(data.scored) if each.rating.std is not None], dtype=int
    )
    std = np.array([data.scored[i].rating.std for i in known], dtype=np.float64)
    error, mos, scores = data.error[known], data.mos[known], data.scores[known]
    problem = data.fit.problem or (
        None if len(known) else "no image has a std: it takes two answers or more"
    )
    if not problem and (len(known) < 2 * FEWEST_IN_BIN or np.ptp(std) == 0):
        few = f"only {len(known)} images have a std, and {2 * FEWEST_IN_BIN} are needed"
        problem = (
            few
            if len(known) < 2 * FEWEST_IN_BIN
            else f"the std of all {len(known)} images is the same"
        )
    if problem:
        return Calibration(len(known), (), UNDEFINED, (float("nan"), float("nan")), problem)
    ends = [
        np.sort([data.fit(scores - k * std), data.fit(scores + k * std)], axis=0) for k in (1, 2)
    ]
    one, two = (float(((low <= mos) & (mos <= high)).mean()) for low, high in ends)
    edges = np.unique(
        np.quantile(std, np.linspace(0, 1, min(BINS, len(known) // FEWEST_IN_BIN) + 1))
    )
    place = np.clip(np.searchsorted(edges, std, side="right") - 1, 0, max(0, len(edges) - 2))
    bins = [_bin(std[place == i], error[place == i]) for i in np.unique(place)]
    return Calibration(len(known), tuple(bins), srcc_interval(std, error), (one, two))


def _bin(std: Array, error: Array) -> Bin:
    mean = float(error.mean())
    half = 1.96 * float(error.std(ddof=1)) / len(error) ** 0.5 if len(error) > 1 else float("nan")
    return Bin(len(error), float(std.mean()), mean, max(0.0, mean - half), mean + half)
