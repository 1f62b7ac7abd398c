"""Three plain measures of an image's tones, which `nano` puts into words.

They are taken from a copy of about 96 x 96 pixels, so that noise and fine texture do not count as contrast or colour.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SIDE = 96  # pixels of the copy, or the image's own if it has fewer


class Tones(NamedTuple):
    """Measures of an image in units of its levels, 0 to 255.

    brightness: mean luma. contrast: standard deviation of luma. colourfulness: of Hasler and Süsstrunk 2003, "Measuring
    colourfulness in natural images"; 0 for grey, above about 60 for vivid colours.
    """

    brightness: float
    contrast: float
    colourfulness: float


def tone_statistics(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3"]:
    """Brightness, contrast and colourfulness of RGB in [0, 255]."""
    sides = [min(side, SIDE) for side in image.shape[1:]]
    red, green, blue = F.adaptive_avg_pool2d(image, sides)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = torch.hypot(deviation(red_green), deviation(yellow_blue))
    shift = torch.hypot(red_green.mean(), yellow_blue.mean())
    return torch.stack([luma.mean(), deviation(luma), spread + 0.3 * shift])


def deviation(values: Tensor) -> Tensor:
    return values.std(correction=0)


def tones_of(image: Float[Tensor, "3 h w"]) -> Tones:
    """The measures as numbers."""
    return Tones(*tone_statistics(image).tolist())
