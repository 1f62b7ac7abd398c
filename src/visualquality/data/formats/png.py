"""PNG of 16 bits a sample, in colour or with alpha: Pillow keeps the high byte of each alone."""

from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from .depth import Samples

# The order of the two bytes of a sample, as Pillow is told. PNG has the high byte first; with the other order Pillow
# keeps the low one.
HIGH, LOW = ";16B", ";16L"
GREY_ALPHA = "LA" + HIGH


def is_deep(image: Image.Image) -> bool:
    """Whether it is a PNG, not loaded yet, of which Pillow would drop the low bytes.

    A colour that stands for transparency is compared by Pillow alone: such a file is left to it.
    """
    if not isinstance(image, PngImagePlugin.PngImageFile) or "transparency" in image.info:
        return False
    return image.mode != "I;16" and bool(image.tile) and _raw_mode(image).endswith(HIGH)


def _raw_mode(image: PngImagePlugin.PngImageFile) -> str:
    arguments = image.tile[0].args
    return str(arguments[0]) if isinstance(arguments, tuple) else str(arguments)


def read_samples(file: BinaryIO) -> Samples:
    """The samples of a file that `is_deep`, by decoding it twice. Raises what Pillow raises."""
    found = {}
    for order in (HIGH, LOW):
        file.seek(0)
        with PngImagePlugin.PngImageFile(file) as image:
            raw = _raw_mode(image)
            tile = image.tile[0]
            assert isinstance(tile.args, tuple)
            # Four bytes a pixel, whatever they are called: (high, low) of grey, (high, low) of alpha.
            kept = "RGBA" if raw == GREY_ALPHA else raw.replace(HIGH, order)
            image.tile = [tile._replace(args=(kept, *tile.args[1:]))]
            image.load()
            found[order] = np.asarray(image)
        if raw == GREY_ALPHA:
            high, low = found[HIGH][..., 0::2], found[HIGH][..., 1::2]
            return Samples(high.astype(np.uint16) << 8 | low, "LA", 16)
    values = found[HIGH].astype(np.uint16) << 8 | found[LOW]
    return Samples(values, "RGBA" if values.shape[2] == 4 else "RGB", 16)
