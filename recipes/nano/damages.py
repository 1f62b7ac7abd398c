"""Kinds of damage with a strength from 0 to 1, wider than the families that have a name (data/distortions.py).

Chains of them teach which of two pictures of the same content is the better one (chains.py). They need no levels that
agree with people: only the order within a chain is learnt. Each function takes an RGB image, uint8 of shape (H, W, 3),
the strength and a random generator, and returns an image of the same shape. With one seed, a greater strength is more
of the same damage.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from visualquality.data.filters import (
    Pixels,
    Rng,
    convolve,
    gaussian,
    kernel_grid,
    noise,
    recoded,
    to_pixels,
    tone_curve,
)

from .effects import KERNELS, LUMA, filtered, saturated, shrunk, veiled, video_frame

Damage = Callable[[Pixels, float, Rng], NDArray]

DAMAGES: dict[str, Damage] = {}


def enter(function: Damage) -> Damage:
    """Enter a function in `DAMAGES`."""
    DAMAGES[function.__name__] = function
    return function


def damaged(rgb: Pixels, name: str, strength: float, seed: int) -> Pixels:
    """`rgb` with the damage `name` of a strength in (0, 1]. The same arguments give the same pixels."""
    result = DAMAGES[name](rgb, float(strength), np.random.default_rng(seed))
    return result if result.dtype == np.uint8 else to_pixels(result)


# Blur and resampling


@enter
def soft(rgb, strength, rng):
    return gaussian(rgb, 4 * strength)


@enter
def box(rgb, strength, rng):
    return filtered(rgb, ImageFilter.BoxBlur(4 * strength))


@enter
def defocus(rgb, strength, rng):
    radius = 0.5 + 5 * strength
    y, x = kernel_grid(math.ceil(radius))
    return convolve(rgb, np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0))


@enter
def motion(rgb, strength, rng):
    length = 1 + 14 * strength
    angle = rng.uniform(0, math.pi)
    y, x = kernel_grid(math.ceil(length / 2))
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    return convolve(
        rgb, np.clip(length / 2 + 0.5 - along, 0.0, 1.0) * np.clip(1.0 - across, 0.0, 1.0)
    )


@enter
def resized(rgb, strength, rng):
    """Shrunk and enlarged again, by kernels that may differ; the nearest pixel is one of those that enlarge."""
    down = KERNELS[rng.integers(len(KERNELS))]
    up = (Image.Resampling.NEAREST, *KERNELS)[rng.integers(len(KERNELS) + 1)]
    small = shrunk(Image.fromarray(rgb), 1 + 5 * strength, down)
    return np.array(small.resize((rgb.shape[1], rgb.shape[0]), up))


@enter
def sharp_upscaler(rgb, strength, rng):
    """Enlarged and then sharpened and smoothed until edges are hard and textures are gone, as cheap upscalers do."""
    factor = 1 + 5 * strength
    small = shrunk(Image.fromarray(rgb), factor, Image.Resampling.LANCZOS)
    large = small.resize((rgb.shape[1], rgb.shape[0]), Image.Resampling.BICUBIC)
    return filtered(
        np.array(large),
        ImageFilter.MedianFilter(3),
        ImageFilter.UnsharpMask(int(1 + factor / 2), 150, 0),
        ImageFilter.MedianFilter(5 if strength > 0.5 else 3),
    )


@enter
def ringing(rgb, strength, rng):
    """All frequencies above a bound are removed, which leaves echoes beside edges."""
    height, width, _ = rgb.shape
    bound = 0.5 - 0.4 * strength  # cycles a pixel
    spectrum = np.fft.rfft2(rgb.astype(np.float32), axes=(0, 1))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum[radius > bound] = 0
    return np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))


# Noise


@enter
def rgb_noise(rgb, strength, rng):
    return rgb + noise(rng, rgb.shape, 45 * strength)


@enter
def grey_noise(rgb, strength, rng):
    return rgb + noise(rng, (*rgb.shape[:2], 1), 45 * strength)


@enter
def coarse_noise(rgb, strength, rng):
    """Grains of about two pixels, as after a camera's demosaicing."""
    height, width, _ = rgb.shape
    grains = noise(rng, (height // 2 + 1, width // 2 + 1, 3), 1.0)
    grains = grains.repeat(2, 0).repeat(2, 1)[:height, :width]
    return rgb + gaussian(grains, 0.7) * (40 * strength)


@enter
def shot_noise(rgb, strength, rng):
    electrons = (4 + 60 * (1 - strength)) / 255
    return rng.poisson(rgb * electrons) / electrons


@enter
def dead_pixels(rgb, strength, rng):
    share = 0.06 * strength**2
    draw = rng.random(rgb.shape[:2])
    out = rgb.copy()
    out[draw < share] = 0
    out[draw > 1 - share] = 255
    return out


# Codecs


@enter
def jpeg(rgb, strength, rng):
    return recoded(rgb, "JPEG", quality=max(4, int(95 - 91 * strength**0.6)))


@enter
def webp(rgb, strength, rng):
    return recoded(rgb, "WEBP", quality=max(1, int(90 - 89 * strength**0.7)))


@enter
def avif(rgb, strength, rng):
    return recoded(rgb, "AVIF", quality=max(1, int(75 - 74 * strength**0.7)), speed=8)


@enter
def h264(rgb, strength, rng):
    return video_frame(rgb, "libx264", round(24 + 27 * strength), threads="1")


@enter
def hevc(rgb, strength, rng):
    quiet = "log-level=none:pools=1:frame-threads=1"
    return video_frame(rgb, "libx265", round(22 + 29 * strength), **{"x265-params": quiet})


# Filters and what phones do


@enter
def median(rgb, strength, rng):
    return filtered(rgb, ImageFilter.MedianFilter(1 + 2 * round(1 + 3 * strength)))


@enter
def most_common(rgb, strength, rng):
    return filtered(rgb, ImageFilter.ModeFilter(3 + 2 * round(3 * strength)))


@enter
def sharpened(rgb, strength, rng):
    return filtered(rgb, ImageFilter.UnsharpMask(3, int(600 * strength), 0))


@enter
def smoothed(rgb, strength, rng):
    """Flat parts lose their texture, edges stay: the local Wiener filter (Lee 1980) for a noise that is not there."""
    values = rgb.astype(np.float32)
    mean = gaussian(values, 2 + 3 * strength)
    variance = np.maximum(gaussian(values * values, 2 + 3 * strength) - mean * mean, 1e-3)
    kept = np.clip(1 - (35 * strength) ** 2 / variance, 0, 1)
    return mean + (values - mean) * kept


@enter
def phone(rgb, strength, rng):
    """Noise, too much denoising, sharpening, JPEG: the look of a cheap camera."""
    noisy = to_pixels(rgb + noise(rng, rgb.shape, 25 * strength))
    processed = filtered(
        noisy,
        ImageFilter.MedianFilter(3 if strength < 0.6 else 5),
        ImageFilter.GaussianBlur(0.6 * strength),
        ImageFilter.UnsharpMask(2, int(100 + 300 * strength), 2),
    )
    return recoded(processed, "JPEG", quality=int(90 - 30 * strength))


@enter
def smeared(rgb, strength, rng):
    """Median and sharpening in turn: textures become brush strokes."""
    for _ in range(int(1 + 3 * strength)):
        rgb = filtered(
            rgb, ImageFilter.MedianFilter(5), ImageFilter.UnsharpMask(2, int(120 * strength), 0)
        )
    return rgb


@enter
def warped(rgb, strength, rng):
    """Shapes lose their straight lines, as in generated pictures."""
    height, width, _ = rgb.shape
    places = np.mgrid[:height, :width].astype(np.float32)
    for axis in range(2):
        shift = ndimage.gaussian_filter(noise(rng, (height, width), 1.0), 4)
        places[axis] += shift / shift.std() * (4.5 * strength)
    channels = [
        ndimage.map_coordinates(rgb[..., c].astype(np.float32), places, order=1, mode="reflect")
        for c in range(3)
    ]
    return np.stack(channels, 2)


# Light and colour


@enter
def dark(rgb, strength, rng):
    return tone_curve(rgb, 1 + 2.5 * strength)


@enter
def low_light(rgb, strength, rng):
    """Dark, with the noise that a camera then has."""
    levels = tone_curve(rgb, 1 + 1.5 * strength) * (1 - 0.5 * strength)
    deviation = (4 + 10 * strength) * np.sqrt(levels / 128 + 0.15)
    return levels + noise(rng, rgb.shape, 1.0) * deviation


@enter
def bright(rgb, strength, rng):
    return tone_curve(rgb, 1 / (1 + 2.5 * strength))


@enter
def overexposed(rgb, strength, rng):
    return rgb * (1 + 1.6 * strength)


@enter
def haze(rgb, strength, rng):
    return veiled(rgb, (200, 210, 215), 0.8 * strength)


@enter
def low_contrast(rgb, strength, rng):
    return veiled(rgb, (rgb @ LUMA).mean(), 0.8 * strength)


@enter
def high_contrast(rgb, strength, rng):
    return veiled(rgb, (rgb @ LUMA).mean(), -2.2 * strength)


@enter
def cast(rgb, strength, rng):
    gains = ((0.5, 1, 0.9), (1, 0.8, 0.5), (0.6, 0.9, 1.1), (1.1, 0.7, 0.9))[rng.integers(4)]
    return rgb * (1 - strength + strength * np.array(gains))


@enter
def underwater(rgb, strength, rng):
    """Light fades with depth, red first, and the colour of water takes its place (Jaffe-McGlamery model)."""
    fading = ((0.9, 0.25, 0.15), (0.8, 0.2, 0.3), (0.7, 0.35, 0.25))[rng.integers(3)]
    water = ((20, 120, 140), (30, 130, 110), (40, 110, 150))[rng.integers(3)]
    near, far = rng.uniform(0.6, 1.0, 2)
    depth = 3 * strength * np.linspace(near, far, len(rgb))[:, None, None]
    return gaussian(veiled(rgb, water, 1 - np.exp(-np.array(fading) * depth)), 0.8 * strength)


@enter
def posterised(rgb, strength, rng):
    step = 256 / max(2, int(2 + 32 * (1 - strength)))
    return np.floor(rgb / step) * step + step / 2


DAMAGES["washed_out"] = lambda rgb, strength, rng: saturated(rgb, 1 - strength)
DAMAGES["garish"] = lambda rgb, strength, rng: saturated(rgb, 1 + 3 * strength)
