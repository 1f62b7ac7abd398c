"""The statistics of NIQE and BRISQUE against a straightforward implementation, and on images of every kind."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.optimize import brentq
from scipy.special import gamma

from visualquality.classics import brisque, niqe, nss
from visualquality.classics.nss import WINDOW, fit_aggd, fit_ggd, fit_sizes, half_size, luma, mscn

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def naive_mscn(values: np.ndarray) -> np.ndarray:
    height, breadth = values.shape
    result = np.zeros_like(values)
    for y in range(height):
        for x in range(breadth):
            near = [
                (
                    WINDOW[i] * WINDOW[j],
                    values[min(max(y + i - 3, 0), height - 1), min(max(x + j - 3, 0), breadth - 1)],
                )
                for i in range(7)
                for j in range(7)
            ]
            mean = sum(w * v for w, v in near)
            deviation = math.sqrt(abs(sum(w * v * v for w, v in near) - mean**2))
            result[y, x] = (values[y, x] - mean) / (deviation + 1)
    return result


def naive_half(values: np.ndarray) -> np.ndarray:
    """MATLAB's imresize(values, 0.5): Keys' cubic of support 8 at the centre of each output pixel, mirrored edge."""

    def keys(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    def mirrored(k: int, n: int) -> int:
        k %= 2 * n
        return min(k, 2 * n - 1 - k)

    def along(n: int) -> np.ndarray:
        matrix = np.zeros((math.ceil(n / 2), n))
        for j in range(len(matrix)):
            for k in range(2 * j - 5, 2 * j + 7):
                matrix[j, mirrored(k, n)] += 0.5 * keys(0.5 * (2 * j + 0.5 - k))
        return matrix

    return along(values.shape[0]) @ values @ along(values.shape[1]).T


def naive_shape(ratio: float) -> float:
    return brentq(
        lambda a: gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - ratio, 0.2, 10, xtol=1e-12
    )


def naive_fits(patch: np.ndarray) -> list[tuple[float, ...]]:
    """(shape, σ) of the coefficients, then (shape, left, right) of the products in each direction."""
    samples = patch.ravel()
    fits: list[tuple[float, ...]] = [
        (
            naive_shape(np.mean(np.abs(samples)) ** 2 / np.mean(samples**2)),
            np.sqrt(np.mean(samples**2)),
        )
    ]
    for dy, dx in DIRECTIONS:
        products = np.array(
            [
                patch[y, x] * patch[y + dy, x + dx]
                for y in range(patch.shape[0] - dy)
                for x in range(patch.shape[1])
                if 0 <= x + dx < patch.shape[1]
            ]
        )
        left, right = (
            np.sqrt(np.mean(side**2)) for side in (products[products < 0], products[products > 0])
        )
        g = left / right
        ratio = np.mean(np.abs(products)) ** 2 / np.mean(products**2)
        fits.append((naive_shape(ratio * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2), left, right))
    return fits


def naive_features(values: np.ndarray, of: str) -> list[float]:
    (shape, sigma), *pairs = naive_fits(values)
    found = [
        shape,
        sigma**2 if of == "brisque" else sigma * math.sqrt(gamma(1 / shape) / gamma(3 / shape)),
    ]
    for nu, left, right in pairs:
        beta_left, beta_right = (
            s * math.sqrt(gamma(1 / nu) / gamma(3 / nu)) for s in (left, right)
        )
        mean = (beta_right - beta_left) * gamma(2 / nu) / gamma(1 / nu)
        found += (
            [nu, mean, left**2, right**2] if of == "brisque" else [nu, mean, beta_left, beta_right]
        )
    return found


@pytest.fixture
def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 195, 3), dtype=np.uint8)
    pixels[:, 60:] = np.sort(pixels[:, 60:], axis=1)  # beside noise, something smooth
    return Image.fromarray(pixels)


def test_luma_is_that_of_rgb2gray() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert (
        np.abs(luma(Image.fromarray(pixels)) - pixels @ [0.298936, 0.587043, 0.114021]).max()
        <= 0.51
    )


def test_the_window_is_gaussian_and_flat_areas_have_no_texture() -> None:
    gaussian = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    assert pytest.approx(gaussian / gaussian.sum(), abs=2.0**-17) == WINDOW
    for grey in range(256):
        flat = np.full((9, 8), float(grey))
        assert not mscn(flat)[0].any()
        assert (half_size(flat) == grey).all()


@pytest.mark.parametrize("shape", [(12, 16), (9, 7), (1, 5), (1, 1)])
def test_pixels_equal_a_naive_implementation(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(2).integers(0, 256, shape).astype(float)
    assert mscn(values)[0] == pytest.approx(naive_mscn(values), abs=1e-9)
    assert half_size(values) == pytest.approx(naive_half(values), abs=1e-9)


def test_features_equal_a_naive_implementation(noise: Image.Image) -> None:
    values = luma(noise).astype(float)
    whole = [naive_features(naive_mscn(v), "brisque") for v in (values, naive_half(values))]
    assert brisque.image_features(noise) == pytest.approx(np.concatenate(whole), abs=1e-6)

    cropped = values[:96, :192]
    full, half = naive_mscn(cropped), naive_mscn(naive_half(cropped))
    patches = [
        naive_features(full[:, k * 96 : k * 96 + 96], "niqe")
        + naive_features(half[:, k * 48 : k * 48 + 48], "niqe")
        for k in range(2)
    ]
    assert niqe.patch_features(noise)[0] == pytest.approx(np.array(patches), abs=1e-6)


def test_patches_in_rows_are_those_of_the_whole_image(noise: Image.Image) -> None:
    """Each patch as if the coefficients of the whole image had been cut up, not each patch's own."""
    values = luma(noise)[:96, :128].astype(float)
    for found, pixels in zip(fit_sizes(values, (16, 32)), (values, half_size(values)), strict=True):
        coefficients, deviation = mscn(pixels)
        height, width = len(pixels) // 6, pixels.shape[1] // 4
        cut = [
            (slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width))
            for y in range(6)
            for x in range(4)
        ]
        assert found.sigma == pytest.approx(
            [np.sqrt((coefficients[c] ** 2).mean()) for c in cut], rel=1e-12
        )
        assert found.sharpness == pytest.approx([deviation[c].mean() for c in cut], rel=1e-12)


@pytest.mark.parametrize("size", [(61, 40), (60, 41), (8, 90), (96, 96)])
def test_strips_give_the_numbers_of_the_whole_image(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """A photo of 99 megapixels is never in memory as a whole, and its score is the same."""
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((3 * size[1], 3 * size[0]))
    whole = brisque.image_features(image), *niqe.patch_features(image.resize((200, 210)))
    for rows in (2, 6, 10, 64):
        monkeypatch.setattr(nss, "_STRIP", rows * image.width)
        strips = brisque.image_features(image), *niqe.patch_features(image.resize((200, 210)))
        for one, other in zip(whole, strips, strict=True):
            assert one == pytest.approx(other, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_fits_recover_what_was_sampled(shape: float) -> None:
    rng, n = np.random.default_rng(3), 400_000
    # |x| of a GGD of scale β is β G^(1/shape), G from a gamma distribution; an AGGD has one β on either side, and is on
    # either side in proportion to its β.
    size = rng.gamma(1 / shape, 1, n) ** (1 / shape)
    deviation = math.sqrt(gamma(3 / shape) / gamma(1 / shape))
    sign = rng.choice([-1, 1], n)
    found, sigma = fit_ggd((size * sign)[None])
    assert (found[0], sigma[0]) == pytest.approx((shape, deviation), rel=0.02)
    skewed = np.where(rng.random(n) < 0.5 / (0.5 + 1.5), -0.5 * size, 1.5 * size)
    assert np.ravel(fit_aggd(skewed[None])) == pytest.approx(
        (shape, 0.5 * deviation, 1.5 * deviation), rel=0.03
    )
    assert np.ravel(fit_aggd(-skewed[None])) == pytest.approx(
        np.ravel(fit_aggd(skewed[None]))[[0, 2, 1]], rel=1e-9
    )


def test_fits_of_what_has_no_spread_are_finite() -> None:
    samples = np.array([[0, 0, 0, 0], [1, 2, 3, 4], [-1, -2, -3, -4]], dtype=float)
    shape, left, right = fit_aggd(samples)
    assert (shape[0], left[0], right[0]) == (0.2, 0, 0)
    assert (shape[1], left[1], right[1]) == (shape[2], right[2], left[2])
    assert np.isfinite(fit_aggd(np.empty((2, 0)))).all()


@settings(deadline=None, max_examples=50)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(14, 30), st.integers(14, 30), st.just(3)),
        fill=st.integers(0, 255),
    )
)
def test_features_of_any_small_image_are_finite(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    assert np.isfinite(brisque.image_features(image)).all()
    assert np.isfinite(niqe.patch_features(image.resize((96, 96)))[0]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 24), (18, 18), (31, 20)]))
def test_a_mirror_image_or_a_quarter_turn_only_swaps_directions(
    seed: int, size: tuple[int, int]
) -> None:
    values = np.random.default_rng(seed).integers(0, 256, size).astype(float)
    for fits, mirrored, turned in zip(
        fit_sizes(values, values.shape),
        fit_sizes(values[:, ::-1], values.shape),
        fit_sizes(np.rot90(values), values.shape[::-1]),
        strict=True,
    ):
        for other, order in ((mirrored, [0, 1, 3, 2]), (turned, [1, 0, 3, 2])):
            assert (other.shape, other.sigma) == (
                pytest.approx(fits.shape),
                pytest.approx(fits.sigma),
            )
            for name in ("shapes", "left", "right"):
                assert getattr(other, name) == pytest.approx(
                    getattr(fits, name)[:, order], rel=1e-6
                ), name
