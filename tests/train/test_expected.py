"""The expected score as something to learn: the same as the one that is scored with, and it is learnt."""

import json
import math

import pytest
import torch
import yaml
from scipy.stats import norm, spearmanr

from visualquality.errors import UserError
from visualquality.models.digits import ScoreDistribution
from visualquality.rl2r import fidelity_reward
from visualquality.score.scorer import Scorer
from visualquality.train.expected import (
    FARTHEST,
    fidelity_loss,
    gaussian_level_shares,
    level_of,
    level_shares,
    objective_loss,
)
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train


def test_the_loss_is_one_minus_the_reward_of_the_mean():
    """Against Eq. 3 with two samples an image whose sample mean and variance are those given."""
    mean = torch.tensor([2.0, 3.5, 3.0, 4.0], dtype=torch.float64)
    variance = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    mos, datasets = torch.tensor([10.0, 40.0, 40.0, 0.2]), torch.tensor([0, 0, 0, 1])
    loss = fidelity_loss(mean, variance, mos, datasets)
    half = (variance / 2).sqrt()
    scores = torch.stack(
        [mean, mean - half, mean + half], 1
    )  # of the first, the mean itself, the reward is taken
    scale = (
        (scores.var(1) / variance).mean().sqrt()
    )  # three samples have another variance: stretch them
    scores = torch.stack([mean, mean - half / scale, mean + half / scale], 1)
    rewards = fidelity_reward(scores, mos, datasets)[:3, 0]
    assert loss.item() == pytest.approx(1 - rewards.mean().item(), abs=1e-6)
    grown = fidelity_loss(mean, variance, mos * 7 + 3, datasets)
    assert grown.item() == loss.item()
    alone = fidelity_loss(mean[:1].requires_grad_(), variance[:1], mos[:1], datasets[:1])
    assert alone.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_gradient_are_the_equations_in_a_loop(dtype):
    """A badly wrong pair, at 16 standard deviations, still has a gradient: there Φ is 0 in float32."""
    mean = torch.tensor([1.0, 4.2, 3.0, 2.9, 5.0], dtype=dtype, requires_grad=True)
    variance = torch.tensor([0.02, 0.02, 0.4, 0.0, 1.5], dtype=dtype, requires_grad=True)
    mos, datasets = torch.tensor([9.0, 1.0, 4.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1, 1])
    m, v = mean.detach().double().requires_grad_(), variance.detach().double().requires_grad_()
    terms = []
    for i in range(5):
        for j in range(5):
            if i == j or datasets[i] != datasets[j]:
                continue
            z = (m[i] - m[j]) / (v[i] + v[j] + 1e-6).sqrt()
            p = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
            roots = [torch.exp(torch.special.log_ndtr(side) / 2) for side in (z, -z)]
            terms.append(p**0.5 * roots[0] + (1 - p) ** 0.5 * roots[1])
    assert len(terms) == 2 + 6
    expected = 1 - sum(terms) / len(terms)
    loss = fidelity_loss(mean, variance, mos, datasets)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    got = torch.autograd.grad(loss, (mean, variance))
    wanted = torch.autograd.grad(expected, (m, v))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-5, atol=0)
        assert (g != 0).all()


def test_levels_share_out_a_mos_and_are_their_cross_entropy():
    mos = torch.tensor([1.0, 3.25, 4.6], dtype=torch.float64)
    soft = level_shares(mos)
    levels = torch.arange(1.0, 6.0, dtype=torch.float64)
    torch.testing.assert_close(soft @ levels, mos)
    torch.testing.assert_close(soft.sum(1), torch.ones(3, dtype=torch.float64))
    # Leaves: 3 by one end and by another, 3.0, and 4; what is not bare is no level.
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    shares = torch.cat([shares * 0.7, torch.full((1, 3), 0.1, dtype=torch.float64)], 1)
    found = ScoreDistribution(
        torch.tensor([3.0, 3.0, 3.0, 4.0, 1.0, 2.0, 5.0], dtype=torch.float64),
        shares.log(),
        torch.tensor([True, True, False, True, True, True, True]),
    )
    unknown, together = torch.tensor([math.nan]), torch.zeros(1, dtype=torch.long)
    loss = objective_loss("soft_levels", found, mos[1:2], unknown, together)
    assert loss.item() == pytest.approx(-0.75 * math.log(0.21) - 0.25 * math.log(0.28))
    # 3.25 lies in (2.6, 3.4], the third of five equal intervals, and 3.5 in the fourth.
    for value, share in ((3.25, 0.21), (3.5, 0.28)):
        loss = objective_loss("levels", found, torch.tensor([value]), unknown, together)
        assert loss.item() == pytest.approx(-math.log(share))


def test_a_level_is_one_of_five_equal_intervals():
    ends = torch.tensor([1.0, 1.8, 2.6, 3.4, 4.2, 5.0])
    assert level_of(ends).tolist() == [1, 1, 2, 3, 4, 5]
    assert level_of(ends[:-1] + 1e-3).tolist() == [1, 2, 3, 4, 5]
    # Each level has a fifth of the scale: rounding to the nearest would give its ends an eighth each.
    counts = level_of(torch.linspace(1, 5, 1001)).bincount(minlength=6)[1:]
    assert counts.min() >= 200
    assert counts.max() <= 201


def test_soft_levels_are_the_gaussian_of_the_ratings():
    mos = torch.tensor([3.25, 2.0, 4.7, 1.02, 3.0], dtype=torch.float64)
    std = torch.tensor([0.6, 1.0, 0.8, 1.5, 0.7], dtype=torch.float64)
    shares = gaussian_level_shares(mos, std)
    levels = torch.arange(1.0, 6.0, dtype=torch.float64)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(5, dtype=torch.float64))
    assert ((shares @ levels - mos).abs() <= FARTHEST).all()
    # Of the first nothing lies beyond the scale: it is the Gaussian itself.
    edges = norm.cdf([[0.5, 1.5, 2.5, 3.5, 4.5, 5.5]], 3.25, 0.6)[0]
    assert shares[0].tolist() == pytest.approx((edges[1:] - edges[:-1]).tolist(), abs=0.01)
    wide, narrow = (
        gaussian_level_shares(mos[:1], 2 * std[:1]),
        gaussian_level_shares(mos[:1], std[:1] / 4),
    )
    assert wide.max() < shares[0].max()
    assert torch.equal(narrow, level_shares(mos[:1]))
    unknown = gaussian_level_shares(mos, torch.full_like(mos, math.nan))
    assert torch.equal(unknown, level_shares(mos))


@pytest.mark.parametrize(
    ("objective", "datasets"),
    [
        ("fidelity", ("lab", "wild")),
        ("regression", ("lab",)),
        ("levels", ("lab",)),
        ("soft_levels", ("lab",)),
    ],
)
def test_a_run_learns_what_raters_say(objective, datasets, ranking_set, tmp_path):
    """With nano-base, whose tower sees something: a random one does not. Two scales at once, for fidelity."""
    rows = [
        line
        for line in ranking_set.read_text().splitlines()
        if not line.startswith("wild") or "wild" in datasets
    ]
    part = ranking_set.with_name(f"{objective}.csv")
    part.write_text("\n".join(rows) + "\n")
    recipe = {
        "method": "expect",
        "model": "nano-base",
        "data": [{"manifest": str(part)}],
        "freeze_vision": True,
        "expect": {"objective": objective},
        "optimizer": {"learning_rate": 3e-4, "steps": 16, "images_per_device": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    final = train(read_recipe(tmp_path / "recipe.yaml", (), tmp_path / "run"))
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])
    scorer = Scorer(str(final), mode="expect")
    for dataset in datasets:
        scores = [scorer(str(ranking_set.parent / f"{dataset}{i}.png")).score for i in range(8)]
        assert spearmanr(scores, range(8))[0] < -0.9  # image 7 is the most blurred


def test_rehearsal_learns_the_reasoning_beside_the_score(ranking_set, tmp_path):
    lines = [
        line.rsplit(",", 1)[0]
        for line in ranking_set.read_text().splitlines()
        if not line.startswith("wild")
    ]
    part = ranking_set.with_name("reasoned.csv")
    part.write_text(
        "\n".join([lines[0] + ",reasoning", *(line + ",It is sharp." for line in lines[1:])]) + "\n"
    )
    recipe = {
        "method": "expect",
        "model": "nano-base",
        "data": [{"manifest": str(part)}],
        "freeze_vision": True,
        "expect": {"rehearsal": 1.0},
        "optimizer": {"learning_rate": 1e-3, "steps": 30, "images_per_device": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    final = train(read_recipe(tmp_path / "recipe.yaml", (), tmp_path / "run"))
    spoken = [
        json.loads(line)["rehearsal_loss"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert spoken[-1] < 0.5 * spoken[0]
    image = next(ranking_set.parent.glob("*.png"))
    assert Scorer(str(final), samples=1, temperature=0)(str(image)).reasoning == "It is sharp."


def test_rehearsal_without_reasonings_is_refused(ranking_set, tmp_path):
    wordless = ranking_set.with_name("wordless.csv")
    wordless.write_text(
        "\n".join(line.rsplit(",", 1)[0] for line in ranking_set.read_text().splitlines()) + "\n"
    )
    recipe = {
        "method": "expect",
        "model": "nano-base",
        "data": [{"manifest": str(wordless)}],
        "expect": {"rehearsal": 1.0},
        "optimizer": {"steps": 1, "images_per_device": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="column reasoning"):
        train(read_recipe(tmp_path / "recipe.yaml", (), tmp_path / "run"))
