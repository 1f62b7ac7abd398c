"""ICC profiles (ICC.1:2022) -> sRGB, by littlecms through Pillow; for samples of 16 bits by their curves and matrix.

The models were trained on sRGB pixels, and files without a profile are taken for sRGB. The intent is relative
colorimetric with black point compensation, as in image editors: white stays white, and black black.
"""

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .depth import row_blocks, to_unit

Unit = NDArray[np.float64]  # in [0, 1]

# A profile that changes no colour of a grid by more than this, of 255, is sRGB: its makers round differently.
SRGB_TOLERANCE = 2
GRID = 17  # colours of a channel on that grid
# Linear sRGB -> XYZ of the profile connection space, D50 (IEC 61966-2-1, adapted by Bradford's matrix).
SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
BROKEN = "its colour profile is damaged and was ignored"


class Conversion(NamedTuple):
    """What a profile does to images of a mode: nothing, a transform of littlecms, or a warning that it is ignored."""

    transform: Any = None
    warning: str | None = None


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """An image of mode L, LA, RGB, RGBA or CMYK in sRGB, and what to warn of.

    It comes back as it is where the profile is sRGB, is damaged, or is for another kind of colour. `image` may be
    overwritten.
    """
    mode = image.mode
    if mode in ("L", "LA") and colour_space(profile) == "RGB":
        # Grey that was written by a program whose working space is RGB: three equal channels.
        mode = "RGB" if mode == "L" else "RGBA"
    found = _conversion(profile, mode)
    if found.warning is not None:
        return image, [found.warning]
    if found.transform is None:
        return image, []
    if mode in ("RGB", "RGBA"):
        image = image.convert(mode) if image.mode != mode else image
        found.transform.apply_in_place(image)
        return image, []
    alpha = image.getchannel("A") if mode == "LA" else None
    image = found.transform.apply(image.getchannel("L") if alpha else image)
    if alpha:
        image.putalpha(alpha)
    return image, []


def deep_to_srgb(
    values: NDArray, white: int, inverted: bool, profile: bytes
) -> NDArray[np.uint8] | None:
    """Samples (H, W) or (H, W, 3) in [0, white] -> sRGB (H, W, 3), rounded once; None where `to_srgb` is to be used.

    8 bits of a linear profile would be too few: dark tones would become bands that the file does not have.
    """
    shaper = _shaper(profile)
    if shaper is None:
        return None
    grey, channels = values.ndim == 2, len(shaper.curves)
    if (channels == 1) > grey or not changes(profile, "RGB" if channels == 3 else "L"):
        return None
    found = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in row_blocks(values):
        unit = to_unit(values[rows], white, inverted=inverted)
        if grey and channels == 3:
            unit = np.repeat(unit[..., None], 3, axis=-1)
        found[rows] = np.rint(shaper(unit) * 255)
    return found


def changes(profile: bytes, mode: str) -> bool:
    """Whether a profile changes colours of a mode: it is no sRGB, and is not ignored."""
    return _conversion(profile, mode).transform is not None


@lru_cache(maxsize=64)
def colour_space(profile: bytes) -> str:
    """RGB, GRAY, CMYK or another name of ICC.1, 7.2.6."""
    return profile[16:20].decode("latin-1").strip()


@lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> Conversion:
    # Slow to import, and most images have no profile.
    from PIL import ImageCms

    needed = {"L": "GRAY", "LA": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}.get(mode)
    space = colour_space(profile)
    if space != needed and space in ("GRAY", "RGB", "CMYK"):
        kind = {"GRAY": "grey", "RGB": "RGB", "CMYK": "CMYK"}
        return Conversion(
            warning=f"its colour profile is for {kind[space]}, which its pixels are not, and was ignored"
        )
    target = mode if mode in ("RGB", "RGBA") else "RGB"
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "L" if mode == "LA" else mode,
            target,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    # Pillow's own error, and whatever a damaged file makes it raise.
    except Exception:
        return Conversion(warning=BROKEN)
    return Conversion(
        None if mode != "CMYK" and _is_srgb(transform, mode) else _Transform(transform)
    )


class _Transform:
    """A transform of littlecms, without the profile of its result, which Pillow would put into the image."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform.transform
        self.output_mode = transform.output_mode

    def apply(self, image: Image.Image) -> Image.Image:
        found = Image.new(self.output_mode, image.size)
        self.transform.apply(image.getim(), found.getim())
        return found

    def apply_in_place(self, image: Image.Image) -> None:
        self.transform.apply(image.getim(), image.getim())


def _is_srgb(transform: Any, mode: str) -> bool:
    """Whether a transform changes no colour of a grid by more than `SRGB_TOLERANCE`."""
    levels = np.rint(np.linspace(0, 255, GRID)).astype(np.uint8)
    if mode in ("L", "LA"):
        levels = np.arange(256, dtype=np.uint8)
        probe = Image.fromarray(levels[None])
        wanted = np.repeat(levels[None, :, None], 3, axis=2)
    else:
        wanted = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(GRID, -1, 3)
        probe = Image.fromarray(wanted).convert(mode)
    found = np.asarray(_Transform(transform).apply(probe).convert("RGB")).astype(int)
    return bool(np.abs(found - wanted).max() <= SRGB_TOLERANCE)


@dataclass(frozen=True)
class Shaper:
    """A profile of curves and a matrix: RGB (H, W, 3), or grey (H, W), in [0, 1] -> sRGB (H, W, 3) in [0, 1].

    curves: one or three tables of the linear value at equal steps from 0 to 1. matrix: linear RGB -> linear sRGB.
    """

    curves: tuple[Unit, ...]
    matrix: Unit

    def __call__(self, values: Unit) -> Unit:
        if len(self.curves) == 1:
            linear = _looked_up(self.curves[0], values)
            return np.repeat(_encoded(linear)[..., None], 3, axis=-1)
        channels = [_looked_up(c, values[..., i]) for i, c in enumerate(self.curves)]
        return _encoded(np.stack(channels, axis=-1) @ self.matrix.T)


def _looked_up(curve: Unit, values: Unit) -> Unit:
    return np.interp(values, np.linspace(0, 1, len(curve)), curve)


def _encoded(linear: Unit) -> Unit:
    """Linear light -> sRGB (IEC 61966-2-1)."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@lru_cache(maxsize=64)
def _shaper(profile: bytes) -> Shaper | None:
    """The curves and the matrix of a profile; None where it has tables instead (A2B0), which go first."""
    try:
        tags = _tags(profile)
        if tags.keys() & {"A2B0", "A2B1"} or profile[20:24] != b"XYZ ":
            return None
        if colour_space(profile) == "GRAY":
            return Shaper((_curve(tags["kTRC"]),), np.eye(3))
        curves = tuple(_curve(tags[f"{channel}TRC"]) for channel in "rgb")
        colorants = [np.array(struct.unpack_from(">3i", tags[f"{c}XYZ"], 8)) / 65536 for c in "rgb"]
    except (KeyError, struct.error, ValueError, IndexError):
        return None
    return Shaper(curves, np.linalg.inv(SRGB_TO_XYZ) @ np.stack(colorants, axis=1))


def _tags(profile: bytes) -> dict[str, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 200:  # none has so many: a damaged file
        raise ValueError("no table of tags")
    found = {}
    for at in range(132, 132 + 12 * count, 12):
        name, start, size = struct.unpack_from(">4sII", profile, at)
        found[name.decode("latin-1")] = profile[start : start + size]
    return found


CURVE_STEPS = 65536


def _curve(tag: bytes) -> Unit:
    """The table of a curve, in [0, 1] or near it. Raises ValueError for another type, or where it is not finite."""
    with np.errstate(all="ignore"):
        table = _table(tag)
    if not np.isfinite(table).all():
        raise ValueError("a curve that is not finite")
    return table


def _table(tag: bytes) -> Unit:
    """The table that a tag of type curv or para means (ICC.1, 10.6 and 10.18)."""
    x = np.linspace(0, 1, CURVE_STEPS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return np.array([0.0, 1.0])
        points = np.array(struct.unpack_from(f">{count}H", tag, 12))
        return x ** (points[0] / 256) if count == 1 else points / 65535
    if tag[:4] != b"para":
        raise ValueError("no curve")
    (kind,) = struct.unpack_from(">H", tag, 8)
    count = (1, 3, 4, 5, 7)[kind]
    g, *rest = np.array(struct.unpack_from(f">{count}i", tag, 12)) / 65536
    a, b, c, d, e, f = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if kind == 0:
        return x**g
    a, b = rest[:2]
    if kind in (1, 2):
        # The same as the others, with the bend where the power reaches 0.
        d, e = -b / a, rest[2] if kind == 2 else 0.0
        c, f = 0.0, e
    else:
        c, d = rest[2:4]
        e, f = rest[4:6] if kind == 4 else (0.0, 0.0)
    power = np.maximum(a * x + b, 0) ** g + e
    return np.where(x >= d, power, c * x + f).clip(0, 1)
