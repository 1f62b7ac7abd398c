"""Operations that distortions are made of, on images of shape (H, W, 3)."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, signal

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator


def to_pixels(values: NDArray) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(rng: Rng, shape: tuple[int, ...], deviation: float) -> Floats:
    # Drawn as float32: draws in float64 would be other numbers, and other images.
    return deviation * rng.standard_normal(shape, dtype=np.float32)


def gaussian(values: NDArray, sigma: float) -> Floats:
    # Not across the channels.
    return ndimage.gaussian_filter(values.astype(np.float32), (sigma, sigma, 0), truncate=3.0)


def kernel_grid(half: int) -> NDArray[np.int_]:
    """Coordinates y, x of a kernel of side 2 half + 1, about its centre."""
    return np.mgrid[-half : half + 1, -half : half + 1]


def convolve(rgb: Pixels, kernel: NDArray[np.floating]) -> Floats:
    """Convolution with a square kernel of odd side, its sum brought to 1, the border mirrored."""
    border = kernel.shape[0] // 2
    growth = ((border, border), (border, border), (0, 0))
    padded = np.pad(rgb.astype(np.float32), growth, mode="symmetric")
    # By FFT, since the largest kernels have 13 x 13 weights.
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1))


def recoded(rgb: Pixels, codec: str, **options: object) -> Pixels:
    """The image after a codec has written and read it."""
    memory = io.BytesIO()
    Image.fromarray(rgb).save(memory, codec, **options)
    return np.array(Image.open(memory).convert("RGB"))


def tone_curve(rgb: Pixels, exponent: float) -> Pixels:
    return to_pixels(255.0 * (np.arange(256) / 255.0) ** exponent)[rgb]


def resampled(rgb: Pixels, factor: float, down: Image.Resampling, up: Image.Resampling) -> Pixels:
    height, width, _ = rgb.shape
    # An image smaller than the factor keeps one pixel.
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    image = Image.fromarray(rgb).resize(small, down)
    return np.array(image.resize((width, height), up))
