import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from visualquality.rl2r import (
    fidelity,
    predicted_preference,
    sample_moments,
    thurstone,
    true_preference,
)

NAN = math.nan


def test_moments_skip_what_cannot_be_read():
    mean, variance = sample_moments(
        torch.tensor([[1.0, 2.0, 4.5], [2.0, NAN, 5.0], [NAN, 4.0, NAN], [NAN, NAN, NAN]])
    )
    # 7.5 / 3 = 2.5, (1.5² + 0.5² + 2²) / 2 = 3.25; 7 / 2 = 3.5, (1.5² + 1.5²) / 1 = 4.5; one answer; no answer
    torch.testing.assert_close(mean, torch.tensor([2.5, 3.5, 4.0, NAN]), equal_nan=True)
    torch.testing.assert_close(variance, torch.tensor([3.25, 4.5, 0.0, 0.0]))


@pytest.mark.parametrize("value", [1.1, 3.3, 4.7])
@pytest.mark.parametrize("count", [3, 6, 7, 11])
def test_equal_scores_are_exactly_their_mean(value, count):
    scores = torch.full((2, count), value)
    mean, variance = sample_moments(scores)
    assert mean.tolist() == scores[:, 0].tolist()
    assert variance.tolist() == [0.0, 0.0]
    assert (predicted_preference(scores) == 0.5).all()


# Image 1 scored 3 and 4, image 2 scored 1 and 2: means 3.5 and 1.5, variances 0.5 and 0.5, so √(0.5 + 0.5) = 1.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.933193, 0.993790]),  # Eq. 1: Φ(3 − 1.5), Φ(4 − 1.5)
        ({"average": "probability"}, [0.909297, 0.987950]),  # ½(Φ(2) + Φ(1)), ½(Φ(3) + Φ(2))
        # Case V divides by √2: Φ(1.5 / √2), Φ(2.5 / √2), then ½(Φ(2 / √2) + Φ(1 / √2)), ½(Φ(3 / √2) + Φ(2 / √2))
        ({"variance": "fixed"}, [0.855578, 0.961450]),
        ({"variance": "fixed", "average": "probability"}, [0.840800, 0.952202]),
    ],
)
def test_preference_worked_by_hand(options, expected):
    scores = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    got = predicted_preference(scores, **options)
    assert got[0, 1].tolist() == pytest.approx(expected, abs=2e-6)
    assert got[1, 0].tolist() == pytest.approx([1 - p for p in reversed(expected)], abs=2e-6)


def test_preference_without_enough_answers():
    scores = torch.tensor([[3.0, NAN], [1.0, 2.0], [NAN, NAN]], dtype=torch.float64)
    for average in ("score", "probability"):
        got = predicted_preference(scores, average=average)
        assert got[0, 1, 1].isnan()  # the response itself is unreadable
        assert got[:, 2].isnan().all()  # nothing to compare with
        assert got[2, :].isnan().all()
        assert not got[:2, :2, 0].isnan().any()
    # one answer: σ² = 0, so Φ(1.5 / √(0 + 0.5)) = Φ(2.121320)
    assert predicted_preference(scores)[0, 1, 0].item() == pytest.approx(0.983053, abs=2e-6)


@given(st.lists(st.floats(1, 5), min_size=2, max_size=6), st.sampled_from(["sample", "fixed"]))
@settings(deadline=None, max_examples=30)
def test_both_averages_agree_for_one_response(scores, variance):
    single = torch.tensor(scores, dtype=torch.float64)[:, None]
    mean = predicted_preference(single, variance=variance)
    torch.testing.assert_close(
        mean,
        predicted_preference(single, variance=variance, average="probability"),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("dtype", "lowest", "tolerance"), [(torch.float32, -13, 1e-4), (torch.float64, -37, 1e-11)]
)
def test_thurstone_and_fidelity_are_scipy_s_in_both_tails(dtype, lowest, tolerance):
    """Values and gradients: d√Φ/dz = φ / (2 √Φ), here as exp of logarithms, so that nothing rounds to 0."""
    z = torch.linspace(lowest, -lowest, 201, dtype=dtype)
    mean = (z + 2.5).requires_grad_()
    zero, one = torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)
    better = thurstone(mean, zero + 0.25, zero + 2.5, zero + 0.75, gamma=1e-30)
    worse = thurstone(zero + 2.5, zero + 0.75, mean, zero + 0.25, gamma=1e-30)
    exact = (mean.detach() - 2.5).double().numpy()

    def same(got, expected):
        torch.testing.assert_close(
            got.detach().double(), torch.from_numpy(expected), rtol=tolerance, atol=0
        )

    same(better, norm.cdf(exact))
    same(worse, norm.cdf(-exact))
    won = fidelity(better, worse, one)
    same(won, np.exp(norm.logcdf(exact) / 2))
    (slope,) = torch.autograd.grad(won.sum(), mean)
    same(slope, np.exp(norm.logpdf(exact) - norm.logcdf(exact) / 2) / 2)


def test_fidelity_has_a_finite_gradient_where_a_preference_is_0():
    mean = torch.tensor([-2000.0, 0.0, 2000.0], requires_grad=True)
    zero = torch.zeros(())
    pairs = thurstone(mean, zero, zero, zero), thurstone(zero, zero, mean, zero)
    for truth, expected in ((1.0, [0, 0.5**0.5, 1]), (0.0, [1, 0.5**0.5, 0])):
        value = fidelity(*pairs, torch.tensor(truth))
        assert value.tolist() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(value.sum(), mean, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient[[0, 2]].tolist() == [0, 0]
        assert gradient[1] != 0


def test_true_preference():
    mos = torch.tensor([50, 60, 50])
    assert true_preference(mos).tolist() == [[0.5, 0, 0.5], [1, 0.5, 1], [0.5, 0, 0.5]]
    close = torch.tensor([0.1, 0.1 + 1e-15], dtype=torch.float64)  # one number in float32
    assert true_preference(close).tolist() == [[0.5, 0], [1, 0.5]]


def test_what_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        true_preference(torch.tensor([1.0, NAN]))
    with pytest.raises(ValueError, match="gamma"):
        predicted_preference(torch.ones(2, 2), gamma=0.0)
    with pytest.raises(ValueError, match="gamma"):
        thurstone(*torch.ones(4), gamma=-1.0)
