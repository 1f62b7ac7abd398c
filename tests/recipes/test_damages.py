"""Kinds of damage without names: each keeps the form of an image, and more of it is further away."""

import numpy as np
import pytest
from PIL import Image

from recipes.nano.chains import LEAST, LENGTH
from recipes.nano.damages import DAMAGES, damaged

VIDEO = {"h264", "hevc"}


def photo(height: int = 97, width: int = 131) -> np.ndarray:
    """Edges, texture and colours, with odd sides as photos may have them."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    edges = np.asarray(shapes.resize((width, height), Image.Resampling.NEAREST), dtype=float)
    grain = rng.normal(0, 8, (height, width, 3))
    return (0.5 * smooth + 0.5 * edges + grain).clip(0, 255).astype(np.uint8)


def at(name: str, strength: float, seed: int = 0) -> np.ndarray:
    if name in VIDEO:
        pytest.importorskip("av")
    return damaged(photo(), name, strength, seed)


def distance(name: str, strength: float) -> float:
    return float(np.abs(at(name, strength).astype(int) - photo()).mean())


@pytest.mark.parametrize("name", DAMAGES)
def test_shape_and_type_stay_and_the_image_that_was_given_too(name):
    for strength in (0.05, 0.5, 1.0):
        found = at(name, strength)
        assert found.shape == photo().shape
        assert found.dtype == np.uint8
    image = photo()
    if name not in VIDEO:
        damaged(image, name, 1.0, 0)
        np.testing.assert_array_equal(image, photo())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_seed_decides_everything(name):
    np.testing.assert_array_equal(at(name, 0.7), at(name, 0.7))


@pytest.mark.parametrize(
    "name", ["rgb_noise", "grey_noise", "coarse_noise", "shot_noise", "dead_pixels", "warped"]
)
def test_another_seed_draws_other_noise(name):
    assert (at(name, 0.7, seed=0) != at(name, 0.7, seed=1)).any()


@pytest.mark.parametrize("name", DAMAGES)
def test_more_of_it_is_further_away(name):
    """From the weakest that a chain has to the strongest."""
    distances = [distance(name, strength) for strength in (LEAST / (LENGTH - 1), 0.4, 1.0)]
    assert 0.2 < distances[0] < distances[1] < distances[2]
    assert distances[2] > 5


def test_small_images_are_taken_too():
    for name in DAMAGES:
        if name not in VIDEO:
            assert damaged(photo(32, 40), name, 1.0, 0).shape == (32, 40, 3)
