"""Natural scene statistics of an image: how neighbouring pixels relate once local mean and contrast are removed.

Photos without damage have nearly the same such statistics whatever they show, and damage changes them. NIQE and BRISQUE
(Mittal et al. 2012, 2013; `classics.nss`) fit distributions to them. Here the moments that such fits are made of are
taken as they are, in luma at three sizes and in two colours at two sizes (colours as in IL-NIQE, Zhang, Zhang and Bovik
2015). They are plain sums: no fit, no search in a table, and nothing that a graph of an exported model cannot hold.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PATCH = 96  # pixels of the full size, as in NIQE
DEVIATION = 7 / 6  # of the Gaussian window of 7 x 7 pixels, in pixels
# Neighbours in products: right, below, and on both diagonals.
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
LUMA_SIZES, COLOUR_SIZES = 3, 2  # full, half and a quarter; colours only half and a quarter
# Numbers of a patch: three of the coefficients, and four of each direction.
PATCH_WIDTH = (3 + 4 * len(DIRECTIONS)) * (LUMA_SIZES + 2 * COLOUR_SIZES)
# Of an image: mean and standard deviation over patches, and the mean that counts sharp patches more.
SCENE_WIDTH = 3 * PATCH_WIDTH

Planes = Float[Tensor, "n h w"]
ByPatch = Float[Tensor, "n patches"]


def scene_statistics(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " m"]:
    """The m = SCENE_WIDTH numbers of n windows of one image together.

    RGB in [0, 255], both sides at least 32 and multiples of 4.
    """
    patches, sharpness = patch_statistics(images)
    mean = patches.mean(0)
    deviation = patches.var(0, correction=0).clamp(min=1e-10).sqrt()
    # As in NIQE's pristine model: damage shows where there is something to see. A flat patch counts nearly nothing.
    weights = (sharpness + 1e-3) / (sharpness + 1e-3).sum()
    return torch.cat([mean, deviation, weights @ patches])


def patch_statistics(
    images: Float[Tensor, "n 3 h w"],
) -> tuple[Float[Tensor, "p d"], Float[Tensor, " p"]]:
    """The d = PATCH_WIDTH numbers of each patch of all images, and its sharpness.

    Sharpness is the mean local standard deviation of luma at full size, from 0 to about 128.
    """
    red, green, blue = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    # Opponent colours, orthonormal with grey. Halved at once: in most files colours are stored at half size.
    half = F.avg_pool2d(images, 2)
    red, green, blue = half.unbind(1)
    colours = [(red - green) / math.sqrt(2), (red + green - 2 * blue) / math.sqrt(6)]
    # The grid of patches is that of the full size, at all sizes.
    rows, columns = (max(1, side // PATCH) for side in luma.shape[-2:])
    found: list[ByPatch] = []
    sharpness = None
    for plane, sizes in ((luma, LUMA_SIZES), *((colour, COLOUR_SIZES) for colour in colours)):
        for size in range(sizes):
            if size > 0:
                plane = F.avg_pool2d(plane[:, None], 2)[:, 0]
            numbers, local = plane_statistics(plane, rows, columns)
            found += numbers
            if sharpness is None:
                sharpness = local
    assert sharpness is not None
    return torch.stack([numbers.flatten() for numbers in found], 1), sharpness.flatten()


def plane_statistics(plane: Planes, rows: int, columns: int) -> tuple[list[ByPatch], ByPatch]:
    """The numbers of each of rows x columns patches of a plane, and their mean local standard deviation."""
    # About 0, since float32 keeps more digits of small squares.
    centred = plane - 128
    mean = smooth(centred)
    variance = smooth(centred.square()) - mean.square()
    # In place where a map is not read again: a new map costs more time than its sum.
    deviation = variance.clamp_(min=0).sqrt_()
    local = average(deviation, rows, columns)
    coefficients = (centred - mean).div_(deviation.add_(1))
    squares = average(coefficients.square(), rows, columns)
    size = average(coefficients.abs(), rows, columns)
    found = [shape(size, squares), log(squares), log(local, 1e-2)]
    for down, across in DIRECTIONS:
        product = neighbours(coefficients, down, across)
        above = product.clamp(min=0)
        # Of a product p: E[p] = E[p+] - E[p-] and E|p| = E[p+] + E[p-].
        mean_product, positive = average(product, rows, columns), average(above, rows, columns)
        all_squares = average(product.square_(), rows, columns)
        positive_squares = average(above.square_(), rows, columns)
        negative_squares = (all_squares - positive_squares).clamp(min=0)
        found += [
            shape(2 * positive - mean_product, all_squares),
            mean_product / (squares + 1e-3),
            log(positive_squares.sqrt()),
            log(negative_squares.sqrt()),
        ]
    return found, local


def smooth(planes: Planes) -> Planes:
    """Each pixel's mean under a Gaussian window of 7 x 7, the image continued by its edge."""
    distances = [math.exp(-((k / DEVIATION) ** 2) / 2) for k in range(4)]
    total = distances[0] + 2 * sum(distances[1:])
    weights = [d / total for d in distances]
    # Sums of shifted copies: on a CPU a convolution with one channel takes four times as long.
    for axis in (1, 2):
        padding = (3, 3) if axis == 2 else (0, 0, 3, 3)
        padded = F.pad(planes[:, None], (*padding, *(0,) * (4 - len(padding))), mode="replicate")
        padded = padded[:, 0]
        length = planes.shape[axis]
        result = padded.narrow(axis, 3, length) * weights[0]
        for k in range(1, 4):
            result.add_(padded.narrow(axis, 3 - k, length), alpha=weights[k])
            result.add_(padded.narrow(axis, 3 + k, length), alpha=weights[k])
        planes = result
    return planes


def neighbours(planes: Planes, down: int, across: int) -> Planes:
    """Products of pixels with the one so many rows below and columns to the right."""
    height, width = planes.shape[-2] - down, planes.shape[-1] - abs(across)
    left, right = max(0, -across), max(0, across)
    # Every second row: its moments differ little from those of all rows, and take half the time.
    here = planes[:, :height:2, left : left + width]
    there = planes[:, down : down + height : 2, right : right + width]
    return here * there


def average(planes: Planes, rows: int, columns: int) -> ByPatch:
    """The mean of each of rows x columns equal patches; what fills no patch is left out."""
    height, width = planes.shape[-2] // rows, planes.shape[-1] // columns
    whole = planes[:, : rows * height, : columns * width]
    patches = whole.reshape(-1, rows, height, columns, width)
    return patches.mean((2, 4)).flatten(1)


def shape(mean_size: Tensor, mean_square: Tensor) -> Tensor:
    """Log of E|x|² / E[x²], which tells how heavy the tails are: 2/π for a Gaussian, 1/2 for a Laplacian."""
    return log(mean_size.square() / (mean_square + 1e-6), 1e-2)


def log(values: Tensor, least: float = 1e-3) -> Tensor:
    """The logarithm of values from 0 on; `least` is added, so that 0 has one."""
    return (values + least).log()
