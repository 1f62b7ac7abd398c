"""Operations that distortions are made of, on images of shape (H, W, 3)."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, signal

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator


def to_pixels(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def normal(rng: Rng, shape: tuple[int, ...]) -> Floats:
    # Drawn as float32: draws in float64 would be other numbers, and other images.
    return rng.standard_normal(shape, dtype=np.float32)


def gaussian(values: Floats, sigma: float) -> Floats:
    # Not across the channels.
    return ndimage.gaussian_filter(values, (sigma, sigma, 0), truncate=3.0)


def kernel_grid(half: int) -> NDArray[np.int_]:
    """Coordinates y, x of a kernel of side 2 half + 1, about its centre."""
    return np.mgrid[-half : half + 1, -half : half + 1]


def convolve(rgb: Pixels, kernel: NDArray[np.floating]) -> Pixels:
    """Convolution with a square kernel of odd side, its sum brought to 1, the border mirrored."""
    border = kernel.shape[0] // 2
    growth = ((border, border), (border, border), (0, 0))
    padded = np.pad(rgb.astype(np.float32), growth, mode="symmetric")
    # By FFT, since the largest kernels have 13 x 13 weights.
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return to_pixels(signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1)))


def recoded(rgb: Pixels, codec: str, **options: object) -> Pixels:
    """The image after a codec has written and read it."""
    memory = io.BytesIO()
    Image.fromarray(rgb).save(memory, codec, **options)
    return np.array(Image.open(memory).convert("RGB"))


def tone_curve(rgb: Pixels, exponent: float) -> Pixels:
    return to_pixels(255.0 * (np.arange(256) / 255.0) ** exponent)[rgb]


def resampled(rgb: Pixels, factor: float, down: Image.Resampling, up: Image.Resampling) -> Pixels:
    height, width, _ = rgb.shape
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    image = Image.fromarray(rgb).resize(small, down)
    return np.array(image.resize((width, height), up))


def bilinear(rgb: Pixels, y: Floats, x: Floats) -> Pixels:
    """Samples at fractional coordinates y, x (H, W) that lie inside the image."""
    height, width, _ = rgb.shape
    top, left = y.astype(np.intp), x.astype(np.intp)
    # At the last row and column the share of the next one is 0.
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v = (y - top)[..., None].astype(np.float32)
    u = (x - left)[..., None].astype(np.float32)
    upper = rgb[top, left] * (1 - u) + rgb[top, right] * u
    lower = rgb[bottom, left] * (1 - u) + rgb[bottom, right] * u
    return to_pixels(upper * (1 - v) + lower * v)
