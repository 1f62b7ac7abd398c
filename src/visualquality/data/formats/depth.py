"""Samples of any depth -> 8 bits. The header says what white is; where it leaves that open, a warning does.

A TIFF file of 12 bits states its white, 4095. One of 16 bits may hold 16 bits, or 8, 10, 12 or 14 bits of a camera or
a microscope. It is read as its header says, and where no value is above what fewer bits could hold, a warning says so:
`assume_bits` is how the user tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError

CONTAINERS = (16, 32)  # bits that files are stored in, whatever they hold
FEWER = (8, 10, 12, 14)  # bits that files of a container often hold
BLOCK = 1 << 22  # samples converted at a time, so that memory stays bounded


@dataclass(frozen=True)
class Samples:
    """Samples as a file stores them.

    Attributes:
        values: (H, W) or (H, W, channels): unsigned or signed integers, or floats.
        mode: Pillow's name of the channels: L, LA, RGB, RGBA, or CMYK.
        bits: of an unsigned sample, that the header gives; the sign of a signed one counts.
        stated: the header says what is white: 2^bits - 1. Otherwise it names a container alone, and fewer bits may
            be in use.
        inverted: white is 0.
        notes: what to warn of.
    """

    values: NDArray
    mode: str
    bits: int
    stated: bool = False
    inverted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def colours(self) -> NDArray:
        """`values` without the alpha channel, if there is one."""
        return self.values[..., :-1] if self.mode in ("LA", "RGBA") else self.values


def white(samples: Samples, name: str, assume_bits: int | None = None) -> tuple[int, list[str]]:
    """The value that is white, and what to warn of. Of floats it is 1.

    Signed integers are black at 0. Of 32 bits, values that fit into 16 are taken for 16 bits, as programs that
    compute with integers write them.

    Raises UserError for values that no such white fits, naming the file as `name`.
    """
    values = samples.colours
    highest, lowest = values.max(), values.min()
    if np.issubdtype(values.dtype, np.floating):
        if not (lowest >= 0 and highest <= 1):  # NaN fails both
            raise UserError(
                f"{name} has floating-point values outside [0, 1]: scale them so that 1 is white"
            )
        return 1, []
    if lowest < 0:
        raise UserError(
            f"{name} has values below 0, of unknown black: save it with unsigned values"
        )
    bits = samples.bits - np.issubdtype(values.dtype, np.signedinteger)
    if samples.stated:
        return 2**bits - 1, []
    if assume_bits is not None:
        if highest >= 2**assume_bits:
            raise UserError(
                f"{name} has values up to {highest:,}, which {assume_bits} bits cannot hold: "
                "leave --assume-bits out for it, or give more"
            )
        return 2**assume_bits - 1, []
    if samples.bits > 16:
        # Some 8 bits below the top: such an image would be black in any case.
        if 65535 < highest < 2 ** (bits - 8):
            raise UserError(
                f"{name} has {samples.bits}-bit values, of unknown white point: save it with 8 or 16 bits, or say how "
                "many bits it holds with --assume-bits"
            )
        bits = 16 if highest <= 65535 else bits
    return 2**bits - 1, warnings_of(highest, samples.bits)


def warnings_of(highest: int, bits: int) -> list[str]:
    """A warning where no value of a container of `bits` is above what fewer bits can hold."""
    for fewer in FEWER:
        # Black is black, whatever the bits.
        if 0 < highest < 2**fewer:
            reach = f"none of its {bits}-bit values is above {2**fewer - 1:,}"
            return [f"{reach}: if it holds {fewer} bits, say so with --assume-bits {fewer}"]
    return []


def to_8_bit(values: NDArray, white: int, *, inverted: bool = False) -> NDArray[np.uint8]:
    """[0, white] -> [0, 255], rounded; of `inverted` values white is 0. Of the same shape."""
    found = np.empty(values.shape, np.uint8)
    for rows in row_blocks(values):
        found[rows] = np.rint(to_unit(values[rows], white, inverted=inverted) * 255)
    return found


def to_unit(values: NDArray, white: int, *, inverted: bool = False) -> NDArray[np.float64]:
    """[0, white] -> [0, 1]; of `inverted` values white is 0."""
    unit = np.minimum(values / white, 1)  # an alpha channel may be above the white of the colours
    return 1 - unit if inverted else unit


def row_blocks(values: NDArray) -> Iterator[slice]:
    """The rows of an array (H, …) in blocks of about `BLOCK` samples."""
    rows = max(1, BLOCK * len(values) // max(1, values.size))
    return (slice(start, start + rows) for start in range(0, len(values), rows))
