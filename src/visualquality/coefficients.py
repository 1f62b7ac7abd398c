"""SRCC, KRCC and PLCC of scores with mean opinion scores (MOS), on the scores as they are.

A coefficient that is not defined is NaN; `why_undefined` gives the reason in one sentence. PLCC after a mapping of the
scores is in `evaluate.logistic`.

The correlations are written here because torchmetrics' Spearman adds an epsilon, and because the weighted forms
compute a thousand resamples at once.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from .errors import UserError

Array = NDArray[np.float64]

NAN = float("nan")


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
