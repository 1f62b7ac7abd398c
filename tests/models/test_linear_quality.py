"""The regression of recipes/nano/ridge.py."""

from pathlib import Path

import torch

from recipes.nano.features import ImageStatistics
from recipes.nano.ridge import fit
from visualquality.data.manifest import Row
from visualquality.evaluate.coefficients import srcc
from visualquality.models.nano.vision import STAGE_WIDTHS


def images(number: int, low: float, high: float, seed: int) -> tuple[ImageStatistics, torch.Tensor]:
    """Images whose quality is a direction of the last stage, with MOS from `low` to `high`; and that quality."""
    drawn = torch.Generator().manual_seed(seed)
    stages = tuple(torch.randn(number, width, generator=drawn) for width in STAGE_WIDTHS)
    quality = torch.randn(number, generator=drawn)
    stages[4][:, :400] += quality[:, None]
    stages[4][:, 400:800] -= quality[:, None]
    mos = low + (high - low) * torch.sigmoid(quality)
    rows = tuple(Row(Path(f"{i}.png"), m, "set") for i, m in enumerate(mos.tolist()))
    return ImageStatistics(rows, stages), quality


def test_it_finds_what_two_sets_of_different_scales_share():
    one, two, other = (
        images(300, 0, 1, seed=0)[0],
        images(200, 1, 100, seed=1)[0],
        images(100, 0, 1, seed=2),
    )
    quality = fit([one, two], hidden=8)
    assert srcc(quality.read(other[0].statistics).tolist(), other[1].tolist()) > 0.95


def test_a_shift_and_a_stretch_of_one_sets_scores_change_nothing():
    one, two = images(200, 0, 1, seed=0)[0], images(200, 0, 1, seed=1)[0]
    moved = ImageStatistics(
        tuple(Row(r.image, 20 * r.mos + 7, r.dataset) for r in two.rows), two.statistics
    )
    first, second = fit([one, two], hidden=8), fit([one, moved], hidden=8)
    torch.testing.assert_close(first.weights, second.weights, atol=1e-6, rtol=1e-3)


def test_the_decoder_sees_nothing_of_it_before_it_learns_to():
    one, _ = images(200, 0, 1, seed=0)
    assert not fit([one], hidden=8)(one.statistics).any()
