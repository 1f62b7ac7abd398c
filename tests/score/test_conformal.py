"""Intervals hold as often as they say, on simulated ratings whose errors are not equally large."""

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.isotonic import IsotonicRegression

from visualquality.score.conformal import Conformal, cross_check, fit_conformal, isotonic


def simulated(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Scores, stds and MOS of n images: the map is a curve, and errors grow with the score and with the std."""
    rng = np.random.default_rng(seed)
    scores, stds = rng.uniform(1, 5, n), rng.uniform(0.1, 0.5, n)
    error = (0.02 + 0.06 * scores) * (0.4 + 2 * stds)
    mos = 1.5 + 2 / (1 + np.exp(3 - scores)) + error * rng.standard_t(5, n)
    return scores, stds, mos.clip(1, 5)


def held(fitted: Conformal, scores: np.ndarray, stds: np.ndarray, mos: np.ndarray) -> np.ndarray:
    low, middle, high = fitted.intervals(scores, stds)
    assert (low >= 1).all()
    assert (high <= 5).all()
    assert (low <= middle).all()
    assert (middle <= high).all()
    return (low <= mos) & (mos <= high)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_intervals_hold_as_often_as_they_say(coverage):
    """Exactly so in the mean over calibrations, where coverage · (m + 1) is a whole number; m is half of the images."""
    fits, fresh, m = 300, 500, 39
    shares = []
    for seed in range(fits):
        fitted = fit_conformal(*simulated(2 * m, seed), coverage)
        shares.append(held(fitted, *simulated(fresh, 1000 + seed)).mean())
    # The coverage of one calibration follows a beta distribution; its estimate on fresh images is binomial.
    variance = coverage * (1 - coverage)
    error = np.sqrt((variance / (m + 2) + variance / fresh) / fits)
    assert np.mean(shares) == pytest.approx(coverage, abs=4 * error)
    assert 4 * error < 1 / (m + 1)  # so that a quantile one too far is seen


def test_wide_where_errors_are_large_so_that_each_group_is_covered():
    fitted = fit_conformal(*simulated(2000, 0), 0.9)
    scores, stds, mos = simulated(20_000, 1)
    covered = held(fitted, scores, stds, mos)
    low, _, high = fitted.intervals(scores, stds)
    for values in (scores, stds):
        order = np.argsort(values)
        for group in (order[:4000], order[-4000:]):
            assert covered[group].mean() == pytest.approx(0.9, abs=0.045)
        assert np.mean((high - low)[order[-4000:]]) > 1.4 * np.mean((high - low)[order[:4000]])


@pytest.mark.parametrize("change", ["no std", "one std", "some stds", "one score"])
def test_what_says_nothing_still_gives_intervals_that_hold(change):
    def data(n: int, seed: int) -> tuple[np.ndarray, ...]:
        scores, stds, mos = simulated(n, seed)
        if change == "no std":
            stds = np.full(n, np.nan)
        if change == "one std":
            stds = np.full(n, 0.25)
        if change == "some stds":
            stds = np.where(np.arange(n) % 3 == 0, np.nan, stds)
        if change == "one score":
            scores = np.full(n, 3.0)
        return scores, stds, mos

    shares = [
        held(fit_conformal(*data(300, seed), 0.9), *data(1000, 100 + seed)).mean()
        for seed in range(10)
    ]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.04)


def test_a_model_that_is_right_has_intervals_of_no_width():
    x = np.linspace(1, 5, 100)[np.random.default_rng(0).permutation(100)]
    fitted = fit_conformal(np.full(100, 2.0), np.full(100, 0.1), np.full(100, 4.0), 0.9)
    assert fitted.intervals(np.array([2.0]), np.array([0.1])).low == 4.0
    low, _, high = fit_conformal(x, np.full(100, 0.1), x, 0.9).intervals(x, np.full(100, 0.1))
    assert (high - low).max() < 0.1


def test_the_map_is_isotonic_regression():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 40, 200) / 10  # with ties
    y = x + rng.normal(0, 1, 200)
    knots, values = isotonic(x, y)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) > 0).all()
    fitted = IsotonicRegression().fit(x, y).predict(x)
    assert sorted(set(fitted.round(9))) == pytest.approx(values.tolist())
    # Each knot is at the mean place of its block.
    for knot, value in zip(knots, values, strict=True):
        assert knot == pytest.approx(x[np.isclose(fitted, value)].mean())
    falling = isotonic(x, -x)
    assert len(falling[0]) == 1


def test_the_check_measures_on_images_that_a_fit_has_not_seen():
    scores, stds, mos = simulated(1000, 3)
    check = cross_check(scores, stds, mos, 0.9)
    assert check.coverage == pytest.approx(0.9, abs=0.03)
    assert check.lowest_scores == pytest.approx(0.9, abs=0.09)
    assert check.highest_scores == pytest.approx(0.9, abs=0.09)
    low, _, high = fit_conformal(scores, stds, mos, 0.9).intervals(scores, stds)
    assert check.mean_width == pytest.approx((high - low).mean(), rel=0.1)
    # Few images fit their own map well, and would be covered too often: 57 % of them here.
    few = [cross_check(*simulated(80, seed), 0.5).coverage for seed in range(60)]
    assert np.mean(few) == pytest.approx(17 / 33, abs=0.025)  # 32 images in the second half
    # Where scores say nothing of the MOS, the best and the worst images are those that chance put far off.
    noise = cross_check(np.random.default_rng(0).permutation(scores), stds, mos, 0.5)
    assert noise.coverage == pytest.approx(0.5, abs=0.06)
    assert max(noise.lowest_mos, noise.highest_mos) < 0.4


@pytest.mark.parametrize(
    "change",
    [
        {"score_knots": [2, 1]},
        {"mos_knots": [4, 2]},
        {"mos_knots": [2, 6]},
        {"spreads": [0.2, 0]},
        {"spreads": [0.2]},
        {"quantile": float("inf")},
        {"std_scale": 0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change):
    good = {
        "score_knots": [1, 5],
        "mos_knots": [2, 4],
        "spread_knots": [2, 4],
        "spreads": [0.2, 0.3],
        "std_mean": 0.2,
        "std_scale": 0.1,
        "std_slope": 0.1,
        "quantile": 2,
    }
    assert Conformal(**good).intervals(np.array([3.0]), np.array([np.nan])).mos == 3
    with pytest.raises(ValidationError):
        Conformal(**{**good, **change})
