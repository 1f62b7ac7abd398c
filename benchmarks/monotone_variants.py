"""What monotone.py does to a photo: distortions at every level, JPEG, and plain borders."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from visualquality.data.distort import LEVELS, distort
from visualquality.data.distortions import FAMILIES
from visualquality.data.filters import recoded

QUALITIES = (95, 90, 80)
# Kind of border -> its colour, and its width left and right and above and below, as shares of the photo's sides.
BARS = {
    "white": ("white", 0.1, 0.1),
    "black": ("black", 0.1, 0.1),
    "letterbox": ("black", 0.0, 0.12),
    "pillarbox": ("black", 0.12, 0.0),
}
BORDERS = (*BARS, "frame")
FRAME = 4  # width of the thin black frame, in pixels


class Variant(NamedTuple):
    """What is done to a photo: a family at a level, "recoded" with a JPEG quality, or "border" with its kind."""

    what: str
    value: int | str

    def of(self, photo: Image.Image, seed: int) -> Image.Image:
        """The photo after that. `seed` is for what is random in a distortion."""
        if self == ORIGINAL:
            return photo
        if self.what == "border":
            return bordered(photo, str(self.value))
        if self.what == "recoded":
            # As most cameras and pages have it, with half of the colour resolution.
            pixels = recoded(np.array(photo), "JPEG", quality=self.value, subsampling=2)
            return Image.fromarray(pixels)
        return distort(photo, self.what, int(self.value), seed)


ORIGINAL = Variant("original", 0)


def bordered(photo: Image.Image, kind: str) -> Image.Image:
    """The photo, not resized, with one of `BORDERS` around it. The thin frame lies on the photo's edge."""
    if kind == "frame":
        # Around the photo nano would not see it: it cuts an image to a multiple of 32 pixels.
        return ImageOps.expand(ImageOps.crop(photo, FRAME), FRAME, "black")
    colour, sides, ends = BARS[kind]
    across, down = round(sides * photo.width), round(ends * photo.height)
    return ImageOps.expand(photo, (across, down, across, down), colour)


def variants(families: Sequence[str]) -> list[Variant]:
    """All that is done to a photo with these families; the photo as it is comes first."""
    return [
        ORIGINAL,
        *(Variant(family, level) for family in families for level in LEVELS),
        *(Variant("recoded", quality) for quality in QUALITIES),
        *(Variant("border", kind) for kind in BORDERS),
    ]


def families_of(index: int, per_photo: int | None) -> list[str]:
    """The families of photo number `index`: all for None, else so many in turn. Each comes equally often, or nearly."""
    names = list(FAMILIES)
    if per_photo is None:
        return names
    return [names[(index * per_photo + i) % len(names)] for i in range(per_photo)]
