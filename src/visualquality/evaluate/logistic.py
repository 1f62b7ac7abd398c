"""PLCC after the 4-parameter logistic mapping of scores to mean opinion scores (MOS).

Papers differ in whether they map the scores before PLCC, and often do not say so. The mapping is that of VQEG (final
report of FR-TV phase I, 2000), as in DeQA-Score.

The fit is written here for two reasons. It is done for all resamples of a bootstrap at once. And it repeats: SciPy's
Levenberg-Marquardt gives other last digits from call to call on the same numbers (seen with 1.17), which a fit of few
images amplifies to the second decimal of an interval. Here every sum has one order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ..coefficients import NAN, Array, pair, plcc, srcc, unit, weighted_plcc, why_undefined

# Steps of one fit, those that are taken back too. A fit that converges needs some tens.
MAX_STEPS = 1000
# A fit has converged when a step makes the sum of squares smaller by less than this share.
TOLERANCE = 1.5e-8
# A curve that leaves this share of the squares of MOS goes through every point. Where they lie on a straight line, the
# squares would fall for ever, as the curve becomes wider.
EXACT = 1e-12
LEAST_WIDTH = 1e-12
FEWEST = 5


@dataclass(frozen=True)
class LogisticFit:
    """f(x) = b1 + (b0 - b1) / (1 + exp(-(x - b2)/b3)), b3 > 0, falling if b0 < b1; NaN where `problem` says why."""

    b0: float
    b1: float
    b2: float
    b3: float
    problem: str | None = None

    def __call__(self, x: ArrayLike) -> Array:
        """The mapped scores, same shape as `x`, in the unit of the MOS; NaN for a failed fit."""
        rise = expit((np.asarray(x, dtype=np.float64) - self.b2) / self.b3)
        return self.b1 + (self.b0 - self.b1) * rise

    def plcc(self, x: ArrayLike, y: ArrayLike) -> float:
        """PLCC of the mapped scores and `y`, negative for a falling curve; NaN for a failed fit."""
        if self.problem:
            return NAN
        # The mapping of a falling curve turns the scores around; the sign turns them back.
        direction = float(np.sign(self.b0 - self.b1))
        return direction * plcc(self(x), y)


def _failed(problem: str) -> LogisticFit:
    return LogisticFit(NAN, NAN, NAN, NAN, problem)


def logistic4(x: ArrayLike, y: ArrayLike) -> LogisticFit:
    """Least-squares fit of the 4-parameter logistic that maps scores `x` (n,) to MOS `y` (n,).

    The fit starts at VQEG's [max y, min y, mean x, std x / 4], with the first two swapped where the ranks of x and y
    run against each other. It is solved (Levenberg-Marquardt) on standardised x and y, so that the result does not
    depend on their units. Raises `UserError` where the lengths differ. A fit that fails, for example because its
    optimum lies at infinity, has a `problem`.
    """
    a, b = pair(x, y)
    if reason := why_undefined(a, b):
        return _failed(reason)
    if len(a) < FEWEST:
        return _failed(
            f"the logistic mapping has 4 parameters and needs at least {FEWEST} images, not {len(a)}"
        )
    scale = _Scale.of(a, b)
    # From the rising start, a falling relation can end in a poor local optimum.
    first = [1, 0, 0, 0.25] if srcc(a, b) >= 0 else [0, 1, 0, 0.25]
    found, converged = _least_squares(
        np.ones((1, len(a))), *scale.standardised(a, b), np.array(first, dtype=np.float64)
    )
    if not converged[0]:
        return _failed(f"the logistic fit did not converge in {MAX_STEPS} steps")
    fit = scale.original(found[0])
    if not np.isfinite([fit.b0, fit.b1, fit.b2, fit.b3]).all():
        return _failed("the logistic fit ran to infinity")
    if np.ptp(fit(a)) <= 1e-12 * scale.span:
        return _failed("the fitted curve is flat")
    return fit


def weighted_plcc_logistic(weights: Array, x: Array, y: Array, start: LogisticFit) -> Array:
    """`LogisticFit.plcc` (R,) of scores `x` (n,) and MOS `y` (n,), fitted anew under each row of `weights` (R, n) >= 0.

    start: the fit of all images, which saves most of the steps. NaN where a fit fails, or where the scores or the MOS
    of positive weight are all the same.
    """
    scale = _Scale.of(x, y)
    a, b = scale.standardised(x, y)
    found, converged = _least_squares(weights, a, b, scale.parameters(start))
    b0, b1, b2, b3 = (column[:, None] for column in found.T)
    rise = expit((a - b2) / b3)
    seen = weights > 0
    highest = np.where(seen, rise, 0).max(1, keepdims=True)
    height = highest - np.where(seen, rise, 1).min(1, keepdims=True)
    not_flat = np.abs(b0 - b1) * height > 1e-12
    sound = not_flat & (converged & np.isfinite(found).all(1))[:, None]
    # PLCC is the same for the curve between 0 and 1. Seen images are moved to [-1, 0], for `weighted_plcc`.
    mapped = np.where(seen & sound, (rise - highest) / np.where(sound, height, 1), 0)
    return np.sign(b0 - b1)[:, 0] * weighted_plcc(weights, mapped, unit(y))


@dataclass(frozen=True)
class _Scale:
    """The units of a fit: x in its std from its mean, y in its span from its lowest."""

    mean: float
    std: float
    floor: float
    span: float

    @classmethod
    def of(cls, x: Array, y: Array) -> "_Scale":
        return cls(float(x.mean()), float(x.std()), float(y.min()), float(np.ptp(y)))

    def standardised(self, x: Array, y: Array) -> tuple[Array, Array]:
        return (x - self.mean) / self.std, (y - self.floor) / self.span

    def parameters(self, fit: LogisticFit) -> Array:
        """The parameters (4,) of a fit in these units."""
        ends = [(fit.b0 - self.floor) / self.span, (fit.b1 - self.floor) / self.span]
        return np.array([*ends, (fit.b2 - self.mean) / self.std, fit.b3 / self.std])

    def original(self, parameters: Array) -> LogisticFit:
        """The fit of parameters (4,) that are in these units."""
        b0, b1, b2, b3 = (float(value) for value in parameters)
        return LogisticFit(
            b0=self.floor + self.span * b0,
            b1=self.floor + self.span * b1,
            b2=self.mean + self.std * b2,
            b3=self.std * b3,
        )


def _least_squares(
    weights: Array, x: Array, y: Array, first: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Levenberg-Marquardt (Moré 1978, with the damping of Nielsen 1999) for each row of `weights` (R, n) by itself.

    x, y (n,) are standardised, `first` (4,) is where all rows start. Returns the parameters (R, 4) and whether each
    row converged (R,). Rows that have converged are no longer computed.
    """
    rows = len(weights)
    result, converged = np.tile(first, (rows, 1)), np.zeros(rows, dtype=bool)
    damping, growth = np.full(rows, 1e-3), np.full(rows, 2.0)
    scaling = np.zeros((rows, 4))
    # The sum of squares at which a curve goes through every point.
    exact = EXACT * (weights * np.square(y)).sum(1)
    active = np.arange(rows)
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        w, parameters = weights[active], result[active]
        normal, gradient, before = _normal_equations(w, x, y, parameters)
        # The largest curvature so far is each parameter's own unit; one that has had no effect has unit 1.
        scaling[active] = np.maximum(scaling[active], np.diagonal(normal, axis1=1, axis2=2))
        own = np.where(scaling[active] > 0, scaling[active], 1)
        damped = normal + (damping[active, None] * own)[:, :, None] * np.eye(4)
        step = _solve(damped, -gradient)
        tried = parameters + step
        # The sign of the width would say the same as the order of the two ends.
        tried[:, 3] = np.maximum(np.abs(tried[:, 3]), LEAST_WIDTH)
        after = _squares(w, x, y, tried)
        # By how much the linear model says that the sum of squares falls.
        foreseen = -(step * gradient).sum(1) * 2 - _quadratic(normal, step)
        with np.errstate(invalid="ignore", divide="ignore"):
            quality = (before - after) / foreseen
        better = after < before
        small = foreseen <= TOLERANCE * before
        done = (before <= exact[active]) | (
            small & (~better | (before - after <= TOLERANCE * before))
        )
        result[active[better]] = tried[better]
        change = np.where(better, np.maximum(1 / 3, 1 - (2 * quality - 1) ** 3), growth[active])
        damping[active] = np.clip(damping[active] * change, 1e-15, 1e15)
        growth[active] = np.where(better, 2.0, growth[active] * 2)
        converged[active[done]] = True
        active = active[~done]
    return result, converged


def _residuals(x: Array, y: Array, parameters: Array) -> tuple[Array, Array, Array]:
    """Of parameters (R, 4): the place of each x in widths, the rise there, 0 to 1, and curve less y; (R, n) each."""
    b0, b1, b2, b3 = (column[:, None] for column in parameters.T)
    place = (x - b2) / b3
    rise = expit(place)
    return place, rise, b1 + (b0 - b1) * rise - y


def _squares(weights: Array, x: Array, y: Array, parameters: Array) -> Array:
    """The weighted sum of squares (R,) of parameters (R, 4)."""
    return (weights * np.square(_residuals(x, y, parameters)[2])).sum(1)


def _normal_equations(
    weights: Array, x: Array, y: Array, parameters: Array
) -> tuple[Array, Array, Array]:
    """J'WJ (R, 4, 4), J'Wr (R, 4) and r'Wr (R,) of parameters (R, 4), J the derivatives of the residuals r."""
    place, rise, residual = _residuals(x, y, parameters)
    slope = (parameters[:, :1] - parameters[:, 1:2]) * rise * (1 - rise) / parameters[:, 3:]
    derivatives = (rise, 1 - rise, -slope, -slope * place)
    normal, gradient = np.empty((len(weights), 4, 4)), np.empty((len(weights), 4))
    for i, one in enumerate(derivatives):
        weighted = weights * one
        gradient[:, i] = (weighted * residual).sum(1)
        for j in range(i + 1):
            # Plain sums and not `@`, which may add in another order from call to call.
            normal[:, i, j] = normal[:, j, i] = (weighted * derivatives[j]).sum(1)
    return normal, gradient, (weights * np.square(residual)).sum(1)


def _quadratic(matrix: Array, vector: Array) -> Array:
    """v'Mv (R,)."""
    return (vector[:, :, None] * matrix * vector[:, None, :]).sum((1, 2))


def _solve(matrix: Array, right: Array) -> Array:
    """The solutions (R, 4) of positive definite systems (R, 4, 4), by elimination without pivots."""
    rows = np.concatenate([matrix, right[:, :, None]], axis=2)
    for i in range(4):
        pivot = rows[:, i] / rows[:, i, i, None]
        factor = rows[:, :, i].copy()
        factor[:, i] = 0
        rows -= factor[:, :, None] * pivot[:, None, :]
        rows[:, i] = pivot
    return rows[:, :, 4]
