"""Pixel functions of synthetic distortion families, each at five levels.

The first 25 families and their order are those of KADID-10k (Lin, Hosu, Saupe, "KADID-10k: A large-scale
artificially distorted IQA database", QoMEX 2019); `resize` is added. Code and strengths are this
project's own: levels are spaced so that the mean pseudo-MOS (see `distort`) of a family at a level ranks
among all others as KADID-10k's mean human MOS does. Where the metric behind the pseudo-MOS is harsher than
people (tone, saturation, colour blocks, moved patches) the levels are therefore milder than KADID-10k's.

Every entry of `FAMILIES` takes an RGB image, uint8 of shape (H, W, 3), a level from 1 (just noticeable) to 5
(very strong) and a random generator, and returns a new uint8 image of the same shape. What is random (noise,
positions, directions) is drawn alike at every level, so that one seed gives five strengths of one and the
same flaw.

Each function below takes the image, the strength of the level, and the generator. Its five strengths stand above it.
Where it returns floats, they are rounded and clipped to uint8.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .cielab import from_rgb, to_rgb
from .filters import (
    Pixels,
    Rng,
    convolve,
    gaussian,
    kernel_grid,
    noise,
    recoded,
    resampled,
    to_pixels,
    tone_curve,
)

_KADID_AREA = 512 * 384  # pixels of a KADID-10k image: counts of patches are given for this area

Flaw = Callable[[Pixels, Any, Rng], NDArray]

# Name of the family -> function of image, level and generator; in KADID-10k's order.
FAMILIES: dict[str, Callable[[Pixels, int, Rng], Pixels]] = {}


def _levels(*strengths: float) -> Callable[[Flaw], Flaw]:
    """Enter a function of image, strength and generator in `FAMILIES`, with its strengths at levels 1 to 5."""

    def enter(function: Flaw) -> Flaw:
        def at_level(rgb: Pixels, level: int, rng: Rng) -> Pixels:
            result = function(rgb, strengths[level - 1], rng)
            return result if result.dtype == np.uint8 else to_pixels(result)

        FAMILIES[function.__name__] = at_level
        return function

    return enter


@_levels(0.5, 0.65, 1.1, 1.9, 3.5)
def gaussian_blur(rgb, sigma, rng):
    """Gaussian blur; strength: standard deviation in pixels."""
    return gaussian(rgb, sigma)


@_levels(1.0, 1.7, 2.6, 3.8, 6.0)
def lens_blur(rgb, radius, rng):
    """Defocus, a disc of uniform weight; strength: radius in pixels."""
    y, x = kernel_grid(math.ceil(radius))
    # The rim of the disc is anti-aliased.
    return convolve(rgb, np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0))


@_levels(1.6, 2.4, 4.5, 7.0, 12.0)
def motion_blur(rgb, length, rng):
    """Straight camera motion in a random direction; strength: length of the path in pixels."""
    angle = rng.uniform(0.0, math.pi)
    y, x = kernel_grid(math.ceil(length / 2))
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    # A line one pixel wide, anti-aliased at its ends and sides.
    ends = np.clip(length / 2 + 0.5 - along, 0.0, 1.0)
    sides = np.clip(1.0 - across, 0.0, 1.0)
    return convolve(rgb, ends * sides)


@_levels(4.0, 10.0, 18.0, 28.0, 45.0)
def color_diffusion(rgb, sigma, rng):
    """Gaussian blur of the a and b channels of CIELAB; strength: standard deviation in pixels."""
    lab = from_rgb(rgb)
    lab[..., 1:] = gaussian(lab[..., 1:], sigma)
    return to_rgb(lab)


@_levels(0.35, 0.8, 1.2, 1.8, 3.0)
def color_shift(rgb, distance, rng):
    """The green channel slides in a random direction; strength: distance in pixels."""
    angle = rng.uniform(0.0, 2.0 * math.pi)
    offset = (distance * math.sin(angle), distance * math.cos(angle))
    out = rgb.astype(np.float32)
    out[..., 1] = ndimage.shift(out[..., 1], offset, order=1, mode="nearest")
    return out


@_levels(256, 192, 112, 56, 22)
def color_quantization(rgb, colors, rng):
    """A palette by median cut, without dither; strength: number of colours."""
    method, dither = Image.Quantize.MEDIANCUT, Image.Dither.NONE
    image = Image.fromarray(rgb).quantize(colors, method, dither=dither)
    return np.array(image.convert("RGB"))


@_levels(0.65, 0.5, 0.4, 0.25, 0.1)
def color_saturation_hsv(rgb, factor, rng):
    """The S of HSV is multiplied, which washes colours out; strength: the factor."""
    # S is (max - min) / max: moving all three channels towards their maximum keeps V and the hue.
    value = rgb.max(axis=2, keepdims=True).astype(np.float32)
    return value + (rgb - value) * factor


@_levels(1.25, 1.6, 2.0, 2.6, 4.0)
def color_saturation_lab(rgb, factor, rng):
    """The a and b of CIELAB are multiplied, which makes colours glare; strength: the factor."""
    lab = from_rgb(rgb)
    lab[..., 1:] *= factor
    return to_rgb(lab)


@_levels(6, 10, 16, 40, 110)
def jpeg2000(rgb, ratio, rng):
    """JPEG 2000 (wavelet 9-7); strength: compression ratio."""
    # The encoder refuses a wavelet tree deeper than the image: 1 x 1 has one resolution, 512 the usual 6.
    resolutions = min(6, min(rgb.shape[:2]).bit_length())
    return recoded(
        rgb,
        "JPEG2000",
        quality_mode="rates",
        quality_layers=[ratio],
        irreversible=True,  # wavelet 9-7
        num_resolutions=resolutions,
    )


@_levels(72, 55, 36, 14, 7)
def jpeg(rgb, quality, rng):
    """JPEG with 4:2:0 chroma; strength: quality of the IJG scale."""
    return recoded(rgb, "JPEG", quality=quality, subsampling=2)


@_levels(0.0007, 0.0014, 0.0022, 0.0036, 0.008)
def white_noise(rgb, variance, rng):
    """Gaussian noise, independent in R, G and B; strength: variance for an intensity range of 1."""
    return rgb + noise(rng, rgb.shape, 255.0 * math.sqrt(variance))


@_levels(0.00017, 0.0005, 0.001, 0.0018, 0.0035)
def color_noise(rgb, variance, rng):
    """Gaussian noise in Y, Cb and Cr of BT.601; strength: variance for an intensity range of 1."""
    y, cb, cr = np.moveaxis(noise(rng, rgb.shape, 255.0 * math.sqrt(variance)), 2, 0)
    # YCbCr to RGB is linear, so noise added there is the same as its image added to RGB.
    return rgb + np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 2)


@_levels(0.0004, 0.0012, 0.0024, 0.0045, 0.009)
def impulse_noise(rgb, share, rng):
    """Salt and pepper, independent in R, G and B; strength: share of the samples that is replaced."""
    draw = rng.random(rgb.shape, dtype=np.float32)
    out = rgb.copy()
    out[draw < share / 2] = 0
    out[draw > 1 - share / 2] = 255
    return out


@_levels(0.0013, 0.004, 0.008, 0.016, 0.04)
def multiplicative_noise(rgb, variance, rng):
    """Speckle: every sample is multiplied with 1 + noise; strength: variance of that noise."""
    return rgb * (1.0 + noise(rng, rgb.shape, math.sqrt(variance)))


@_levels(0.0014, 0.0035, 0.006, 0.012, 0.025)
def denoise(rgb, variance, rng):
    """White noise, then the local Wiener filter (Lee 1980) made for it; strength: variance, range 1."""
    variance = 255.0**2 * variance
    noisy = np.clip(rgb + noise(rng, rgb.shape, math.sqrt(variance)), 0.0, 255.0)
    window = (5, 5, 1)
    mean = ndimage.uniform_filter(noisy, window)
    local_variance = ndimage.uniform_filter(noisy * noisy, window) - mean * mean
    # Where the image varies no more than the noise, its mean is the best guess.
    signal_variance = np.clip(local_variance - variance, 0.0, None)
    gain = signal_variance / np.maximum(local_variance, variance)
    return mean + gain * (noisy - mean)


@_levels(0.12, 0.18, 0.28, 0.42, 0.75)
def brighten(rgb, lift, rng):
    """A tone curve that lifts the middle tones; strength: exponent below 1."""
    return tone_curve(rgb, 1.0 / (1.0 + lift))


@_levels(0.11, 0.15, 0.21, 0.31, 0.6)
def darken(rgb, drop, rng):
    """A tone curve that lowers the middle tones; strength: exponent above 1."""
    return tone_curve(rgb, 1.0 + drop)


@_levels(0.04, 0.055, 0.07, 0.09, 0.12)
def mean_shift(rgb, shift, rng):
    """A constant is added or, by chance, taken away; strength: the constant for an intensity range of 1."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return rgb + np.float32(sign * 255.0 * shift)


@_levels(0.21, 0.33, 0.58, 1.25, 2.2)
def jitter(rgb, deviation, rng):
    """Pixels come from random places near by; strength: standard deviation of a coordinate in pixels."""
    height, width, _ = rgb.shape
    offset_y, offset_x = noise(rng, (2, height, width), deviation)
    rows, columns = np.ogrid[:height, :width]
    y = np.clip(rows.astype(np.float32) + offset_y, 0, height - 1)
    x = np.clip(columns.astype(np.float32) + offset_x, 0, width - 1)
    # Bilinear. At the last row and column the share of the next one is 0.
    top, left = y.astype(np.intp), x.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v = (y - top)[..., None].astype(np.float32)
    u = (x - left)[..., None].astype(np.float32)
    upper = rgb[top, left] * (1 - u) + rgb[top, right] * u
    lower = rgb[bottom, left] * (1 - u) + rgb[bottom, right] * u
    return upper * (1 - v) + lower * v


@_levels(2, 8, 18, 35, 75)
def non_eccentricity_patch(rgb, patches, rng):
    """Small patches are replaced by ones from nearby; strength: number of patches on 512 x 384 pixels."""
    height, width, _ = rgb.shape
    out = rgb.copy()
    for y, x, size, draw in _squares(rgb, 8, patches, 2, rng):
        dy, dx = ((2 * draw - 1) * size).round().astype(int)
        from_y = min(max(y + dy, 0), height - size)
        from_x = min(max(x + dx, 0), width - size)
        out[y : y + size, x : x + size] = rgb[from_y : from_y + size, from_x : from_x + size]
    return out


@_levels(1.25, 1.7, 2.3, 3.3, 5.3)
def pixelate(rgb, side, rng):
    """Blocks of one colour each, their mean; strength: side of a block in pixels."""
    return resampled(rgb, side, Image.Resampling.BOX, Image.Resampling.NEAREST)


@_levels(20, 16, 13, 10, 7)
def quantization(rgb, steps, rng):
    """Few even steps in each of R, G and B, which bands smooth regions; strength: number of steps."""
    step = np.rint(np.arange(256) * ((steps - 1) / 255.0))
    return to_pixels(step * (255.0 / (steps - 1)))[rgb]


@_levels(4, 6, 7, 9, 13)
def color_block(rgb, side, rng):
    """Squares of a random colour, two on 512 x 384 pixels; strength: side of a square in pixels."""
    out = rgb.copy()
    for y, x, size, draw in _squares(rgb, side, 2, 3, rng):
        out[y : y + size, x : x + size] = (256 * draw).astype(np.uint8)
    return out


@_levels(0.7, 1.15, 1.6, 2.3, 4.0)
def high_sharpen(rgb, weight, rng):
    """Unsharp mask with a standard deviation of 1 pixel; strength: weight of the added detail."""
    return rgb + weight * (rgb - gaussian(rgb, 1.0))


@_levels(0.09, 0.12, 0.15, 0.19, 0.27)
def contrast_change(rgb, loss, rng):
    """Contrast about the mean is lost or, by chance, gained; strength: 1 - the gain, or 1 - its inverse."""
    gain = 1.0 - loss
    if rng.random() < 0.5:
        gain = 1.0 / gain
    mean = np.float32(rgb.mean())
    return mean + np.float32(gain) * (rgb - mean)


@_levels(1.25, 1.7, 2.4, 3.4, 5.5)
def resize(rgb, factor, rng):
    """Bicubic down- and upsampling; strength: the factor."""
    return resampled(rgb, factor, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


def _squares(
    rgb: Pixels, side: int, per_kadid_image: int, numbers: int, rng: Rng
) -> Iterator[tuple[int, int, int, NDArray[np.float64]]]:
    """Corner y, x and side of random squares inside the image, each with `numbers` more draws in [0, 1)."""
    height, width, _ = rgb.shape
    size = min(side, max(1, min(height, width) // 2))
    count = max(1, round(per_kadid_image * height * width / _KADID_AREA))
    # Drawn row by row, so that a stronger level has the squares of a weaker one.
    for down, across, *more in rng.random((count, 2 + numbers)):
        y, x = int(down * (height - size + 1)), int(across * (width - size + 1))
        yield y, x, size, np.array(more)
