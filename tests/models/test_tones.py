"""Brightness, contrast and colourfulness against plain NumPy, and the words for them."""

import numpy as np
import pytest
import torch

from recipes.nano.words import COLOURS, CONTRAST, EXPOSURE, Tones, tone_words
from visualquality.models.nano.tones import SIDE, tone_statistics, tones_of


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float64)


def by_hand(rgb: np.ndarray) -> tuple[float, float, float]:
    """Mean and deviation of luma, and colourfulness as Hasler and Süsstrunk define it."""
    red, green, blue = rgb.transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread = np.sqrt(rg.var() + yb.var())
    shift = np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    return luma.mean(), luma.std(), spread + 0.3 * shift


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1).float()


@pytest.mark.parametrize("size", [(64, 80), (SIDE, SIDE), (32, 33)])
def test_small_images_are_measured_as_they_are(size):
    rgb = pixels(*size)
    assert tuple(tones_of(tensor(rgb))) == pytest.approx(by_hand(rgb), rel=1e-4)


@pytest.mark.parametrize("times", [2, 3])
def test_large_images_are_measured_on_a_small_copy(times):
    """So that noise is neither contrast nor colour."""
    rgb = pixels(times * SIDE, times * SIDE)
    blocks = rgb.reshape(SIDE, times, SIDE, times, 3).mean((1, 3))
    found = tones_of(tensor(rgb))
    assert tuple(found) == pytest.approx(by_hand(blocks), rel=1e-4)
    assert found.contrast < by_hand(rgb)[1] / 1.5


def test_plain_colours():
    for colour, expected in (
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (255, 0, 0)),
        ((200, 0, 0), (59.8, 0, 0.3 * np.hypot(200, 100))),
    ):
        rgb = np.broadcast_to(np.array(colour, dtype=float), (40, 50, 3)).copy()
        assert tone_statistics(tensor(rgb)).tolist() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("which", "bounds", "above"),
    [(0, EXPOSURE, "bright"), (1, CONTRAST, "high"), (2, COLOURS, "vivid")],
)
def test_a_word_holds_below_its_threshold_and_the_next_from_it_on(which, bounds, above):
    following = [*(name for _, name in bounds[1:]), above]
    assert [bound for bound, _ in bounds] == sorted(bound for bound, _ in bounds)
    for (bound, name), later in zip(bounds, following, strict=True):
        for value, expected in ((bound - 0.01, name), (bound, later)):
            tones = Tones(*(value if i == which else 100.0 for i in range(3)))
            assert tone_words(tones)[which] == expected
