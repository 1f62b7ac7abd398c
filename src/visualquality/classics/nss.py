"""Natural scene statistics in the spatial domain: the numbers that NIQE and BRISQUE compute from an image.

Both metrics read the luma of an image at full and at half size. At each size the luma is locally normalised (MSCN
coefficients: mean subtracted, contrast normalised), and generalised Gaussians are fitted to the coefficients and to the
products of neighbours: 18 numbers a size. Sources:
BRISQUE: Mittal, Moorthy, Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", IEEE TIP 21 (2012).
NIQE: Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE SPL 20 (2013).
AGGD fit: Lasmar, Stitou, Berthoumieu, "Multiscale skewed heavy-tailed model for texture analysis", ICIP 2009.

Products are of true neighbours inside a patch, as in the papers' equations (the authors' programs wrap around its
edge). Every number here is finite for every image: samples that are all zero have shape `SHAPES[0]` and width 0.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d
from scipy.special import gammaln

Array = NDArray[np.float64]

FEATURES = 36  # numbers of an image or patch: 18 at each of two sizes
# Pixels of a photo that are worked on at a time, about 100 bytes each.
_STRIP = 1 << 22
# Shape parameters that a fit can give: 0.2 to 10 in steps of 0.001. 2 is a Gaussian, 1 a Laplacian.
SHAPES: Array = np.arange(200, 10001) / 1000


def _moment_ratio(shape: Array) -> Array:
    """E[|x|]² / E[x²] of a generalised Gaussian, which grows with its shape parameter."""
    logarithm = 2 * gammaln(2 / shape) - gammaln(1 / shape) - gammaln(3 / shape)
    return np.exp(logarithm)


_RATIOS = _moment_ratio(SHAPES)


def _window() -> Array:
    """(7,) Gaussian of standard deviation 7/6 pixels in multiples of 2⁻¹⁸, of sum 1.

    With such weights every weighted mean of 8-bit luma and of its square is exact in float64, in any order of
    summation. So a flat area is flat to the last bit; rounding noise there would be fitted as if it were texture.
    """
    grid = 2.0**18
    distance = np.arange(-3, 4) / (7 / 6)
    weights = np.exp(-(distance**2) / 2)
    weights = np.rint(weights / weights.sum() * grid) / grid
    weights[3] += 1 - weights.sum()
    return weights


WINDOW = _window()


def luma(image: Image.Image) -> NDArray[np.uint8]:
    """Luma (H, W) of an RGB image in [0, 255]: full-range ITU-R BT.601, as MATLAB's rgb2gray."""
    found = np.empty((image.height, image.width), np.uint8)
    # In strips, since Pillow's whole copies of a large photo would be in memory beside it.
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        found[top:bottom] = np.asarray(strip.convert("L"))
    return found


def mscn(values: Array) -> tuple[Array, Array]:
    """MSCN coefficients (H, W) of luma in [0, 255], and the local standard deviation (H, W) they were divided by.

    (I - μ) / (σ + 1), with μ and σ under a 7×7 Gaussian window; the image is continued by its edge.
    """
    mean = _smooth(values)
    variance = _smooth(values * values) - mean * mean
    deviation = np.sqrt(np.abs(variance))
    return (values - mean) / (deviation + 1), deviation


def _smooth(values: Array) -> Array:
    # The Gaussian window is separable: two passes of 7 weights instead of one of 49.
    columns = correlate1d(values, WINDOW, axis=0, mode="nearest")
    return correlate1d(columns, WINDOW, axis=1, mode="nearest")


# Weights of Keys' cubic (a = -½), stretched to twice its width, for the pixels at distance ½, 1½, 2½ and 3½.
_CUBIC = (111 / 256, 29 / 256, -9 / 256, -3 / 256)


def half_size(values: Array) -> Array:
    """(H, W) -> (⌈H/2⌉, ⌈W/2⌉) by the antialiased bicubic kernel, mirrored at the edge, as MATLAB's imresize."""
    for _ in range(2):  # each turn halves the rows and transposes
        count = -(-len(values) // 2)  # half the rows, rounded up
        padded = np.pad(values, ((3, 4), (0, 0)), mode="symmetric")
        halved = np.zeros((count, values.shape[1]))
        for k, weight in enumerate(_CUBIC):
            above = padded[3 - k :: 2][:count]
            below = padded[4 + k :: 2][:count]
            halved += weight * (above + below)
        values = halved.T
    return values


@dataclass(frozen=True)
class Fits:
    """Distributions fitted to P patches at one size.

    shape, sigma: (P,) of the generalised Gaussian (GGD) of the MSCN coefficients.
    shapes, left, right: (P, 4) of the asymmetric ones (AGGD) of the products of neighbours: horizontal, vertical,
    main and secondary diagonal; left and right are the root mean squares of the negative and the positive products.
    sharpness: (P,) mean local standard deviation of the luma.
    """

    shape: Array
    sigma: Array
    shapes: Array
    left: Array
    right: Array
    sharpness: Array

    @property
    def scale(self) -> Array:
        """β (P,) of the GGD of the coefficients."""
        return self.sigma * width(self.shape)

    @property
    def scales(self) -> tuple[Array, Array]:
        """β_l and β_r (P, 4) of the AGGDs."""
        ratio = width(self.shapes)
        return self.left * ratio, self.right * ratio

    @property
    def mean(self) -> Array:
        """η (P, 4), the mean of the AGGDs: (β_r - β_l) Γ(2/ν) / Γ(1/ν)."""
        left, right = self.scales
        ratio = np.exp(gammaln(2 / self.shapes) - gammaln(1 / self.shapes))
        return (right - left) * ratio


def width(shape: Array) -> Array:
    """β / σ of a generalised Gaussian: √(Γ(1/ν) / Γ(3/ν))."""
    return np.exp((gammaln(1 / shape) - gammaln(3 / shape)) / 2)


# Rows above and below a patch that its numbers depend on: at half size 3 of the window, which are 6 at full size, and
# 3 or 4 of the cubic. Even, so that halving the rows around a patch equals cutting them from the halved image.
_MARGIN = 12


def fit_sizes(values: NDArray, patch: tuple[int, int]) -> tuple[Fits, Fits]:
    """Fits of the whole patches of luma (H, W), row by row, at full size and at half.

    patch: its height and width at full size, both even unless there is only one patch. Rows and columns that fill no
    patch are left out.
    """
    height, breadth = patch
    rows = values.shape[0] // height
    columns = values.shape[1] // breadth
    values = values[: rows * height, : columns * breadth]
    step = max(2, _STRIP // values.shape[1] // 2 * 2)  # even, for the half size
    full, half = [], []
    # One row of patches at a time stays in the processor's cache; a whole photo does not. A large patch is read in
    # strips: its numbers are those of sums over all of its pixels.
    for top in range(0, rows * height, height):
        sums: list[tuple[Array, Array]] = []
        for start in range(top, top + height, step):
            stop = min(start + step, top + height)
            first = max(0, start - _MARGIN)
            around = values[first : stop + _MARGIN].astype(np.float64)
            inside = slice(start - first, stop - first)
            last = stop == top + height
            at_half = slice(inside.start // 2, -(-inside.stop // 2))
            sums.append(
                (
                    _sums(around, inside, columns, last),
                    _sums(half_size(around), at_half, columns, last),
                )
            )
        of_full, of_half = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
        full.append(_fits(of_full, height, breadth))
        half.append(_fits(of_half, -(-height // 2), -(-breadth // 2)))
    return _joined(full), _joined(half)


def _joined(rows: list[Fits]) -> Fits:
    arrays = {}
    for field in fields(Fits):
        arrays[field.name] = np.concatenate([getattr(row, field.name) for row in rows])
    return Fits(**arrays)


def _sums(values: Array, rows: slice, columns: int, last: bool) -> Array:
    """Sums (23, P) over a strip of a row of patches, which is `rows` of `values`; `last`: it ends the patches.

    Of the MSCN coefficients those of `_ggd_sums`, of their local standard deviations the sum, and for each direction
    those of `_aggd_sums` of the products of neighbours.
    """
    coefficients, deviation = mscn(values)
    # With the first row of the strip below, whose neighbours are in this one.
    patches = _split(coefficients[rows.start : rows.stop + (not last)], columns)
    own = patches[:, : rows.stop - rows.start]
    sharpness = _split(deviation[rows], columns).sum((1, 2))
    upper, lower = patches[:, :-1], patches[:, 1:]
    neighbours = (
        (own[:, :, :-1], own[:, :, 1:]),  # horizontal
        (upper, lower),  # vertical
        (upper[:, :, :-1], lower[:, :, 1:]),  # main diagonal
        (upper[:, :, 1:], lower[:, :, :-1]),  # secondary diagonal
    )
    sums = [_ggd_sums(own.reshape(len(own), -1)), sharpness[None]]
    for one, other in neighbours:
        products = (one * other).reshape(len(patches), -1)
        sums.append(_aggd_sums(products))
    return np.concatenate(sums)


def _fits(sums: Array, height: int, breadth: int) -> Fits:
    """Fits of P patches of this size from their `_sums`."""
    shape, sigma = _ggd(sums[:2], height * breadth)
    # Neighbours in a patch: horizontal, vertical, and along both diagonals.
    diagonal = (height - 1) * (breadth - 1)
    counts = (height * (breadth - 1), (height - 1) * breadth, diagonal, diagonal)
    asymmetric = [_aggd(sums[3 + 5 * i : 8 + 5 * i], n) for i, n in enumerate(counts)]
    # 4 directions of 3 numbers of P patches -> 3 arrays (P, 4)
    shapes, left, right = np.array(asymmetric).transpose(1, 2, 0)
    return Fits(shape, sigma, shapes, left, right, sums[2] / (height * breadth))


def _split(values: Array, columns: int) -> Array:
    """(height, columns · width) -> (columns, height, width)."""
    patches = values.reshape(len(values), columns, -1).swapaxes(0, 1)
    # A copy: a patch in one piece of memory is read faster by all that follows.
    return np.ascontiguousarray(patches)


def fit_ggd(samples: Array) -> tuple[Array, Array]:
    """Shape in [0.2, 10] and standard deviation, (P,) each, of the zero-mean GGD of P samples (P, n), by moments."""
    return _ggd(_ggd_sums(samples), samples.shape[1])


def _ggd_sums(samples: Array) -> Array:
    """(2, P): sums of |x| and of x²."""
    return np.stack([np.abs(samples).sum(1), _squares(samples)])


def _ggd(sums: Array, n: int) -> tuple[Array, Array]:
    size, square = _mean(sums, n)
    return _shape(_ratio(size * size, square)), np.sqrt(square)


def fit_aggd(samples: Array) -> tuple[Array, Array, Array]:
    """Shape in [0.2, 10], left and right width, (P,) each, of the AGGD of P samples (P, n), by moments.

    The widths are the root mean squares of the samples below and above zero, 0 where there are none.
    """
    return _aggd(_aggd_sums(samples), samples.shape[1])


def _aggd_sums(samples: Array) -> Array:
    """(5, P): the sum of |x|; the sums of squares, and the numbers, of samples below zero and above."""
    below = np.minimum(samples, 0)
    above = np.maximum(samples, 0)
    return np.stack(
        [
            above.sum(1) - below.sum(1),
            _squares(below),
            _squares(above),
            np.count_nonzero(samples < 0, axis=1),
            np.count_nonzero(samples > 0, axis=1),
        ]
    )


def _aggd(sums: Array, n: int) -> tuple[Array, Array, Array]:
    total, squares_below, squares_above, count_below, count_above = sums
    left = np.sqrt(_ratio(squares_below, count_below))
    right = np.sqrt(_ratio(squares_above, count_above))
    size = _mean(total, n)
    square = _mean(squares_below + squares_above, n)
    # The correction for asymmetry is the same for g and 1/g: the smaller of the two never divides by zero.
    g = _ratio(np.minimum(left, right), np.maximum(left, right))
    asymmetry = (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    shape = _shape(_ratio(size * size, square) * asymmetry)
    return shape, left, right


def _shape(ratio: Array) -> Array:
    """The shape parameter of a moment ratio, interpolated in the table; beyond the table, its nearest end."""
    return np.interp(ratio, _RATIOS, SHAPES)


def _squares(samples: Array) -> Array:
    """Sum of squares (P,), without an array of the squares."""
    return np.einsum("pn,pn->p", samples, samples)


def _mean(total: Array, n: int) -> Array:
    return total / max(n, 1)  # a patch of one pixel has no neighbours


def _ratio(a: Array, b: Array) -> Array:
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
