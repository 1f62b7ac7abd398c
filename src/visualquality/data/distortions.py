"""Pixel functions of synthetic distortion families, each at five levels.

The first 25 families and their order are those of KADID-10k (Lin, Hosu, Saupe, "KADID-10k: A large-scale
artificially distorted IQA database", QoMEX 2019); `resize` is added. Code and strengths are this
project's own: levels are spaced so that the mean pseudo-MOS (see `distort`) of a family at a level ranks
among all others as KADID-10k's mean human MOS does. Where the metric behind the pseudo-MOS is harsher than
people (tone, saturation, colour blocks, moved patches) the levels are therefore milder than KADID-10k's.

Every entry of `FAMILIES` takes an RGB image, uint8 of shape (H, W, 3), a level from 1 (just noticeable) to 5
(very strong) and a random generator, and returns a new uint8 image of the same shape. What is random (noise,
positions, directions) is drawn alike at every level, so that one seed gives five strengths of one and the
same flaw. Below, each function has its five strengths above it, and takes the one of the level.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from . import cielab, filters
from .filters import Pixels

Rng = np.random.Generator

_KADID_AREA = 512 * 384  # pixels of a KADID-10k image: counts of patches are given for this area

# Name of the family -> function of image, level and generator; in KADID-10k's order.
FAMILIES: dict[str, Callable[[Pixels, int, Rng], Pixels]] = {}


def _levels(*strengths: float) -> Callable[[Callable[..., Pixels]], Callable[..., Pixels]]:
    """Enter a function of image, strength and generator in `FAMILIES`, with its strength at levels 1 to 5."""

    def enter(function: Callable[..., Pixels]) -> Callable[..., Pixels]:
        def at_level(rgb: Pixels, level: int, rng: Rng) -> Pixels:
            return function(rgb, strengths[level - 1], rng)

        FAMILIES[function.__name__] = at_level
        return function

    return enter


@_levels(0.5, 0.65, 1.1, 1.9, 3.5)
def gaussian_blur(rgb: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Gaussian blur; strength: standard deviation in pixels."""
    return filters.to_pixels(filters.gaussian(rgb.astype(np.float32), sigma))


@_levels(1.0, 1.7, 2.6, 3.8, 6.0)
def lens_blur(rgb: Pixels, radius: float, rng: Rng) -> Pixels:
    """Defocus, a disc of uniform weight; strength: radius in pixels."""
    y, x = filters.kernel_grid(math.ceil(radius))
    # The rim of the disc is anti-aliased.
    return filters.convolve(rgb, np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0))


@_levels(1.6, 2.4, 4.5, 7.0, 12.0)
def motion_blur(rgb: Pixels, length: float, rng: Rng) -> Pixels:
    """Straight camera motion in a random direction; strength: length of the path in pixels."""
    angle = rng.uniform(0.0, math.pi)
    y, x = filters.kernel_grid(math.ceil(length / 2))
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    # A line one pixel wide, anti-aliased at its ends and sides.
    ends = np.clip(length / 2 + 0.5 - along, 0.0, 1.0)
    sides = np.clip(1.0 - across, 0.0, 1.0)
    return filters.convolve(rgb, ends * sides)


@_levels(4.0, 10.0, 18.0, 28.0, 45.0)
def color_diffusion(rgb: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Gaussian blur of the a and b channels of CIELAB; strength: standard deviation in pixels."""
    lab = cielab.from_rgb(rgb)
    lab[..., 1:] = filters.gaussian(lab[..., 1:], sigma)
    return cielab.to_rgb(lab)


@_levels(0.35, 0.8, 1.2, 1.8, 3.0)
def color_shift(rgb: Pixels, distance: float, rng: Rng) -> Pixels:
    """The green channel slides in a random direction; strength: distance in pixels."""
    angle = rng.uniform(0.0, 2.0 * math.pi)
    offset = (distance * math.sin(angle), distance * math.cos(angle))
    green = rgb[..., 1].astype(np.float32)
    out = rgb.copy()
    out[..., 1] = filters.to_pixels(ndimage.shift(green, offset, order=1, mode="nearest"))
    return out


@_levels(256, 192, 112, 56, 22)
def color_quantization(rgb: Pixels, colors: int, rng: Rng) -> Pixels:
    """A palette by median cut, without dither; strength: number of colours."""
    method, dither = Image.Quantize.MEDIANCUT, Image.Dither.NONE
    image = Image.fromarray(rgb).quantize(colors, method, dither=dither)
    return np.array(image.convert("RGB"))


@_levels(0.65, 0.5, 0.4, 0.25, 0.1)
def color_saturation_hsv(rgb: Pixels, factor: float, rng: Rng) -> Pixels:
    """The S of HSV is multiplied, which washes colours out; strength: the factor."""
    # S is (max - min) / max: moving all three channels towards their maximum keeps V and the hue.
    value = rgb.max(axis=2, keepdims=True).astype(np.float32)
    return filters.to_pixels(value + (rgb - value) * factor)


@_levels(1.25, 1.6, 2.0, 2.6, 4.0)
def color_saturation_lab(rgb: Pixels, factor: float, rng: Rng) -> Pixels:
    """The a and b of CIELAB are multiplied, which makes colours glare; strength: the factor."""
    lab = cielab.from_rgb(rgb)
    lab[..., 1:] *= factor
    return cielab.to_rgb(lab)


@_levels(6, 10, 16, 40, 110)
def jpeg2000(rgb: Pixels, ratio: int, rng: Rng) -> Pixels:
    """JPEG 2000 (wavelet 9-7); strength: compression ratio."""
    # The encoder refuses a wavelet tree deeper than the image: 1 x 1 has one resolution, 512 the usual 6.
    resolutions = min(6, min(rgb.shape[:2]).bit_length())
    return filters.recoded(
        rgb,
        "JPEG2000",
        quality_mode="rates",
        quality_layers=[ratio],
        irreversible=True,  # wavelet 9-7
        num_resolutions=resolutions,
    )


@_levels(72, 55, 36, 14, 7)
def jpeg(rgb: Pixels, quality: int, rng: Rng) -> Pixels:
    """JPEG with 4:2:0 chroma; strength: quality of the IJG scale."""
    return filters.recoded(rgb, "JPEG", quality=quality, subsampling=2)


@_levels(0.0007, 0.0014, 0.0022, 0.0036, 0.008)
def white_noise(rgb: Pixels, variance: float, rng: Rng) -> Pixels:
    """Gaussian noise, independent in R, G and B; strength: variance for an intensity range of 1."""
    deviation = 255.0 * math.sqrt(variance)
    return filters.to_pixels(rgb + deviation * filters.normal(rng, rgb.shape))


@_levels(0.00017, 0.0005, 0.001, 0.0018, 0.0035)
def color_noise(rgb: Pixels, variance: float, rng: Rng) -> Pixels:
    """Gaussian noise in Y, Cb and Cr of BT.601; strength: variance for an intensity range of 1."""
    deviation = 255.0 * math.sqrt(variance)
    y, cb, cr = np.moveaxis(deviation * filters.normal(rng, rgb.shape), 2, 0)
    # YCbCr to RGB is linear, so noise added there is the same as its image added to RGB.
    noise = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    return filters.to_pixels(rgb + noise)


@_levels(0.0004, 0.0012, 0.0024, 0.0045, 0.009)
def impulse_noise(rgb: Pixels, share: float, rng: Rng) -> Pixels:
    """Salt and pepper, independent in R, G and B; strength: share of the samples that is replaced."""
    draw = rng.random(rgb.shape, dtype=np.float32)
    out = rgb.copy()
    out[draw < share / 2] = 0
    out[draw > 1 - share / 2] = 255
    return out


@_levels(0.0013, 0.004, 0.008, 0.016, 0.04)
def multiplicative_noise(rgb: Pixels, variance: float, rng: Rng) -> Pixels:
    """Speckle: every sample is multiplied with 1 + noise; strength: variance of that noise."""
    deviation = math.sqrt(variance)
    return filters.to_pixels(rgb * (1.0 + deviation * filters.normal(rng, rgb.shape)))


@_levels(0.0014, 0.0035, 0.006, 0.012, 0.025)
def denoise(rgb: Pixels, variance: float, rng: Rng) -> Pixels:
    """White noise, then the local Wiener filter (Lee 1980) made for it; strength: variance, range 1."""
    variance = 255.0**2 * variance
    noisy = np.clip(rgb + math.sqrt(variance) * filters.normal(rng, rgb.shape), 0.0, 255.0)
    window = (5, 5, 1)
    mean = ndimage.uniform_filter(noisy, window)
    local_variance = ndimage.uniform_filter(noisy * noisy, window) - mean * mean
    # Where the image varies no more than the noise, its mean is the best guess.
    signal_variance = np.clip(local_variance - variance, 0.0, None)
    gain = signal_variance / np.maximum(local_variance, variance)
    return filters.to_pixels(mean + gain * (noisy - mean))


@_levels(0.12, 0.18, 0.28, 0.42, 0.75)
def brighten(rgb: Pixels, lift: float, rng: Rng) -> Pixels:
    """A tone curve that lifts the middle tones; strength: exponent below 1."""
    return filters.tone_curve(rgb, 1.0 / (1.0 + lift))


@_levels(0.11, 0.15, 0.21, 0.31, 0.6)
def darken(rgb: Pixels, drop: float, rng: Rng) -> Pixels:
    """A tone curve that lowers the middle tones; strength: exponent above 1."""
    return filters.tone_curve(rgb, 1.0 + drop)


@_levels(0.04, 0.055, 0.07, 0.09, 0.12)
def mean_shift(rgb: Pixels, shift: float, rng: Rng) -> Pixels:
    """A constant is added or, by chance, taken away; strength: the constant for an intensity range of 1."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return filters.to_pixels(rgb + np.float32(sign * 255.0 * shift))


@_levels(0.21, 0.33, 0.58, 1.25, 2.2)
def jitter(rgb: Pixels, deviation: float, rng: Rng) -> Pixels:
    """Pixels come from random places near by; strength: standard deviation of a coordinate in pixels."""
    height, width, _ = rgb.shape
    offset = deviation * filters.normal(rng, (2, height, width))
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    y = np.clip(rows[:, None] + offset[0], 0, height - 1)
    x = np.clip(columns[None, :] + offset[1], 0, width - 1)
    return filters.bilinear(rgb, y, x)


@_levels(2, 8, 18, 35, 75)
def non_eccentricity_patch(rgb: Pixels, patches: int, rng: Rng) -> Pixels:
    """Small patches are replaced by ones from nearby; strength: number of patches on 512 x 384 pixels."""
    height, width, _ = rgb.shape
    size = min(8, max(1, min(height, width) // 2))
    out = rgb.copy()
    count = _count(patches, height, width)
    # Drawn row by row, so that a stronger level has the patches of a weaker one.
    for draw in rng.random((count, 4)):
        y, x = _corner(draw[:2], height, width, size)
        dy, dx = ((2 * draw[2:] - 1) * size).round().astype(int)
        from_y = min(max(y + dy, 0), height - size)
        from_x = min(max(x + dx, 0), width - size)
        out[y : y + size, x : x + size] = rgb[from_y : from_y + size, from_x : from_x + size]
    return out


@_levels(1.25, 1.7, 2.3, 3.3, 5.3)
def pixelate(rgb: Pixels, side: float, rng: Rng) -> Pixels:
    """Blocks of one colour each, their mean; strength: side of a block in pixels."""
    return filters.resampled(rgb, side, Image.Resampling.BOX, Image.Resampling.NEAREST)


@_levels(20, 16, 13, 10, 7)
def quantization(rgb: Pixels, steps: int, rng: Rng) -> Pixels:
    """Few even steps in each of R, G and B, which bands smooth regions; strength: number of steps."""
    step = np.rint(np.arange(256) * ((steps - 1) / 255.0))
    table = np.rint(step * (255.0 / (steps - 1))).astype(np.uint8)
    return table[rgb]


@_levels(4, 6, 7, 9, 13)
def color_block(rgb: Pixels, side: int, rng: Rng) -> Pixels:
    """Squares of a random colour, two on 512 x 384 pixels; strength: side of a square in pixels."""
    height, width, _ = rgb.shape
    size = min(side, max(1, min(height, width) // 2))
    out = rgb.copy()
    for draw in rng.random((_count(2, height, width), 5)):
        y, x = _corner(draw[:2], height, width, size)
        color = (256 * draw[2:]).astype(np.uint8)
        out[y : y + size, x : x + size] = color
    return out


@_levels(0.7, 1.15, 1.6, 2.3, 4.0)
def high_sharpen(rgb: Pixels, weight: float, rng: Rng) -> Pixels:
    """Unsharp mask with a standard deviation of 1 pixel; strength: weight of the added detail."""
    plain = rgb.astype(np.float32)
    detail = plain - filters.gaussian(plain, 1.0)
    return filters.to_pixels(plain + weight * detail)


@_levels(0.09, 0.12, 0.15, 0.19, 0.27)
def contrast_change(rgb: Pixels, loss: float, rng: Rng) -> Pixels:
    """Contrast about the mean is lost or, by chance, gained; strength: 1 - the gain, or 1 - its inverse."""
    gain = 1.0 - loss
    if rng.random() < 0.5:
        gain = 1.0 / gain
    mean = np.float32(rgb.mean())
    return filters.to_pixels(mean + np.float32(gain) * (rgb - mean))


@_levels(1.25, 1.7, 2.4, 3.4, 5.5)
def resize(rgb: Pixels, factor: float, rng: Rng) -> Pixels:
    """Bicubic down- and upsampling; strength: the factor."""
    bicubic = Image.Resampling.BICUBIC
    return filters.resampled(rgb, factor, bicubic, bicubic)


def _count(per_kadid_image: int, height: int, width: int) -> int:
    return max(1, round(per_kadid_image * height * width / _KADID_AREA))


def _corner(share: NDArray[np.float64], height: int, width: int, size: int) -> tuple[int, int]:
    """Top left corner of a square inside the image, from two numbers in [0, 1)."""
    return int(share[0] * (height - size + 1)), int(share[1] * (width - size + 1))
