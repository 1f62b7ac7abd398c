"""Split-conformal intervals: from scores and human ratings to the numbers that give an interval of stated coverage.

Split-conformal prediction (Vovk, Gammerman & Shafer 2005) with normalised residuals (Lei et al., "Distribution-free
predictive inference for regression", JASA 2018, section 5.2), on images that people rated and the model was not trained
on. They are split in two halves, at random:

- half one gives f, a monotone map from scores to MOS on 1 to 5 (isotonic regression), and sigma, the error to expect;
- half two gives q, the quantile of |MOS - f(score)| / sigma(score, std).

The interval is f(score) ± q·sigma(score, std). A further image, drawn like those of the data set, has its MOS in there
with at least the stated probability, however wrong f and sigma are. For other kinds of images nothing is promised.
"""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from ..io import Settings

FOLDS = 5  # of each fit whose errors are measured on images that it has not seen
GROUPS = 5  # of images by f(score); sigma is the mean error in each, and interpolated
PRIOR = 10  # images of average error that a group is mixed with
STD_PRIOR = 25  # the same for the slope of the std
LEAST_SPREAD = 0.25  # of the mean error: sigma is never below
MOST_STDS = 2.0  # standard deviations from its mean at which a std is cut off

Array = Float[np.ndarray, "n"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
OnScale = Annotated[float, Field(ge=1, le=5)]
Share = Annotated[float, Field(ge=0, le=1)]


class Intervals(NamedTuple):
    """Ends of the intervals and the MOS in between, on 1 to 5."""

    low: Array
    mos: Array
    high: Array


class Conformal(Settings):
    """f, sigma and q. f and sigma are straight lines between knots, and level beyond the first and the last.

    score_knots, mos_knots: f. spread_knots, spreads: the mean error at f(score), of which sigma is
    `spreads · (1 + std_slope · z)`; z is how many `std_scale` the std lies above `std_mean`. quantile: q.
    """

    score_knots: tuple[Finite, ...] = Field(min_length=1)
    mos_knots: tuple[OnScale, ...] = Field(min_length=1)
    spread_knots: tuple[OnScale, ...] = Field(min_length=1)
    spreads: tuple[Annotated[Finite, Field(gt=0)], ...] = Field(min_length=1)
    std_mean: Finite
    std_scale: Finite = Field(gt=0)
    std_slope: Finite
    quantile: Finite = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for x, y in ((self.score_knots, self.mos_knots), (self.spread_knots, self.spreads)):
            if len(x) != len(y) or (np.diff(x) <= 0).any():
                raise ValueError("knots must rise, and have one value each")
        if (np.diff(self.mos_knots) < 0).any():
            raise ValueError("mos_knots must not fall")
        return self

    def mos(self, scores: Array) -> Array:
        """f(score)."""
        return np.interp(scores, self.score_knots, self.mos_knots)

    def spread(self, mos: Array, stds: Array) -> Array:
        """sigma, positive. `stds` is NaN where there is none; such an image counts as one of average std."""
        spread = np.interp(mos, self.spread_knots, self.spreads)
        z = (np.nan_to_num(stds, nan=self.std_mean) - self.std_mean) / self.std_scale
        factor = 1 + self.std_slope * z.clip(-MOST_STDS, MOST_STDS)
        return spread * factor.clip(LEAST_SPREAD)

    def intervals(self, scores: Array, stds: Array) -> Intervals:
        """The intervals of images with these scores, cut to [1, 5]."""
        mos = self.mos(scores)
        half = self.quantile * self.spread(mos, stds)
        return Intervals((mos - half).clip(1, 5), mos, (mos + half).clip(1, 5))


class Check(Settings):
    """How often the interval held the MOS of images that its own fit had not seen, and its mean width on 1 to 5.

    coverage: of all images; then of the fifths with the lowest and highest MOS, and with the lowest and highest scores.
    Only the first is promised. The fifths of the MOS must be covered less: an image is among the best rated partly by
    luck, which no predictor sees.
    """

    coverage: Share
    mean_width: Finite
    lowest_mos: Share
    highest_mos: Share
    lowest_scores: Share
    highest_scores: Share


def fit_conformal(scores: Array, stds: Array, mos: Array, coverage: float) -> Conformal:
    """f and sigma from the first half of the images, q from the second. Their order must say nothing about them."""
    half = len(scores) // 2
    x, d, y = scores[:half], stds[:half], mos[:half]
    score_knots, mos_knots = isotonic(x, y)
    # Errors on images that each map has not seen: seen ones lie nearer, above all at the ends.
    error = np.empty(half)
    for fold in range(FOLDS):
        held = np.arange(half) % FOLDS == fold
        error[held] = np.abs(y[held] - np.interp(x[held], *isotonic(x[~held], y[~held])))
    # Where there is no error at all, any spread will do.
    average = float(error.mean()) or 1.0
    mapped = np.interp(x, score_knots, mos_knots)
    spread_knots, spreads = _spreads(mapped, error, average)
    fitted = Conformal(
        score_knots=tuple(score_knots.tolist()),
        mos_knots=tuple(mos_knots.tolist()),
        spread_knots=tuple(spread_knots.tolist()),
        spreads=tuple(spreads.tolist()),
        quantile=0,
        **_std_slope(d, error / np.interp(mapped, spread_knots, spreads)),
    )
    x, d, y = scores[half:], stds[half:], mos[half:]
    mapped = fitted.mos(x)
    ratios = np.sort(np.abs(y - mapped) / fitted.spread(mapped, d))
    # Rounded, since 0.9 · 10 may be a little more than 9 in binary.
    rank = math.ceil(round((len(ratios) + 1) * coverage, 9))
    return fitted.model_copy(update={"quantile": float(ratios[rank - 1])})


def isotonic(x: Array, y: Array) -> tuple[Array, Array]:
    """The non-decreasing curve nearest to the points, as knots: the mean x and y of each block of equal values.

    Between the blocks it is interpolated, so that scores which differ have ratings which differ.
    """
    from scipy.optimize import isotonic_regression  # takes a moment, and scoring does without it

    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=y) / counts
    fit = isotonic_regression(means, weights=counts)
    starts = fit.blocks[:-1]
    total = np.add.reduceat(counts, starts)
    return np.add.reduceat(values * counts, starts) / total, fit.x[starts]


def _spreads(mapped: Array, error: Array, average: float) -> tuple[Array, Array]:
    """The mean error in groups of images by f(score), at their mean f(score)."""
    groups = np.array_split(np.argsort(mapped, kind="stable"), GROUPS)
    knots = np.array([mapped[group].mean() for group in groups])
    sums = np.array([error[group].sum() for group in groups])
    sizes = np.array([len(group) for group in groups])
    spreads = (sums + PRIOR * average) / (sizes + PRIOR)
    # Groups at one place, as where all scores are equal, become one.
    knots, place = np.unique(knots, return_inverse=True)
    spreads = np.bincount(place, weights=spreads) / np.bincount(place)
    return knots, spreads.clip(LEAST_SPREAD * average)


def _std_slope(stds: Array, ratios: Array) -> dict[str, float]:
    """How the error, divided by the one expected at f(score), rises with the std: a shrunk least-squares slope."""
    known = ~np.isnan(stds)
    stds, ratios = stds[known], ratios[known]
    if len(stds) < 2 or np.ptp(stds) == 0:
        return {"std_mean": 0.0, "std_scale": 1.0, "std_slope": 0.0}
    mean, scale = float(stds.mean()), float(stds.std())
    z = ((stds - mean) / scale).clip(-MOST_STDS, MOST_STDS)
    # A few images that are far off must not decide.
    ratios = np.minimum(ratios, np.quantile(ratios, 0.95))
    slope = z @ (ratios - ratios.mean()) / (z @ z + STD_PRIOR)
    return {"std_mean": mean, "std_scale": scale, "std_slope": float(slope)}


def cross_check(scores: Array, stds: Array, mos: Array, coverage: float) -> Check:
    """Each fold's intervals from a calibration on the other folds, compared with its MOS.

    The halves alone have no image left to test on: each of them has shaped the intervals.
    """
    covered, width = np.empty(len(scores), dtype=bool), np.empty(len(scores))
    for fold in range(FOLDS):
        held = np.arange(len(scores)) % FOLDS == fold
        fitted = fit_conformal(scores[~held], stds[~held], mos[~held], coverage)
        low, _, high = fitted.intervals(scores[held], stds[held])
        covered[held] = (low <= mos[held]) & (mos[held] <= high)
        width[held] = high - low
    return coverage_check(covered, width, scores, mos)


def coverage_check(covered: Array, width: Array, scores: Array, mos: Array) -> Check:
    """The shares of n images whose interval, `width` wide, held the MOS (`covered`)."""
    fifth = len(scores) // 5
    by_mos, by_score = (covered[np.argsort(values, kind="stable")] for values in (mos, scores))
    return Check(
        coverage=float(covered.mean()),
        mean_width=float(width.mean()),
        lowest_mos=float(by_mos[:fifth].mean()),
        highest_mos=float(by_mos[-fifth:].mean()),
        lowest_scores=float(by_score[:fifth].mean()),
        highest_scores=float(by_score[-fifth:].mean()),
    )


def as_array(values: Sequence[float | None]) -> Array:
    """(n,) float64, NaN for None."""
    return np.array(values, dtype=np.float64)
