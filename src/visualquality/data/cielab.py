"""sRGB pixels to CIELAB and back (IEC 61966-2-1; CIE 15:2018; D65 white)."""

import numpy as np
from numpy.typing import NDArray

_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _RGB_TO_XYZ.sum(axis=1)
# Both matrices work relative to white, so that X, Y and Z are 1 for it.
_TO_WHITE = (_RGB_TO_XYZ / _WHITE[:, None]).astype(np.float32)
_FROM_WHITE = np.linalg.inv(_RGB_TO_XYZ / _WHITE[:, None]).astype(np.float32)
_KNEE = 6.0 / 29.0

_code = np.arange(256) / 255.0
_LINEAR = np.where(_code <= 0.04045, _code / 12.92, ((_code + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
# 12 bits keep the round trip exact for dark codes, where sRGB is steepest: 12.92 / 4095 < 1 / 255.
_STEPS = 4095
_light = np.arange(_STEPS + 1) / _STEPS
_ENCODED = np.rint(
    255.0 * np.where(_light <= 0.0031308, 12.92 * _light, 1.055 * _light ** (1 / 2.4) - 0.055)
).astype(np.uint8)


def from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """L in [0, 100], a and b about 0, float32 of shape (H, W, 3), from sRGB uint8 of the same shape."""
    # A table of all 256 codes, then one matrix product for the whole image.
    xyz = _LINEAR[rgb] @ _TO_WHITE.T
    f = np.where(xyz > _KNEE**3, np.cbrt(xyz), xyz / np.float32(3 * _KNEE**2) + np.float32(4 / 29))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=2)


def to_rgb(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The inverse of `from_rgb`; what lies outside sRGB is clipped in each channel."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=2)
    xyz = np.where(f > _KNEE, f * f * f, np.float32(3 * _KNEE**2) * (f - np.float32(4 / 29)))
    linear = np.clip(xyz @ _FROM_WHITE.T, 0.0, 1.0)
    return _ENCODED[np.rint(linear * _STEPS).astype(np.uint16)]
