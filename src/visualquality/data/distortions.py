"""Pixel functions of synthetic distortion families, each at five levels.

The first 25 families and their order are those of KADID-10k (Lin, Hosu, Saupe, "KADID-10k: A large-scale
artificially distorted IQA database", QoMEX 2019); `resize` is added. Code and strengths are this
project's own: levels are spaced so that the mean pseudo-MOS (see `distort`) of a family at a level ranks
among all others as KADID-10k's mean human MOS does. Where the metric behind the pseudo-MOS is harsher than
people (tone, saturation, colour blocks, moved patches) the levels are therefore milder than KADID-10k's.

Every function takes an RGB image, uint8 of shape (H, W, 3), a level from 1 (just noticeable) to 5 (very
strong) and a random generator, and returns a new uint8 image of the same shape. What is random (noise,
positions, directions) is drawn alike at every level, so that one seed gives five strengths of one and the
same flaw.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, signal

from . import cielab

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator

_KADID_AREA = 512 * 384  # pixels of a KADID-10k image: counts of patches are given for this area


def gaussian_blur(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Gaussian blur; strength: standard deviation in pixels."""
    return _to_pixels(_gaussian(rgb.astype(np.float32), (0.5, 0.65, 1.1, 1.9, 3.5)[level - 1]))


def lens_blur(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Defocus, a disc of uniform weight; strength: radius in pixels."""
    radius = (1.0, 1.7, 2.6, 3.8, 6.0)[level - 1]
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _convolve(
        rgb, np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0)
    )  # the rim is anti-aliased


def motion_blur(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Straight camera motion in a random direction; strength: length of the path in pixels."""
    length = (1.6, 2.4, 4.5, 7.0, 12.0)[level - 1]
    angle = rng.uniform(0.0, math.pi)
    reach = math.ceil(length / 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    return _convolve(
        rgb, np.clip(length / 2 + 0.5 - along, 0.0, 1.0) * np.clip(1.0 - across, 0.0, 1.0)
    )


def color_diffusion(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Gaussian blur of the a and b channels of CIELAB; strength: standard deviation in pixels."""
    lab = cielab.from_rgb(rgb)
    lab[..., 1:] = _gaussian(lab[..., 1:], (4.0, 10.0, 18.0, 28.0, 45.0)[level - 1])
    return cielab.to_rgb(lab)


def color_shift(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """The green channel slides in a random direction; strength: distance in pixels."""
    distance = (0.35, 0.8, 1.2, 1.8, 3.0)[level - 1]
    angle = rng.uniform(0.0, 2.0 * math.pi)
    out = rgb.copy()
    offset = (distance * math.sin(angle), distance * math.cos(angle))
    out[..., 1] = _to_pixels(
        ndimage.shift(rgb[..., 1].astype(np.float32), offset, order=1, mode="nearest")
    )
    return out


def color_quantization(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """A palette by median cut, without dither; strength: number of colours."""
    colors = (256, 192, 112, 56, 22)[level - 1]
    image = Image.fromarray(rgb).quantize(
        colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    return np.array(image.convert("RGB"))


def color_saturation_hsv(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """The S of HSV is multiplied, which washes colours out; strength: the factor."""
    factor = (0.65, 0.5, 0.4, 0.25, 0.1)[level - 1]
    value = rgb.max(axis=2, keepdims=True).astype(np.float32)
    return _to_pixels(value + (rgb - value) * factor)  # S = (max - min) / max, with V and hue kept


def color_saturation_lab(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """The a and b of CIELAB are multiplied, which makes colours glare; strength: the factor."""
    lab = cielab.from_rgb(rgb)
    lab[..., 1:] *= (1.25, 1.6, 2.0, 2.6, 4.0)[level - 1]
    return cielab.to_rgb(lab)


def jpeg2000(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """JPEG 2000 (wavelet 9-7); strength: compression ratio."""
    ratio = (6, 10, 16, 40, 110)[level - 1]
    # The encoder refuses a wavelet tree deeper than the image: 1 x 1 has one resolution, 512 the usual 6.
    resolutions = min(6, min(rgb.shape[:2]).bit_length())
    rate = {"quality_mode": "rates", "quality_layers": [ratio]}
    return _recoded(rgb, "JPEG2000", irreversible=True, num_resolutions=resolutions, **rate)


def jpeg(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """JPEG with 4:2:0 chroma; strength: quality of the IJG scale."""
    return _recoded(rgb, "JPEG", quality=(72, 55, 36, 14, 7)[level - 1], subsampling=2)


def white_noise(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Gaussian noise, independent in R, G and B; strength: variance for an intensity range of 1."""
    deviation = 255.0 * math.sqrt((0.0007, 0.0014, 0.0022, 0.0036, 0.008)[level - 1])
    return _to_pixels(rgb + deviation * _normal(rng, rgb.shape))


def color_noise(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Gaussian noise in Y, Cb and Cr of BT.601; strength: variance for an intensity range of 1."""
    deviation = 255.0 * math.sqrt((0.00017, 0.0005, 0.001, 0.0018, 0.0035)[level - 1])
    y, cb, cr = np.moveaxis(deviation * _normal(rng, rgb.shape), 2, 0)
    # YCbCr to RGB is linear, so noise added there is the same as its image added to RGB.
    noise = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    return _to_pixels(rgb + noise)


def impulse_noise(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Salt and pepper, independent in R, G and B; strength: share of the samples that is replaced."""
    share = (0.0004, 0.0012, 0.0024, 0.0045, 0.009)[level - 1]
    draw = rng.random(rgb.shape, dtype=np.float32)
    return np.where(draw < share / 2, 0, np.where(draw > 1 - share / 2, 255, rgb)).astype(np.uint8)


def multiplicative_noise(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Speckle: every sample is multiplied with 1 + noise; strength: variance of that noise."""
    deviation = math.sqrt((0.0013, 0.004, 0.008, 0.016, 0.04)[level - 1])
    return _to_pixels(rgb * (1.0 + deviation * _normal(rng, rgb.shape)))


def denoise(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """White noise, then the local Wiener filter (Lee 1980) made for it; strength: variance, range 1."""
    variance = 255.0**2 * (0.0014, 0.0035, 0.006, 0.012, 0.025)[level - 1]
    noisy = np.clip(rgb + math.sqrt(variance) * _normal(rng, rgb.shape), 0.0, 255.0)
    window = (5, 5, 1)
    mean = ndimage.uniform_filter(noisy, window)
    spread = ndimage.uniform_filter(noisy * noisy, window) - mean * mean
    gain = np.clip(spread - variance, 0.0, None) / np.maximum(spread, variance)
    return _to_pixels(mean + gain * (noisy - mean))


def brighten(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """A tone curve that lifts the middle tones; strength: exponent below 1."""
    return _tone_curve(rgb, 1.0 / (1.0 + (0.12, 0.18, 0.28, 0.42, 0.75)[level - 1]))


def darken(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """A tone curve that lowers the middle tones; strength: exponent above 1."""
    return _tone_curve(rgb, 1.0 + (0.11, 0.15, 0.21, 0.31, 0.6)[level - 1])


def mean_shift(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """A constant is added or, by chance, taken away; strength: the constant for an intensity range of 1."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return _to_pixels(rgb + np.float32(sign * 255.0 * (0.04, 0.055, 0.07, 0.09, 0.12)[level - 1]))


def jitter(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Pixels come from random places near by; strength: standard deviation of a coordinate in pixels."""
    reach = (0.21, 0.33, 0.58, 1.25, 2.2)[level - 1]
    height, width, _ = rgb.shape
    offset = reach * _normal(rng, (2, height, width))
    y = np.clip(np.arange(height, dtype=np.float32)[:, None] + offset[0], 0, height - 1)
    x = np.clip(np.arange(width, dtype=np.float32)[None, :] + offset[1], 0, width - 1)
    return _bilinear(rgb, y, x)


def non_eccentricity_patch(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Small patches are replaced by ones from nearby; strength: number of patches on 512 x 384 pixels."""
    height, width, _ = rgb.shape
    size = min(8, max(1, min(height, width) // 2))
    out = rgb.copy()
    count = _count((2, 8, 18, 35, 75)[level - 1], height, width)
    for place in rng.random(
        (count, 4)
    ):  # row by row, so that a stronger level has the patches of a weaker one
        y, x = _corner(place[:2], height, width, size)
        dy, dx = ((2 * place[2:] - 1) * size).round().astype(int)
        from_y, from_x = min(max(y + dy, 0), height - size), min(max(x + dx, 0), width - size)
        out[y : y + size, x : x + size] = rgb[from_y : from_y + size, from_x : from_x + size]
    return out


def pixelate(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Blocks of one colour each, their mean; strength: side of a block in pixels."""
    return _resampled(
        rgb, (1.25, 1.7, 2.3, 3.3, 5.3)[level - 1], Image.Resampling.BOX, Image.Resampling.NEAREST
    )


def quantization(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Few even steps in each of R, G and B, which bands smooth regions; strength: number of steps."""
    steps = (20, 16, 13, 10, 7)[level - 1]
    table = np.rint(np.rint(np.arange(256) * ((steps - 1) / 255.0)) * (255.0 / (steps - 1))).astype(
        np.uint8
    )
    return table[rgb]


def color_block(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Squares of a random colour, two on 512 x 384 pixels; strength: side of a square in pixels."""
    height, width, _ = rgb.shape
    size = min((4, 6, 7, 9, 13)[level - 1], max(1, min(height, width) // 2))
    out = rgb.copy()
    for draw in rng.random((_count(2, height, width), 5)):
        y, x = _corner(draw[:2], height, width, size)
        out[y : y + size, x : x + size] = (256 * draw[2:]).astype(np.uint8)
    return out


def high_sharpen(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Unsharp mask with a standard deviation of 1 pixel; strength: weight of the added detail."""
    plain = rgb.astype(np.float32)
    return _to_pixels(
        plain + (0.7, 1.15, 1.6, 2.3, 4.0)[level - 1] * (plain - _gaussian(plain, 1.0))
    )


def contrast_change(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Contrast about the mean is lost or, by chance, gained; strength: 1 - the gain, or 1 - its inverse."""
    gain = 1.0 - (0.09, 0.12, 0.15, 0.19, 0.27)[level - 1]
    if rng.random() < 0.5:
        gain = 1.0 / gain
    mean = np.float32(rgb.mean())
    return _to_pixels(mean + np.float32(gain) * (rgb - mean))


def resize(rgb: Pixels, level: int, rng: Rng) -> Pixels:
    """Bicubic down- and upsampling; strength: the factor."""
    return _resampled(
        rgb,
        (1.25, 1.7, 2.4, 3.4, 5.5)[level - 1],
        Image.Resampling.BICUBIC,
        Image.Resampling.BICUBIC,
    )


FAMILIES: dict[str, Callable[[Pixels, int, Rng], Pixels]] = {
    function.__name__: function
    for function in (
        *(gaussian_blur, lens_blur, motion_blur),
        *(
            color_diffusion,
            color_shift,
            color_quantization,
            color_saturation_hsv,
            color_saturation_lab,
        ),
        *(jpeg2000, jpeg),
        *(white_noise, color_noise, impulse_noise, multiplicative_noise, denoise),
        *(brighten, darken, mean_shift),
        *(jitter, non_eccentricity_patch, pixelate, quantization, color_block),
        *(high_sharpen, contrast_change),
        resize,
    )
}


def _to_pixels(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _normal(rng: Rng, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


def _gaussian(values: Floats, sigma: float) -> Floats:
    return ndimage.gaussian_filter(values, (sigma, sigma, 0), truncate=3.0)


def _convolve(rgb: Pixels, kernel: NDArray[np.floating]) -> Pixels:
    """Convolution with a square kernel of odd side, its sum brought to 1, the border mirrored."""
    reach = kernel.shape[0] // 2
    padded = np.pad(
        rgb.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode="symmetric"
    )
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return _to_pixels(signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1)))


def _recoded(rgb: Pixels, codec: str, **options: object) -> Pixels:
    memory = io.BytesIO()
    Image.fromarray(rgb).save(memory, codec, **options)
    return np.array(Image.open(memory).convert("RGB"))


def _tone_curve(rgb: Pixels, exponent: float) -> Pixels:
    return _to_pixels(255.0 * (np.arange(256) / 255.0) ** exponent)[rgb]


def _resampled(rgb: Pixels, factor: float, down: Image.Resampling, up: Image.Resampling) -> Pixels:
    height, width, _ = rgb.shape
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.array(Image.fromarray(rgb).resize(small, down).resize((width, height), up))


def _count(per_kadid_image: int, height: int, width: int) -> int:
    return max(1, round(per_kadid_image * height * width / _KADID_AREA))


def _corner(share: NDArray[np.float64], height: int, width: int, size: int) -> tuple[int, int]:
    """Top left corner of a square inside the image, from two numbers in [0, 1)."""
    return int(share[0] * (height - size + 1)), int(share[1] * (width - size + 1))


def _bilinear(rgb: Pixels, y: Floats, x: Floats) -> Pixels:
    """Samples at fractional coordinates y, x (H, W) that lie inside the image."""
    height, width, _ = rgb.shape
    top, left = y.astype(np.intp), x.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = (y - top)[..., None].astype(np.float32), (x - left)[..., None].astype(np.float32)
    upper = rgb[top, left] * (1 - u) + rgb[top, right] * u
    lower = rgb[bottom, left] * (1 - u) + rgb[bottom, right] * u
    return _to_pixels(upper * (1 - v) + lower * v)
