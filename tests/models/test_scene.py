"""Natural scene statistics in torch: what damage does to them, and that they are those of NIQE and BRISQUE."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from visualquality.classics.nss import mscn
from visualquality.models.nano.scene import (
    COLOUR_SIZES,
    LUMA_SIZES,
    PATCH,
    PATCH_WIDTH,
    SCENE_WIDTH,
    patch_statistics,
    scene_statistics,
)

# Of the numbers of a plane at one size: shape, log of the mean square, log of the local deviation, and the
# correlation with the right neighbour.
SHAPE, SQUARES, LOCAL, CORRELATION = 0, 1, 2, 4
OF_A_SIZE = PATCH_WIDTH // (LUMA_SIZES + 2 * COLOUR_SIZES)


def photo(side: int = 2 * PATCH) -> Image.Image:
    """Patches of a random light each, edges between them, and fine grain."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(30, 220, (12, 12, 3), dtype=np.uint8))
    pixels = np.asarray(shapes.resize((side, side), Image.Resampling.HAMMING), dtype=float)
    return Image.fromarray((pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None]


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def checkers(side: int, size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return 255.0 * ((y // side + x // side) % 2).float().expand(1, 3, -1, -1)


ODD_IMAGES = {
    "black": torch.zeros(1, 3, 64, 96),
    "grey": torch.full((2, 3, 128, 64), 128.0),
    "white": torch.full((1, 3, 96, 96), 255.0),
    "checkers of a pixel": checkers(1, 96),
    "checkers of eight": checkers(8, 192),
    "smallest": tensor(photo(32)),
    "a strip": tensor(photo(320))[:, :, :32],
    "white noise": 255 * torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0)),
    "pure red": torch.tensor([255.0, 0, 0])[None, :, None, None].expand(1, 3, 64, 64),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_as_many_numbers_as_declared_all_finite_and_bounded(name):
    found = scene_statistics(ODD_IMAGES[name])
    assert found.shape == (SCENE_WIDTH,)
    assert found.isfinite().all()
    assert found.abs().max() < 20


def test_the_order_of_windows_does_not_matter():
    windows = torch.cat([tensor(photo()), tensor(noisy(photo(), 20)), tensor(photo()).flip(3)])
    torch.testing.assert_close(
        scene_statistics(windows), scene_statistics(windows.flip(0)), atol=1e-4, rtol=1e-4
    )


def test_windows_count_alike_as_if_they_were_one_image():
    """Of two windows with as many patches, the mean over patches is the mean of both."""
    one, other = tensor(photo()), tensor(noisy(photo(), 20))
    both = scene_statistics(torch.cat([one, other]))
    mean = (scene_statistics(one) + scene_statistics(other)) / 2
    torch.testing.assert_close(both[:PATCH_WIDTH], mean[:PATCH_WIDTH], atol=1e-4, rtol=1e-4)


def test_grey_has_no_colour_and_a_turn_of_the_colours_leaves_luma_alone():
    grey = tensor(photo().convert("L").convert("RGB"))
    found = patch_statistics(grey)[0].mean(0)
    luma, colours = found.split([LUMA_SIZES * OF_A_SIZE, 2 * COLOUR_SIZES * OF_A_SIZE])
    flat = patch_statistics(torch.full_like(grey, 90.0))[0].mean(0)[LUMA_SIZES * OF_A_SIZE :]
    torch.testing.assert_close(colours, flat, atol=1e-3, rtol=1e-3)
    assert (luma[:OF_A_SIZE] - flat[:OF_A_SIZE]).abs().max() > 1


@pytest.mark.parametrize("size", range(LUMA_SIZES))
def test_blur_and_noise_move_the_numbers_as_they_must(size):
    """Blur lowers local contrast and ties neighbours together; noise does the opposite."""
    strength = 2**size  # a size is half of the one before, so it takes twice the blur to show there
    images = (
        noisy(photo(), 12 * strength),
        photo(),
        photo().filter(ImageFilter.GaussianBlur(1.2 * strength)),
        photo().filter(ImageFilter.GaussianBlur(2.5 * strength)),
    )
    numbers = [patch_statistics(tensor(image))[0].mean(0) for image in images]
    local, correlation = (
        [float(found[size * OF_A_SIZE + which]) for found in numbers]
        for which in (LOCAL, CORRELATION)
    )
    assert local == sorted(local, reverse=True)
    assert local[1] > local[2] + 0.1
    # Under strong blur it stays where it is, near 1.
    assert correlation[0] + 0.1 < correlation[1] + 0.05 < min(correlation[2:])


def test_moments_of_white_noise_are_near_theory():
    """E|x|² / E[x²] is 2/π for a Gaussian, 1/2 for a Laplacian, 3/4 for a uniform distribution.

    Each is a little higher here: a pixel is a part of the deviation that it is divided by, which bounds it.
    """
    rng = np.random.default_rng(0)
    size, found = (384, 384), {}
    for name, noise in (
        ("gaussian", rng.normal(0, 25, size)),
        ("laplacian", rng.laplace(0, 25 / math.sqrt(2), size)),
        ("uniform", rng.uniform(-25 * math.sqrt(3), 25 * math.sqrt(3), size)),
    ):
        image = torch.from_numpy(128 + noise).float().expand(1, 3, -1, -1)
        found[name] = patch_statistics(image)[0].mean(0)[:OF_A_SIZE]
    for name, ratio in (("gaussian", 2 / math.pi), ("laplacian", 0.5), ("uniform", 0.75)):
        theory = math.log(ratio + 0.01)
        assert theory < found[name][SHAPE] < theory + 0.2, name
    assert found["laplacian"][SHAPE] < found["gaussian"][SHAPE] < found["uniform"][SHAPE]
    # Pixels are not related but by the mean that is taken off both.
    assert -0.2 < found["gaussian"][CORRELATION] < 0.05
    # The local deviation is that of the noise, less what the mean takes.
    assert math.exp(found["gaussian"][LOCAL]) == pytest.approx(24, abs=1.5)


def test_products_have_signs_as_in_the_image():
    """In fine checkers every right neighbour is the opposite, and every diagonal one the same."""
    found = patch_statistics(checkers(1, 96))[0].mean(0)[:OF_A_SIZE]
    right, below, diagonal, other = (float(found[CORRELATION + 4 * k]) for k in range(4))
    assert max(right, below) < -0.95
    assert min(diagonal, other) > 0.95


def test_local_deviation_and_coefficients_are_those_of_the_classics():
    image = noisy(photo(), 8).convert("L")
    values = np.asarray(image, dtype=float)
    coefficients, deviation = mscn(values)
    found, sharpness = patch_statistics(tensor(image.convert("RGB")))
    for patch in range(len(found)):
        rows, columns = divmod(patch, 2)
        place = np.s_[rows * PATCH : (rows + 1) * PATCH, columns * PATCH : (columns + 1) * PATCH]
        assert float(sharpness[patch]) == pytest.approx(deviation[place].mean(), rel=0.01)
        local = math.exp(found[patch, LOCAL]) - 0.01
        assert local == pytest.approx(deviation[place].mean(), rel=0.01)
        squares = math.exp(found[patch, SQUARES]) - 0.001
        assert squares == pytest.approx((coefficients[place] ** 2).mean(), rel=0.01)
        shape = math.exp(found[patch, SHAPE]) - 0.01
        ratio = np.abs(coefficients[place]).mean() ** 2 / (coefficients[place] ** 2).mean()
        assert shape == pytest.approx(ratio, rel=0.01)


def test_sharp_patches_count_more_in_the_last_third():
    """One textured patch beside three smooth ones: the weighted mean is near the textured one's numbers."""
    pixels = np.asarray(photo()).copy()
    pixels[:, PATCH:] = 120
    pixels[PATCH:] = 120
    patches, _ = patch_statistics(tensor(Image.fromarray(pixels)))
    weighted = scene_statistics(tensor(Image.fromarray(pixels)))[-PATCH_WIDTH:]
    near = (weighted - patches[0]).abs().mean()
    assert near < 0.2 * (patches.mean(0) - patches[0]).abs().mean()
