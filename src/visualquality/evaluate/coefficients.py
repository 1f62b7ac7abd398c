"""SRCC, KRCC, PLCC, and the 4-parameter logistic mapping of scores to mean opinion scores (MOS).

SRCC and KRCC are computed on the scores as they are. PLCC is given twice, because papers differ and often do not say
which they report: on the scores as they are, and after the logistic mapping of VQEG (final report of FR-TV phase I,
2000), as in DeQA-Score. A coefficient that is not defined is NaN; `why_undefined` and `LogisticFit.problem` give the
reason in one sentence.

The correlations are written here because torchmetrics' Spearman adds an epsilon, and because the weighted forms
compute a thousand resamples at once.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit
from scipy.stats import kendalltau

from ..errors import UserError

Array = NDArray[np.float64]

NAN = float("nan")
# Evaluations of the logistic in one fit. A fit that converges needs some tens.
MAX_EVALUATIONS = 1000


def pair(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Scores and MOS as float64 (n,) each. Raises `UserError` unless they are two lists of one length."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(
            f"scores and mos must be two lists of one length, not of shapes {a.shape} and {b.shape}"
        )
    return a, b


def why_undefined(x: ArrayLike, y: ArrayLike) -> str | None:
    """Why scores `x` (n,) and MOS `y` (n,) have no correlation, or None where they have one.

    Raises `UserError` where the lengths differ.
    """
    a, b = pair(x, y)
    if len(a) < 3:
        return f"a correlation needs at least 3 images, not {len(a)}"
    for name, values in (("score", a), ("mos", b)):
        finite = np.isfinite(values)
        if not finite.all():
            return f"{name} {int(np.argmin(finite)) + 1} of {len(values)} is not a finite number"
        if np.ptp(values) == 0:
            return f"the {name} of all {len(values)} images is the same ({values[0]:g})"
    return None


def unit(x: Array) -> Array:
    """`x` (n,), not constant, shifted to mean 0 and scaled to largest magnitude 1."""
    centred = x - x.mean()
    return centred / np.abs(centred).max()


def weighted_plcc(weights: Array, a: Array, b: Array) -> Array:
    """PLCC (R,) of `a` and `b`, each (n,) or (R, n) with values near 1, under each row of `weights` (R, n) >= 0.

    NaN where `a` or `b` has a single value among the images of positive weight.
    """
    total = weights.sum(1, keepdims=True)
    # Deviations from the weighted means; weights are how often an image counts.
    da = a - (weights * a).sum(1, keepdims=True) / total
    db = b - (weights * b).sum(1, keepdims=True) / total
    cov = np.einsum("rn,rn->r", weights * da, db)
    va = np.einsum("rn,rn->r", weights * da, da)
    vb = np.einsum("rn,rn->r", weights * db, db)
    # The rounding error of a mean of numbers near 1 is about 1e-16, and its square 1e-32. A variance
    # below 1e-28 is therefore rounding alone: all values are equal.
    defined = np.minimum(va, vb) > 1e-28 * total[:, 0]
    # Two square roots, since the product of two small variances could underflow.
    size = np.sqrt(np.where(defined, va, 1)) * np.sqrt(np.where(defined, vb, 1))
    return np.where(defined, np.clip(cov / size, -1, 1), np.nan)


def _weighted_midranks(weights: Array, x: Array) -> Array:
    """Average ranks (R, n) of `x` (n,) where image i occurs `weights[r, i]` times, mapped to [-½, ½] with mean 0.

    The rank of a group of equal values is the weight below the group plus half its own weight, so the resampled
    values need not be sorted again.
    """
    _, group = np.unique(x, return_inverse=True)
    order = np.argsort(group, kind="stable")
    # Where each group of equal values begins in this order.
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    upto = np.cumsum(size, axis=1)  # the weight of a group and of all below it
    return ((upto - size / 2) / upto[:, -1:] - 0.5)[:, group]


def weighted_srcc(weights: Array, x: Array, y: Array) -> Array:
    """SRCC (R,) of `x` (n,) and `y` (n,) under each row of `weights` (R, n) >= 0; NaN as in `weighted_plcc`."""
    return weighted_plcc(weights, _weighted_midranks(weights, x), _weighted_midranks(weights, y))


def srcc(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of `x` (n,) and `y` (n,), in [-1, 1]; equal values share their average rank.

    NaN where `why_undefined` gives a reason. Raises `UserError` where the lengths differ.

    >>> round(srcc([1, 2, 3, 4], [1, 20, 4000, 300]), 6)
    0.8
    """
    a, b = pair(x, y)
    if why_undefined(a, b):
        return NAN
    return float(weighted_srcc(np.ones((1, len(a))), a, b)[0])


def krcc(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's rank correlation tau-b of `x` (n,) and `y` (n,), in [-1, 1]. NaN and errors as of `srcc`."""
    a, b = pair(x, y)
    if why_undefined(a, b):
        return NAN
    # The method concerns only the p value, which is not used; "asymptotic" is the fast one.
    return float(kendalltau(a, b, method="asymptotic").statistic)


def plcc(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of `x` (n,) and `y` (n,), in [-1, 1], unmapped. NaN and errors as of `srcc`."""
    a, b = pair(x, y)
    if why_undefined(a, b):
        return NAN
    return float(weighted_plcc(np.ones((1, len(a))), unit(a), unit(b))[0])


def _logistic(x: Array, b0: float, b1: float, b2: float, b3: float) -> Array:
    # The sign of b3 would say the same as the order of b0 and b1, so only its size counts.
    width = max(abs(b3), 1e-12)
    return b1 + (b0 - b1) * expit((x - b2) / width)


def _logistic_jacobian(x: Array, b0: float, b1: float, b2: float, b3: float) -> Array:
    width = max(abs(b3), 1e-12)
    t = (x - b2) / width
    rise = expit(t)
    slope = (b0 - b1) * rise * (1 - rise) / width
    sign = -1 if b3 < 0 else 1  # derivative of |b3|
    return np.stack([rise, 1 - rise, -slope, -slope * t * sign], axis=1)


@dataclass(frozen=True)
class LogisticFit:
    """f(x) = b1 + (b0 - b1) / (1 + exp(-(x - b2)/|b3|)), falling if b0 < b1; NaN where `problem` says why."""

    b0: float
    b1: float
    b2: float
    b3: float
    problem: str | None = None

    def __call__(self, x: ArrayLike) -> Array:
        """The mapped scores, same shape as `x`, in the unit of the MOS; NaN for a failed fit."""
        return _logistic(np.asarray(x, dtype=np.float64), self.b0, self.b1, self.b2, self.b3)

    def plcc(self, x: ArrayLike, y: ArrayLike) -> float:
        """PLCC of the mapped scores and `y`, negative for a falling curve; NaN for a failed fit."""
        if self.problem:
            return NAN
        # The mapping of a falling curve turns the scores around; the sign turns them back.
        direction = float(np.sign(self.b0 - self.b1))
        return direction * plcc(self(x), y)


def _failed(problem: str) -> LogisticFit:
    return LogisticFit(NAN, NAN, NAN, NAN, problem)


def logistic4(x: ArrayLike, y: ArrayLike, *, start: LogisticFit | None = None) -> LogisticFit:
    """Least-squares fit of the 4-parameter logistic that maps scores `x` (n,) to MOS `y` (n,).

    The fit starts at VQEG's [max y, min y, mean x, std x / 4], with the first two swapped where the ranks of x and y
    run against each other, or at `start`. It is solved (Levenberg-Marquardt) on standardised x and y, so that the
    result does not depend on their units. Raises `UserError` where the lengths differ. A fit that fails, for example
    because its optimum lies at infinity, has a `problem`.
    """
    a, b = pair(x, y)
    if reason := why_undefined(a, b):
        return _failed(reason)
    if len(a) < 5:
        return _failed(
            f"the logistic mapping has 4 parameters and needs at least 5 images, not {len(a)}"
        )
    mean, std = float(a.mean()), float(a.std())
    floor, span = float(b.min()), float(np.ptp(b))
    # First values of the parameters in standardised units: b0, b1 in spans of y, b2, b3 in std of x.
    if start is not None:
        ends = [(start.b0 - floor) / span, (start.b1 - floor) / span]
        first = [*ends, (start.b2 - mean) / std, start.b3 / std]
    elif srcc(a, b) >= 0:
        first = [1, 0, 0, 0.25]
    else:
        # From the rising start, a falling relation can end in a poor local optimum.
        first = [0, 1, 0, 0.25]
    data = ((a - mean) / std, (b - floor) / span)
    try:
        # Where a parameter hardly matters, its covariance overflows or is unknown. It is not used here.
        with (
            np.errstate(over="ignore"),
            warnings.catch_warnings(action="ignore", category=OptimizeWarning),
        ):
            found, _ = curve_fit(
                _logistic, *data, first, jac=_logistic_jacobian, maxfev=MAX_EVALUATIONS
            )
    except RuntimeError:
        return _failed(f"the logistic fit did not converge in {MAX_EVALUATIONS} evaluations")
    b0, b1, b2, b3 = (float(value) for value in found)
    # Back from standardised units.
    fit = LogisticFit(
        b0=floor + span * b0,
        b1=floor + span * b1,
        b2=mean + std * b2,
        b3=std * b3,
    )
    if not np.isfinite([fit.b0, fit.b1, fit.b2, fit.b3]).all():
        return _failed("the logistic fit ran to infinity")
    if np.ptp(fit(a)) <= 1e-12 * span:
        return _failed("the fitted curve is flat")
    return fit


def plcc_logistic4(x: ArrayLike, y: ArrayLike) -> float:
    """PLCC of `logistic4`-mapped scores `x` (n,) and MOS `y` (n,), in [-1, 1].

    A falling curve gives a negative value: the mapping would otherwise hide that scores run against MOS. NaN where
    the fit failed (`logistic4(x, y).problem` says why). Raises `UserError` where the lengths differ.
    """
    return logistic4(x, y).plcc(x, y)
