"""Where the scores of a data set disagree with its MOS, and whether their stated std tells so.

MOS of different data sets have different scales, so everything here is of one data set. Errors are in units of its
MOS: error = |MOS - f(score)|, where f is the 4-parameter logistic that is fitted to all scored images of the set.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..coefficients import NAN, Array, why_undefined
from .agreement import Agreement, Estimate, agreement, srcc_estimate
from .logistic import LogisticFit, logistic4
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
    """The results on one data set: its images with a score, and how the scores of all agree with the MOS.

    `scores`, `mos`, `mapped` = f(scores) and `error` are those of `scored`, in its order, (n,) each. The last two are
    NaN where the logistic fit failed.
    """

    name: str
    scored: Sequence[Rated]
    agreement: Agreement
    fit: LogisticFit
    scores: Array
    mos: Array
    mapped: Array
    error: Array

    def worst(self, count: int) -> list[tuple[Rated, float]]:
        """The images with the largest errors, the largest first, and f(score); none where the fit failed."""
        if self.fit.problem:
            return []

        def order(i: int) -> tuple[float, float, str]:
            # Equal errors come by MOS and path, whatever the order of the manifest.
            row = self.scored[i].row
            return -self.error[i], row.mos, str(row.image)

        places = sorted(range(len(self.scored)), key=order)[:count]
        return [(self.scored[i], float(self.mapped[i])) for i in places]


@dataclass(frozen=True)
class Group:
    """Images with one value of a column. `srcc` is NaN where `problem` says why; `mean_error` is in MOS units."""

    name: str
    n: int
    srcc: Estimate
    mean_error: float
    problem: str | None


@dataclass(frozen=True)
class StdCheck:
    """Whether a larger std goes with a larger error, and how often the MOS is as near as the std says.

    `n` images have a std. A row of `bins` is about images of similar std: their number `n`, mean `std` (points of the
    score), mean `error`, and the ends of its 95 % interval, `low` and `high`. `within` are the shares of images whose
    MOS lies between f(score - k·std) and f(score + k·std) for k = 1, 2; a std that is the whole uncertainty gives
    `NORMAL_SHARES`. Where `problem` says why, there are no bins.
    """

    n: int
    bins: pd.DataFrame
    srcc: Estimate = Estimate()  # noqa: RUF009 (it cannot be changed)
    within: tuple[float, float] = (NAN, NAN)
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
    mapped = fit(scores)
    # Of all images, so that those without a score are counted.
    found = agreement([each.rating.score for each in images], [each.row.mos for each in images])
    return Analysis(name, scored, found, fit, scores, mos, mapped, np.abs(mos - mapped))


def breakdowns(data: Analysis) -> dict[str, list[Group]]:
    """Column -> its groups: for the distortion, its level, and other columns of the manifest that form groups.

    A column other than the first two counts where it has 2 to `MAX_GROUPS` values, of `MIN_GROUP` images each on
    average. Groups named by numbers are in their order, others from the highest SRCC to the lowest.
    """
    # Column -> its values -> the places of their images.
    columns: dict[str, dict[str, list[int]]] = {"distortion": {}, "level": {}}
    for place, each in enumerate(data.scored):
        for column, value in [("distortion", each.row.distortion), *each.row.extra.items()]:
            groups = columns.setdefault(column, {})
            if value not in (None, ""):
                groups.setdefault(str(value), []).append(place)
    found = {}
    for column, groups in columns.items():
        limit = float(len(data.scored))
        if column not in ("distortion", "level"):
            # Without a bound, a column of file names would make every image a group.
            limit = min(MAX_GROUPS, len(data.scored) / MIN_GROUP)
        if 2 <= len(groups) <= limit:
            rows = [_group(data, name, np.array(places)) for name, places in groups.items()]
            found[column] = sorted(rows, key=_group_order)
    return found


def _group(data: Analysis, name: str, index: np.ndarray) -> Group:
    scores, mos = data.scores[index], data.mos[index]
    srcc, problem = Estimate(), why_undefined(scores, mos)
    if len(index) < MIN_GROUP:
        problem = f"too few images for a correlation, which needs {MIN_GROUP}"
    if not problem:
        srcc = srcc_estimate(scores, mos)
    return Group(name, len(index), srcc, float(data.error[index].mean()), problem)


def _group_order(group: Group) -> tuple[int, float, str]:
    try:
        return 0, float(group.name), group.name
    except ValueError:
        pass
    # Groups without a correlation cannot be ranked and come last.
    if group.problem:
        return 2, 0.0, group.name
    return 1, -group.srcc.value, group.name


def std_check(data: Analysis) -> StdCheck:
    """How the std of the scores goes with their errors. Bins hold about equally many images; equal stds share one."""
    all_std = np.array([each.rating.std for each in data.scored], dtype=np.float64)
    # None became NaN: a single answer has no std.
    has_std = ~np.isnan(all_std)
    std, scores = all_std[has_std], data.scores[has_std]
    error, mos = data.error[has_std], data.mos[has_std]
    if problem := data.fit.problem or _why_no_bins(std):
        return StdCheck(len(std), pd.DataFrame(), problem=problem)
    shares = []
    for k in (1, 2):
        # The interval of scores is mapped to one of MOS. Its ends are sorted, since a falling curve swaps them.
        low, high = np.sort([data.fit(scores - k * std), data.fit(scores + k * std)], axis=0)
        shares.append(float(((low <= mos) & (mos <= high)).mean()))
    # Few images make fewer bins, so that each mean error is of at least MIN_BIN images or so.
    count = min(BINS, len(std) // MIN_BIN)
    # Stds that are equal at several quantiles leave fewer edges, and so fewer bins.
    bin_of = pd.qcut(std, count, labels=False, duplicates="drop")
    bins = pd.DataFrame({"std": std, "error": error}).groupby(bin_of)
    mean = bins["error"].mean()
    # 1.96 standard errors of the mean hold 95 % of a normal distribution.
    half = 1.96 * bins["error"].sem()
    columns = {
        "n": bins.size(),
        "std": bins["std"].mean(),
        "error": mean,
        "low": (mean - half).clip(lower=0),  # an error is never negative
        "high": mean + half,
    }
    within = (shares[0], shares[1])
    return StdCheck(len(std), pd.DataFrame(columns), srcc_estimate(std, error), within)


def _why_no_bins(std: Array) -> str | None:
    if not len(std):
        return "no image has a std: it takes two answers or more"
    if len(std) < 2 * MIN_BIN:
        return f"only {len(std)} images have a std, and {2 * MIN_BIN} are needed"
    if np.ptp(std) == 0:
        return f"the std of all {len(std)} images is the same"
    return None
