"""Colour (and grey with alpha) of 16 bits a sample in PNG and PPM files, of which Pillow keeps 8."""

from typing import BinaryIO, TypeGuard

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, PpmImagePlugin

from .depth import Samples

# The order of the two bytes of a sample, as Pillow is told. PNG has the high byte first; with the other order Pillow
# keeps the low one.
HIGH, LOW = ";16B", ";16L"
GREY_ALPHA = "LA" + HIGH
PPM_WHITE = 65535  # maxval of a file of 16 bits; others state fewer, and Pillow scales them


def is_deep(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Whether it is such a file, not loaded yet.

    A colour that stands for transparency in a PNG is compared by Pillow alone: such a file is left to it.
    """
    if image.mode not in ("RGB", "RGBA") or not getattr(image, "tile", ()):
        return False
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _arguments(image)[0].endswith(HIGH) and "transparency" not in image.info
    return isinstance(image, PpmImagePlugin.PpmImageFile) and _arguments(image)[1:] == (PPM_WHITE,)


def read_samples(file: BinaryIO, image: ImageFile.ImageFile) -> Samples | None:
    """The samples of a `file` whose `image` is deep; None for PPM as text. Raises what Pillow raises, and OSError."""
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        tile = image.tile[0]
        if tile.codec_name == "ppm_plain":
            return None
        file.seek(tile.offset)
        size = image.width * image.height * 6
        data = file.read(size)
        if len(data) < size:
            raise OSError(f"its pixels end after {len(data):,} of {size:,} bytes")
        return Samples(np.frombuffer(data, ">u2").reshape(image.height, image.width, 3), "RGB", 16)
    high = _read_png(file, HIGH)
    if high.shape[2] == 4 and _arguments(image)[0] == GREY_ALPHA:
        # (high, low) of grey and (high, low) of alpha, whatever they are called.
        return Samples(high[..., 0::2].astype(np.uint16) << 8 | high[..., 1::2], "LA", 16)
    values = high.astype(np.uint16) << 8 | _read_png(file, LOW)
    return Samples(values, "RGBA" if values.shape[2] == 4 else "RGB", 16)


def states_fewer_bits(image: PpmImagePlugin.PpmImageFile) -> bool:
    """Whether the maxval of a grey file of more than 8 bits, not loaded yet, is not that of 16."""
    return _arguments(image) not in (("I;16B",), ("L", PPM_WHITE))


def _read_png(file: BinaryIO, order: str) -> np.ndarray:
    file.seek(0)
    with PngImagePlugin.PngImageFile(file) as image:
        raw, *rest = _arguments(image)
        # Four bytes a pixel, as those of RGBA of 8 bits.
        kept = "RGBA" if raw == GREY_ALPHA else raw.replace(HIGH, order)
        image.tile = [image.tile[0]._replace(args=(kept, *rest))]
        image.load()
        return np.asarray(image)


def _arguments(image: ImageFile.ImageFile) -> tuple:
    """The decoder's arguments: the raw mode, then others."""
    found = image.tile[0].args
    return found if isinstance(found, tuple) else (str(found),)
