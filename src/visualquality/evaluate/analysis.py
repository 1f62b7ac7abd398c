"""Where the scores of a data set disagree with its MOS, and whether their stated std tells so.

MOS of different data sets have different scales, so everything here is of one data set. Errors are in units of its
MOS: error = |MOS - f(score)|, where f is the 4-parameter logistic that is fitted to all scored images of the set.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .agreement import UNDEFINED, Agreement, Estimate, agreement, srcc_estimate
from .coefficients import NAN, Array, LogisticFit, logistic4, why_undefined
from .matching import Rated

# A group of fewer images gets no correlation.
MIN_GROUP = 5
# Values that a column of the manifest may have to count as groups; no bound for distortions and levels.
MAX_GROUPS = 40
# Bins of images by std, and images in each.
BINS = 5
MIN_BIN = 10
# Shares of a normal distribution within 1 and 2 standard deviations.
NORMAL_SHARES = (0.683, 0.954)


@dataclass(frozen=True)
class Analysis:
    """The results on one data set: all its `images`, those with a score, and how the scores agree with the MOS.

    `scores`, `mos` and `error` (NaN where the logistic fit failed) are those of `scored`, in its order, (n,) each.
    """

    name: str
    images: Sequence[Rated]
    scored: Sequence[Rated]
    agreement: Agreement
    fit: LogisticFit
    scores: Array
    mos: Array
    error: Array

    def worst(self, count: int) -> list[Rated]:
        """The images with the largest errors, the largest first; none where the fit failed."""
        if self.fit.problem:
            return []

        def order(i: int) -> tuple[float, float, str]:
            # Equal errors come by MOS and path, whatever the order of the manifest.
            row = self.scored[i].row
            return -self.error[i], row.mos, str(row.image)

        places = sorted(range(len(self.scored)), key=order)
        return [self.scored[i] for i in places[:count]]


@dataclass(frozen=True)
class Group:
    """Images with one value of a column. `srcc` is NaN where `problem` says why; `mean_error` is in MOS units."""

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

    `n` images have a std. `within` are the shares of them whose MOS lies between f(score - k·std) and f(score + k·std)
    for k = 1, 2; a std that is the whole uncertainty gives `NORMAL_SHARES`. `problem` says why there are no `bins`.
    """

    n: int
    bins: tuple[Bin, ...]
    srcc: Estimate
    within: tuple[float, float]
    problem: str | None = None


def analyse(rated: Sequence[Rated]) -> list[Analysis]:
    """The analysis of each data set, in the order in which they first come."""
    groups: dict[str, list[Rated]] = defaultdict(list)
    for each in rated:
        groups[each.row.dataset].append(each)
    return [_analyse(name, images) for name, images in groups.items()]


def _analyse(name: str, images: Sequence[Rated]) -> Analysis:
    # In the order of the manifest, as `agreement` has them: the resamples are then the same everywhere.
    scored = [each for each in images if each.rating.score is not None]
    scores = np.array([each.rating.score for each in scored], dtype=np.float64)
    mos = np.array([each.row.mos for each in scored], dtype=np.float64)
    fit = logistic4(scores, mos)
    # Of all images, so that those without a score are counted.
    found = agreement(
        [each.rating.score for each in images],
        [each.row.mos for each in images],
    )
    return Analysis(
        name=name,
        images=images,
        scored=scored,
        agreement=found,
        fit=fit,
        scores=scores,
        mos=mos,
        error=np.abs(mos - fit(scores)),
    )


def breakdowns(data: Analysis) -> dict[str, list[Group]]:
    """Column -> its groups: for the distortion, its level, and other columns of the manifest that form groups.

    A column other than the first two counts where it has 2 to `MAX_GROUPS` values, of `MIN_GROUP` images each on
    average. Groups named by numbers are in their order, others from the highest SRCC to the lowest.
    """
    # Column -> its value for each scored image, "" where it is empty.
    columns = {"distortion": [each.row.distortion or "" for each in data.scored]}
    extra = [key for each in data.scored for key in each.row.extra]
    # A dict keeps the columns in the order of the manifest; `level` comes first.
    for key in dict.fromkeys(["level", *extra]):
        values = [each.row.extra.get(key) for each in data.scored]
        columns[key] = ["" if value is None else str(value) for value in values]
    found = {}
    for column, names in columns.items():
        places: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            if name:
                places[name].append(place)
        limit = float(len(names))
        if column not in ("distortion", "level"):
            # Without a bound, a column of file names would make every image a group.
            limit = min(MAX_GROUPS, len(names) / MIN_GROUP)
        if 2 <= len(places) <= limit:
            groups = [_group(data, name, np.array(own)) for name, own in places.items()]
            found[column] = sorted(groups, key=_group_order)
    return found


def _group(data: Analysis, name: str, index: np.ndarray) -> Group:
    scores, mos = data.scores[index], data.mos[index]
    mean_error = float(data.error[index].mean())
    if len(index) < MIN_GROUP:
        problem = f"too few images for a correlation, which needs {MIN_GROUP}"
        return Group(name, len(index), UNDEFINED, mean_error, problem)
    return Group(
        name, len(index), srcc_estimate(scores, mos), mean_error, why_undefined(scores, mos)
    )


def _group_order(group: Group) -> tuple[int, float, str]:
    try:
        return 0, float(group.name), group.name
    except ValueError:
        pass
    # Groups without a correlation cannot be ranked and come last.
    if group.problem:
        return 2, 0.0, group.name
    return 1, -group.srcc.value, group.name


def calibration(data: Analysis) -> Calibration:
    """How the std of the scores goes with their errors. Bins hold about equally many images; equal stds share one."""
    all_std = np.array([each.rating.std for each in data.scored], dtype=np.float64)
    # None became NaN: a single answer has no std.
    has_std = ~np.isnan(all_std)
    std = all_std[has_std]
    error = data.error[has_std]
    mos = data.mos[has_std]
    scores = data.scores[has_std]
    problem = data.fit.problem or _why_no_bins(std)
    if problem:
        return Calibration(len(std), (), UNDEFINED, (NAN, NAN), problem)
    shares = []
    for k in (1, 2):
        # The interval of scores is mapped to one of MOS. Its ends are sorted, since a falling curve swaps them.
        ends = [data.fit(scores - k * std), data.fit(scores + k * std)]
        low, high = np.sort(ends, axis=0)
        within = (low <= mos) & (mos <= high)
        shares.append(float(within.mean()))
    # Few images make fewer bins, so that each mean error is of at least MIN_BIN images or so.
    count = min(BINS, len(std) // MIN_BIN)
    # Stds that are equal at several quantiles leave fewer edges, and so fewer bins.
    edges = np.unique(np.quantile(std, np.linspace(0, 1, count + 1)))
    # The largest std lies on the last edge and belongs to the last bin.
    place = np.searchsorted(edges, std, side="right") - 1
    place = np.clip(place, 0, max(0, len(edges) - 2))
    bins = [_bin(std[place == i], error[place == i]) for i in np.unique(place)]
    return Calibration(
        n=len(std),
        bins=tuple(bins),
        srcc=srcc_estimate(std, error),
        within=(shares[0], shares[1]),
    )


def _why_no_bins(std: Array) -> str | None:
    if not len(std):
        return "no image has a std: it takes two answers or more"
    if len(std) < 2 * MIN_BIN:
        return f"only {len(std)} images have a std, and {2 * MIN_BIN} are needed"
    if np.ptp(std) == 0:
        return f"the std of all {len(std)} images is the same"
    return None


def _bin(std: Array, error: Array) -> Bin:
    n = len(error)
    mean = float(error.mean())
    half = NAN
    if n > 1:
        # 1.96 standard errors of the mean hold 95 % of a normal distribution.
        half = 1.96 * float(error.std(ddof=1)) / n**0.5
    return Bin(
        n=n,
        std=float(std.mean()),
        error=mean,
        low=max(0.0, mean - half),  # an error is never negative
        high=mean + half,
    )
