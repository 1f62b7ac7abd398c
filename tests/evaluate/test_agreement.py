"""Agreement of scores with MOS: against scipy, against known answers, and what has none."""

import io
import json
import math
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import curve_fit
from scipy.special import expit

from visualquality.coefficients import krcc, plcc, srcc, why_undefined
from visualquality.errors import UserError
from visualquality.evaluate import agreement as module
from visualquality.evaluate.agreement import (
    DECIMALS,
    Agreement,
    Estimate,
    agreement,
    average,
    srcc_estimate,
    table,
)
from visualquality.evaluate.logistic import logistic4, weighted_plcc_logistic

KEYS = ("srcc", "krcc", "plcc", "plcc_logistic")


def plcc_logistic4(x, y) -> float:
    return logistic4(x, y).plcc(x, y)


def noisy(n: int, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, n)
    return mos + rng.normal(0, noise, n), mos


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 5)), min_size=3, max_size=40),
    st.randoms(),
)
def test_the_coefficients_are_scipys_ties_included(rows, random):
    x, y = np.array(rows, dtype=float).T
    assume(np.ptp(x) > 0)
    assume(np.ptp(y) > 0)
    assert srcc(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert plcc(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    # tau-b by its definition, over all pairs
    dx, dy = (np.sign(v[:, None] - v) for v in (x, y))
    assert krcc(x, y) == pytest.approx(
        (dx * dy).sum() / math.sqrt((dx**2).sum() * (dy**2).sum()), abs=1e-12
    )
    for coefficient in (srcc, krcc, plcc):
        assert coefficient(x, -y) == pytest.approx(-coefficient(x, y), abs=1e-12)
        assert coefficient(3e4 * x + 7e5, y) == pytest.approx(coefficient(x, y), abs=1e-9)
    order = random.sample(range(len(x)), len(x))
    assert srcc(x[order], y[order]) == pytest.approx(srcc(x, y), abs=1e-12)


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("falling", [False, True])
def test_the_logistic_recovers_its_parameters_in_any_unit_and_direction(unit, falling):
    x = np.linspace(1, 5, 200) * unit
    b0, b1, b2, b3 = (
        (12.0, 90.0, 2.7 * unit, 0.6 * unit) if falling else (90.0, 12.0, 2.7 * unit, 0.6 * unit)
    )
    y = b1 + (b0 - b1) / (1 + np.exp(-(x - b2) / b3))
    fit = logistic4(x, y)
    assert fit.problem is None
    assert [fit.b0, fit.b1, fit.b2, abs(fit.b3)] == pytest.approx([b0, b1, b2, b3], rel=1e-5)
    assert fit(x) == pytest.approx(y, rel=1e-6)
    # the sign stays: a mapping must not make scores that run against MOS look good
    assert plcc_logistic4(x, y) == pytest.approx(-1 if falling else 1, abs=1e-9)


def test_the_logistic_straightens_a_bent_relation_and_keeps_a_straight_one():
    x, y = noisy(300)
    bent = np.tanh(1.5 * (x - 3))
    assert plcc_logistic4(x, bent) > 0.9999 > plcc(x, bent) + 0.02
    assert plcc_logistic4(y, 2 * y + 1) == pytest.approx(1, abs=1e-6)
    assert plcc(x, y) <= plcc_logistic4(x, y) < plcc(x, y) + 0.02
    assert plcc_logistic4(-x, y) == pytest.approx(-plcc_logistic4(x, y), abs=1e-6)


@pytest.mark.parametrize(("n", "noise"), [(30, 0.3), (300, 1.0)])
def test_the_logistic_is_that_of_scipy_for_all_images_and_for_each_resample(n, noise):
    x, y = noisy(n, noise=noise)
    y = np.tanh(y - 3)

    def theirs(a, b):
        start = [b.max(), b.min(), a.mean(), a.std() / 4]
        found, _ = curve_fit(lambda v, p, q, r, s: q + (p - q) * expit((v - r) / s), a, b, start)
        return plcc(found[1] + (found[0] - found[1]) * expit((a - found[2]) / found[3]), b)

    fit = logistic4(x, y)
    assert fit.plcc(x, y) == pytest.approx(theirs(x, y), abs=1e-6)
    drawn = np.random.default_rng(0).integers(0, n, (20, n))
    counts = np.stack([np.bincount(each, minlength=n) for each in drawn]).astype(float)
    ours = weighted_plcc_logistic(counts, x, y, fit)
    assert ours == pytest.approx([theirs(x[each], y[each]) for each in drawn], abs=1e-6)


def test_the_same_numbers_have_the_same_intervals_wherever_they_lie_in_memory():
    """8 images leave fits so loose that the last digit of a sum decides where they end."""
    x, y = np.random.default_rng(3).uniform(1, 5, (2, 8))
    places = []
    found = set()
    for i in range(30):
        places.append(bytearray(37 * i + 1))
        found.add(str(agreement(x.copy(), y.copy(), bootstrap=200)))
    assert len(found) == 1


@pytest.mark.parametrize("seed", [115, 120])
def test_a_falling_fit_is_the_mirror_of_the_rising_one(seed):
    """From VQEG's start as it stands, each of these falls into a poor local optimum."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 5, 60)
    y = np.tanh((x - rng.uniform(1.5, 4.5)) * rng.uniform(0.5, 6)) + rng.normal(0, 0.2, 60)
    assert plcc_logistic4(x, -y) == pytest.approx(-plcc_logistic4(x, y), abs=1e-4)
    assert plcc_logistic4(x, -y) < -0.9


def test_a_fit_that_fails_is_reported_and_nothing_takes_its_place():
    x = np.linspace(1, 5, 60)
    y = np.exp(3 * x)  # the best logistic has its upper end at infinity
    with warnings.catch_warnings(action="error"):
        fit = logistic4(x, y)
        for seed in (1, 21):  # a step, whose covariance is unknown or overflows
            assert logistic4(*np.random.default_rng(seed).normal(size=(2, 8))).problem is None
    assert "did not converge" in str(fit.problem)
    assert np.isnan([fit.b0, fit.b1, fit.b2, fit.b3, *fit(x)]).all()
    assert math.isnan(plcc_logistic4(x, y))
    found = agreement(x, y, bootstrap=20)
    assert found.problems == (f"PLCC (logistic): {fit.problem}",)
    assert found.srcc.value == pytest.approx(1)
    assert found.to_dict()["plcc_logistic"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "at least 3 images, not 0"),
        ([1, 2], [1, 2], "at least 3 images, not 2"),
        ([3, 3, 3, 3], [1, 2, 3, 4], "the score of all 4 images is the same (3)"),
        ([1, 2, 3], [2, 2, 2], "the mos of all 3 images is the same (2)"),
        ([1, math.nan, 3], [1, 2, 3], "score 2 of 3 is not a finite number"),
        ([1, 2, 3], [1, 2, math.inf], "mos 3 of 3 is not a finite number"),
    ],
)
def test_what_is_undefined_is_nan_with_a_reason(x, y, reason):
    assert reason in str(why_undefined(x, y))
    assert reason in str(logistic4(x, y).problem)
    assert all(math.isnan(coefficient(x, y)) for coefficient in (srcc, krcc, plcc, plcc_logistic4))


def test_wrong_input_is_refused_and_four_images_have_no_logistic():
    with pytest.raises(UserError, match="one length"):
        srcc([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="one length"):
        agreement([1.0, 2.0, 3.0], [1, 2])
    with pytest.raises(UserError, match="mos 2 of 3"):
        agreement([1.0, 2.0, 3.0], [1, math.nan, 2])
    assert "at least 5 images, not 4" in str(logistic4([1, 2, 3, 4], [1, 2, 4, 3]).problem)


def test_unreadable_scores_are_left_out_and_counted():
    x, y = noisy(40)
    holed: list[float | None] = list(x)
    holed[3], holed[17], holed[30] = None, math.nan, None
    found, whole = (
        agreement(holed, y, bootstrap=50),
        agreement(np.delete(x, [3, 17, 30]), np.delete(y, [3, 17, 30]), bootstrap=50),
    )
    assert (found.n, found.n_unreadable, whole.n_unreadable) == (37, 3, 0)
    assert all(getattr(found, key) == getattr(whole, key) for key in KEYS)
    none = agreement([None] * 5, range(5))
    assert (none.n, none.n_unreadable) == (0, 5)
    assert none.problems == ("a correlation needs at least 3 images, not 0",)
    json.dumps(none.to_dict(), allow_nan=False)


def test_the_interval_is_that_of_plain_resampling(monkeypatch):
    """Ranks by weights must be ranks of the resampled images; chunks must not change the result."""
    x, y = np.round(noisy(30), 1)
    found = agreement(x, y, bootstrap=300, seed=5)
    drawn = np.random.default_rng(5).integers(0, 30, (300, 30))
    for key, plain in (
        ("srcc", scipy.stats.spearmanr),
        ("plcc", scipy.stats.pearsonr),
        ("krcc", scipy.stats.kendalltau),
    ):
        rows = drawn[: module.SLOW_RESAMPLES] if key == "krcc" else drawn
        low, high = np.percentile([plain(x[i], y[i]).statistic for i in rows], [2.5, 97.5])
        assert getattr(found, key).low == pytest.approx(low, abs=1e-12)
        assert getattr(found, key).high == pytest.approx(high, abs=1e-12)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 30 * 7)
    assert agreement(x, y, bootstrap=300, seed=5) == found
    assert agreement(x, y, bootstrap=300, seed=6).srcc.low != found.srcc.low
    assert (found.bootstrap, found.bootstrap_slow) == (300, 200)


def test_one_bootstrap_for_whole_sets_and_for_their_parts():
    """A breakdown once used resamples of its own: the same images had two intervals on one page."""
    x, y = np.round(noisy(60), 1)
    assert srcc_estimate(x, y) == agreement(x, y).srcc


def test_numbers_are_the_same_whatever_the_order_of_the_sums():
    """Their last bits depend on the order of sums, which memory alignment changes from run to run."""
    x, y = noisy(101)
    found = agreement(x, y, bootstrap=50).to_dict()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        other = agreement(x[order], y[order], bootstrap=0).to_dict()
        for key in KEYS:
            assert other[key]["value"] == found[key]["value"]
    for key in KEYS:
        assert all(round(number, DECIMALS) == number for number in found[key].values())


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(module, "SLOW_RESAMPLES", 0)
    truth = 1 / math.sqrt(1 + 0.5**2 / (16 / 12))  # PLCC of U(1, 5) with itself plus noise of 0.5
    trials = [agreement(*noisy(80, seed), bootstrap=400).plcc for seed in range(60)]
    assert 52 <= sum(one.low <= truth <= one.high for one in trials) <= 60
    assert all(one.low < one.value < one.high for one in trials)
    # the width falls with √n
    more = agreement(*noisy(80 * 25), bootstrap=400).plcc
    assert (more.high - more.low) * 5 == pytest.approx(
        np.mean([one.high - one.low for one in trials]), rel=0.25
    )


def test_resamples_without_a_value_are_counted_and_none_asked_for_gives_none():
    found = agreement([0.3] * 9 + [0.9], [*range(9), 9.5], bootstrap=100)
    drawn = np.random.default_rng(0).integers(0, 10, (100, 10))
    constant = int((drawn != 9).all(1).sum())
    for name in ("SRCC", "KRCC", "PLCC"):  # PLCC too, where rounding alone would make a correlation
        assert f"{name}: undefined in {constant} of the 100 resamples" in found.problems
    assert -1 <= found.srcc.low <= found.srcc.high <= 1
    bare = agreement(*noisy(20), bootstrap=0)
    assert bare.to_dict()["srcc"] == {"value": bare.srcc.value, "low": None, "high": None}
    assert bare.problems == ()


def test_the_average_is_the_plain_mean_with_errors_as_squares():
    def one(n: int, value: float, half: float) -> Agreement:
        estimates = {key: Estimate(value, value - half, value + 2 * half) for key in KEYS}
        return Agreement(n=n, n_unreadable=1, bootstrap=10, bootstrap_slow=10, **estimates)

    mean = average([one(10, 0.5, 0.03), one(1000, 0.7, 0.04)])
    assert (mean.n, mean.n_unreadable, mean.problems) == (1010, 2, ())
    for key in KEYS:
        estimate = getattr(mean, key)
        assert [estimate.value, estimate.low, estimate.high] == pytest.approx([0.6, 0.575, 0.65])
    broken = average([one(10, 0.5, 0.03), one(10, math.nan, 0.03)])
    assert math.isnan(broken.krcc.value)
    assert "KRCC: undefined for 1 of 2 data sets" in broken.problems
    with pytest.raises(UserError, match="no data set"):
        average([])


def test_the_table_shows_every_set_the_average_and_every_problem():
    rows = {
        "KADID-10k": agreement(*noisy(50), bootstrap=50),
        "[b]mine[/b]": agreement([1.0, None], [1, 2]),
    }
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    console.print(table(rows))
    text = console.export_text()
    kadid = rows["KADID-10k"].srcc
    assert f"{kadid.value:.3f} [{kadid.low:.3f}, {kadid.high:.3f}]" in text
    for part in (
        "SRCC",
        "KRCC",
        "PLCC (logistic)",
        "no score",
        "average",
        "undefined",
        "[b]mine[/b]",
    ):
        assert part in text
    assert "[b]mine[/b]: a correlation needs at least 3 images, not 1" in text
    console.print(table({"one": rows["KADID-10k"]}))
    assert "average" not in console.export_text()
