import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualquality.rl2r import (
    absolute_reward,
    advantage,
    binary_reward,
    comparison_groups,
    fidelity_reward,
    format_reward,
    rank_and_score_reward,
    reward,
    variance_weight,
)

NAN = math.nan
COMPARING = ["fidelity", "binary", "probability_average", "fixed_variance"]


def phi(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def naive_reward(scores, mos, datasets, variant):
    """Eq. 1, 2, 3 and 7 as they are printed, one response at a time, in float64."""
    readable = [[q for q in row if not math.isnan(q)] for row in scores]
    mu = [sum(row) / len(row) if row else NAN for row in readable]
    variance = [
        sum((q - m) ** 2 for q in row) / (len(row) - 1) if len(row) > 1 else 0.0
        for row, m in zip(readable, mu, strict=True)
    ]
    if variant == "fixed_variance":
        variance = [1.0] * len(scores)
    result = []
    for i, row in enumerate(scores):
        result.append([])
        for q in row:
            terms = []
            for j in range(len(scores)):
                if i == j or datasets[i] != datasets[j] or not readable[j] or math.isnan(q):
                    continue
                root = math.sqrt(variance[i] + variance[j] + 1e-6)
                against = [mu[j]] if variant in ("fidelity", "binary") else readable[j]
                p_k = sum(phi((q - other) / root) for other in against) / len(against)
                not_p_k = sum(phi((other - q) / root) for other in against) / len(against)
                p = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
                if variant != "binary":
                    terms.append(math.sqrt(p * p_k) + math.sqrt((1 - p) * not_p_k))
                elif p != 0.5:
                    terms.append(float(p_k > 0.5 if p == 1.0 else not_p_k > 0.5))
            result[-1].append(sum(terms) / len(terms) if terms else 0.0)
    return result


@st.composite
def batches(draw):
    """Scores with unreadable ones, MOS with ties and up to three data sets, in float64."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    size, count = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    # Two decimals as the models answer, plus a trifle: no preference may sit on 1/2 by rounding.
    scores = torch.randint(100, 501, (size, count), generator=generator).double() / 100
    scores += 1e-4 * torch.rand(size, count, generator=generator, dtype=torch.float64)
    unreadable = torch.rand(size, count, generator=generator) < draw(
        st.sampled_from([0.0, 0.2, 0.8])
    )
    mos = torch.randint(1, 6, (size,), generator=generator).double()
    datasets = torch.randint(0, draw(st.integers(1, 3)), (size,), generator=generator)
    return scores.masked_fill(unreadable, NAN), mos, datasets


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", COMPARING)
@given(batch=batches())
@settings(deadline=None, max_examples=25)
def test_same_as_the_equations_in_a_triple_loop(variant, batch):
    scores, mos, datasets = batch
    got = reward(scores, mos, datasets, variant)
    assert got.dtype == torch.float64
    assert ((got >= 0) & (got <= 1)).all()
    expected = naive_reward(scores.tolist(), mos.tolist(), datasets.tolist(), variant)
    close(got, torch.tensor(expected, dtype=torch.float64))
    single = reward(scores.float(), mos, datasets, variant)
    assert single.dtype == torch.float32
    assert ((single >= 0) & (single <= 1)).all()


@pytest.mark.parametrize("variant", COMPARING)
@given(batch=batches(), seed=st.integers(0, 999), shift=st.sampled_from([-7.25, 0.5, 40.0]))
@settings(deadline=None, max_examples=20)
def test_what_leaves_rewards_unchanged(variant, batch, seed, shift):
    scores, mos, datasets = batch
    expected = reward(scores, mos, datasets, variant)

    images = torch.randperm(len(mos), generator=torch.Generator().manual_seed(seed))
    responses = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(seed))
    permuted = reward(scores[images][:, responses], mos[images], datasets[images], variant)
    close(permuted, expected[images][:, responses])

    first = datasets == 0  # a strictly monotone change of one data set's MOS
    close(reward(scores, torch.where(first, 9 * mos.exp() - 300, mos), datasets, variant), expected)
    close(reward(scores + shift, mos, datasets, variant), expected)

    for name in datasets.unique():  # data sets in one batch do not see each other
        alone = datasets == name
        close(reward(scores[alone], mos[alone], variant=variant), expected[alone])


def test_fidelity_worked_by_hand():
    # Means 3.5 and 1.5, variances 0.5: preferences Φ(1.5), Φ(2.5) | Φ(−2.5), Φ(−1.5); image 1 is truly better, so
    # √0.933193 = 0.966019, √0.993790 = 0.996890 | √(1 − 0.006210) = 0.996890, √(1 − 0.066807) = 0.966019.
    # With equal MOS the first is √(0.5 · 0.933193) + √(0.5 · 0.066807) = 0.683079 + 0.182766 = 0.865845.
    scores = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    got = fidelity_reward(scores, torch.tensor([90.0, 20.0]))
    assert got.flatten().tolist() == pytest.approx(
        [0.966019, 0.996890, 0.996890, 0.966019], abs=2e-6
    )
    assert fidelity_reward(scores, torch.tensor([5, 5]))[0, 0].item() == pytest.approx(
        0.865845, abs=2e-6
    )


def test_float32_keeps_the_digits_of_a_badly_wrong_answer():
    # σ² = 0.5 each, so z = q − μ: 5.5 and 6.5 against a truth of 0. √Φ(−5.5) = √1.898956e-8, √Φ(−6.5) = √4.016e-11
    got = fidelity_reward(torch.tensor([[6.0, 7.0], [0.0, 1.0]]), torch.tensor([1.0, 2.0]))
    assert got[0].tolist() == pytest.approx([1.378026e-4, 6.337195e-6], rel=1e-3)


def test_binary_worked_by_hand():
    # Means 3, 2, 4, MOS order 1 > 3 > 2. Image 1 beats image 2 rightly, loses to image 3 wrongly: 1/2 for the score 3.
    scores = torch.tensor([[3.0, 3.0, 3.0], [2.0, 2.0, 2.0], [3.0, 4.0, 5.0]])
    got = binary_reward(scores, torch.tensor([3.0, 1.0, 2.0]))
    # Image 3 scored 3: exactly on the mean of image 1 (1/2, not right), right about image 2.
    assert got.tolist() == [[0.5, 0.5, 0.5], [1, 1, 1], [0.5, 0.5, 0.5]]
    # A tie of MOS has no right side: the pair is left out, and nothing remains for images 1 and 2 but image 3.
    tied = binary_reward(scores, torch.tensor([3.0, 3.0, 2.0]))
    assert tied.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert binary_reward(scores, torch.tensor([1.0, 1.0, 2.0])).tolist() == [
        [1, 1, 1],
        [1, 1, 1],
        [0.5, 1, 1],
    ]


@pytest.mark.parametrize("variant", COMPARING)
def test_edges(variant):
    mos = torch.tensor([3.0, 2.0, 1.0])
    unreadable = torch.tensor([[4.0, NAN], [NAN, NAN], [1.0, 2.0]])
    got = reward(unreadable, mos, None, variant)
    assert got[0, 1] == 0
    assert got[1].tolist() == [0, 0]
    # the unreadable image is no partner: the others are compared as if it were not there
    assert torch.equal(got[[0, 2]], reward(unreadable[[0, 2]], mos[[0, 2]], None, variant))
    assert got[0, 0] > 0.9
    assert (reward(torch.full((3, 2), NAN), mos, None, variant) == 0).all()
    # alone: in the batch, in its data set, or among unreadable images
    assert reward(torch.tensor([[3.0, 4.0]]), torch.tensor([3.0]), None, variant).tolist() == [
        [0, 0]
    ]
    assert (reward(torch.rand(3, 2), mos, torch.tensor([0, 1, 2]), variant) == 0).all()
    alone = reward(torch.tensor([[3.0, 4.0], [NAN, NAN]]), mos[:2], None, variant)
    assert (alone == 0).all()
    assert (advantage(alone) == 0).all()


def test_equal_scores_and_equal_mos():
    everything_the_same = torch.full((4, 6), 3.3)
    # all preferences are 1/2: √½ where the MOS differ, √¼ + √¼ = 1 where they are equal
    ranked = fidelity_reward(everything_the_same, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(ranked, torch.full((4, 6), math.sqrt(0.5)))
    assert (advantage(ranked) == 0).all()
    torch.testing.assert_close(
        fidelity_reward(everything_the_same, torch.ones(4)), torch.ones(4, 6)
    )
    assert (binary_reward(everything_the_same, torch.ones(4)) == 0).all()
    # K = 1: no spread, so √γ decides at once
    certain = fidelity_reward(torch.tensor([[4.0], [3.0]]), torch.tensor([2.0, 1.0]))
    assert certain.tolist() == [[1.0], [1.0]]


def test_absolute_and_format():
    scores = torch.tensor([[3.0, 3.5, NAN], [1.2, 1.4, 5.0]])
    mos = torch.tensor([3.25, 1.0])
    assert absolute_reward(scores, mos).tolist() == [[1, 1, 0], [1, 0, 0]]
    assert absolute_reward(scores, mos, threshold=0.25).tolist() == [
        [0, 0, 0],
        [1, 0, 0],
    ]  # strictly nearer
    assert torch.equal(reward(scores, mos, variant="absolute"), absolute_reward(scores, mos))
    assert format_reward(torch.tensor([[True, False]])).tolist() == [[1, 0]]


def test_rank_and_score_rewards_the_order_and_the_place():
    mos = torch.tensor([4.0, 2.0])
    right, shifted, turned = (
        torch.tensor(scores)[:, None] for scores in ([4.0, 2.0], [3.0, 1.0], [2.0, 4.0])
    )
    earned = [rank_and_score_reward(scores, mos) for scores in (right, shifted, turned)]
    assert earned[0].tolist() == [[1.0], [1.0]]
    # The order alone is worth one half, and one point from the MOS next to nothing.
    assert torch.allclose(earned[1], torch.full((2, 1), 0.5 + math.exp(-1 / 0.3) / 2))
    assert (earned[2] < 0.01).all()
    unread = rank_and_score_reward(torch.tensor([[4.0, NAN], [2.0, 2.0]]), mos)
    assert unread[0, 1] == 0


def test_the_weight_of_an_image_falls_with_the_variance_of_its_scores():
    agreeing, split = [3.0, 3.0, 3.0, NAN], [1.0, 5.0, 1.0, 5.0]
    weight = variance_weight(torch.tensor([agreeing, split], dtype=torch.float64), 0.5)
    assert weight[0].item() == 1
    assert weight[1].item() == pytest.approx(math.exp(-0.5))
    assert variance_weight(torch.tensor([split, [NAN] * 4]), 0.0).tolist() == [[1], [1]]
    assert variance_weight(torch.tensor([[NAN] * 4]), 0.5).tolist() == [[1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 2), torch.ones(1), None, "fidelity"), "shapes"),
        ((torch.ones(3, 2), torch.ones(3, 1), None, "binary"), "shapes"),
        (
            (torch.ones(3, 2), torch.ones(3), torch.zeros(1, dtype=torch.int64), "fidelity"),
            "shapes",
        ),
        ((torch.ones(3, 2), torch.ones(1), None, "absolute"), "shapes"),
        ((torch.ones(3), torch.ones(3), None, "fidelity"), "shapes"),
        ((torch.ones(2, 2), torch.tensor([3.0, 5.1]), None, "absolute"), "1 to 5"),
        ((torch.ones(2, 2), torch.tensor([3.0, NAN]), None, "absolute"), "1 to 5"),
        ((torch.ones(2, 2), torch.tensor([3.0, 0.9]), None, "exponential"), "1 to 5"),
        ((torch.ones(2, 2), torch.tensor([3.0, 70.0]), None, "rank_and_score"), "1 to 5"),
        ((torch.ones(2, 2), torch.ones(2), None, "fidelty"), "unknown"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reward(*arguments)


def test_images_are_compared_within_a_group_and_a_data_set_only():
    """In groups of 4: what an image earns is what it earns among those of its group that are of its data set."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand((10, 3), generator=generator, dtype=torch.float64) * 4 + 1
    mos = torch.rand(10, generator=generator, dtype=torch.float64)
    datasets = torch.tensor([5, 5, 5, 5, 5, 2, 5, 2, 2, 2])
    parts = [[0, 1, 2, 3], [4, 6], [5, 7], [8, 9]]
    groups = comparison_groups(datasets, 4)
    assert [[i for i in range(10) if groups[i] == n] for n in groups.unique()] == [
        [0, 1, 2, 3],
        [5, 7],
        [4, 6],
        [8, 9],
    ]
    for variant in COMPARING:
        found = reward(scores, mos, groups, variant)
        for part in parts:
            alone = reward(scores[part], mos[part], None, variant)
            torch.testing.assert_close(found[part], alone, atol=1e-12, rtol=0)
    # Without a size of groups, data sets alone bound the comparison.
    torch.testing.assert_close(
        reward(scores, mos, comparison_groups(datasets)), reward(scores, mos, datasets)
    )
