"""Samples of TIFF files by their header (TIFF 6.0): any number of bits, signed, floating point, white at 0.

Pillow scales no bits but 8 and 16, inverts no 16-bit file whose white is 0, takes signed values for unsigned ones, and
keeps the high byte of 16-bit colour. Files of 8 bits, and of 1, 2 and 4 bits in grey or with a palette, it reads right,
and JPEG and fax data only it can read.

libtiff, inside Pillow, undoes the compression: each strip or tile is given to it as an image of bytes. What the bytes
mean is decided here.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from .depth import CONTAINERS, Samples

Tags = TiffImagePlugin.ImageFileDirectory_v2
Order = Literal["<", ">"]  # of the bytes of a sample

# Compressions that give back all bytes: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
RAW, LOSSLESS = 1, (1, 5, 8, 32946, 32773, 34925, 50000)
# PhotometricInterpretation -> Pillow's mode. White is 0 in the first; others, such as palettes, are Pillow's.
WHITE_IS_ZERO, MODES = 0, {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # SampleFormat
DIFFERENCE, FLOAT_DIFFERENCE = 2, 3  # Predictor
PREMULTIPLIED, ALPHA = 1, 2  # ExtraSamples
MOST_CHANNELS = (
    8  # as many as a file may have here, which bounds the memory that its header asks for
)
SIGNED_BYTES = "it states signed values of 8 bits and has some below 0: all were read as unsigned"
LARGEST_TILE = 1 << 24  # pixels, where the image is small
UNPACKED = 1 << 25  # bits that are unpacked at a time, so that memory stays bounded
# Names of the tags that are read here (TIFF 6.0, section 8 and following).
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, MAX_VALUE = 273, 277, 278, 279, 281
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 317, 322, 323, 324, 325
EXTRA, SAMPLE_FORMAT, SUBFILE_TYPE, SUB_IFDS, PROFILE, DNG_VERSION = (
    338,
    339,
    254,
    330,
    34675,
    50706,
)


class CutOffError(ValueError):
    """The file ends before the data that its header names."""


@dataclass(frozen=True)
class Layout:
    """How the pixels of a TIFF file are stored.

    Attributes:
        width, height: of the image; block: (height, width) of a strip or tile.
        channels: samples of a pixel, extra ones included.
        mode: Pillow's name of those that are used.
        bits: of a sample; kind: SampleFormat.
        planar: each channel is stored by itself.
    """

    width: int
    height: int
    block: tuple[int, int]
    channels: int
    mode: str
    bits: int
    kind: int
    photometric: int
    planar: bool
    predictor: int


class TiffFile(TiffImagePlugin.TiffImageFile):
    """As Pillow opens it; also with a layout that Pillow does not know and `read_samples` does, which has no tiles.

    Its pixels stay as they are stored: Pillow would turn them upright, and warn of damaged EXIF on the way.
    """

    def _setup(self) -> None:
        try:
            super()._setup()
        except (SyntaxError, KeyError):
            found = layout(self.tag_v2)
            if found is None:
                raise
            self._mode, self._size, self.tile = found.mode, (found.width, found.height), []
            if PROFILE in self.tag_v2:
                self.info["icc_profile"] = self.tag_v2[PROFILE]

    def load_prepare(self) -> None:
        # Pillow's method has a limit of its own on the pixels; here the caller has compared them with theirs.
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        ImageFile.ImageFile.load_prepare(self)

    def load_end(self) -> None:
        pass


def check_whole(file: IO[bytes], tags: Tags) -> None:
    """Raises CutOffError where strips or tiles are beyond the end of the file.

    libtiff fills up what is missing of them, and Pillow does not ask.
    """
    size = file.seek(0, io.SEEK_END)
    raw = tags.get(COMPRESSION, 1) == RAW
    for offset, length in _segments(tags):
        # Of raw strips some writers state too many bytes: what is needed is checked as it is read.
        if offset + (1 if raw else length) > size:
            raise CutOffError(f"it ends at byte {size:,}, before its pixels do")


def is_raw_photo(tags: Tags, start: bytes) -> bool:
    """Whether a camera wrote it as a raw photo: its first image is then only a small preview.

    `start`: the first 16 bytes of the file. DNG and Canon's CR2 say so themselves; in Nikon's, Sony's, Pentax's and
    Samsung's files the first image states that it is a reduced one, and names others.
    """
    reduced = bool(tags.get(SUBFILE_TYPE, 0) & 1)
    return DNG_VERSION in tags or start[8:10] == b"CR" or (reduced and SUB_IFDS in tags)


def layout(tags: Tags) -> Layout | None:
    """The layout of an image that is to be read here; None for one that Pillow reads right, or nobody."""
    photometric = tags.get(PHOTOMETRIC, WHITE_IS_ZERO)
    kinds, depths = set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))), set(tags.get(BITS, (1,)))
    if photometric not in MODES or len(kinds) > 1 or len(depths) > 1:
        return None
    (kind,), (bits,) = kinds, depths
    mode, channels = MODES[photometric], tags.get(SAMPLES, len(tags.get(BITS, (1,))))
    extra = channels - {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    kind = UNSIGNED if kind == UNDEFINED else kind
    simple = bits == 8 or (bits in (1, 2, 4) and channels == 1)
    if (
        (kind == UNSIGNED and simple)
        or tags.get(COMPRESSION, 1) not in LOSSLESS
        or extra < 0
        or channels > MOST_CHANNELS
        or not 0 < bits <= 64
        or (kind == FLOAT and bits not in (16, 32, 64))
        or (kind in (UNSIGNED, SIGNED) and bits > 32)
        or (kind == SIGNED and bits not in (8, 16, 32))
        or kind > FLOAT
    ):
        return None
    # Without a statement of what it is, a fourth sample of RGB is alpha to Pillow and others.
    meaning = tags.get(EXTRA, (ALPHA,) if mode == "RGB" and extra == 1 else ())
    if mode != "CMYK" and extra and meaning[:1] and meaning[0] in (PREMULTIPLIED, ALPHA):
        mode += "A"
    width, height = tags[WIDTH], tags[HEIGHT]
    block = (min(tags.get(ROWS_PER_STRIP, height), height), width)
    if TILE_OFFSETS in tags:
        block = (tags[TILE_HEIGHT], tags[TILE_WIDTH])
        # No writer makes tiles much larger than the image, and each is decoded whole.
        if block[0] * block[1] > max(4 * width * height, LARGEST_TILE):
            return None
    planar = tags.get(PLANAR, 1) == 2 and channels > 1
    predictor = tags.get(PREDICTOR, 1)
    return Layout(width, height, block, channels, mode, bits, kind, photometric, planar, predictor)


def read_samples(file: IO[bytes], tags: Tags, found: Layout) -> Samples:
    """The samples of an image. Raises CutOffError and OSError where they are not whole."""
    order: Order = "<" if tags.prefix == b"II" else ">"
    used = len(found.mode)
    values = np.empty((found.height, found.width, used), _dtype(found.bits, found.kind))
    rows, columns = found.block
    across, down = -(-found.width // columns), -(-found.height // rows)
    per_plane = across * down
    compression, fill_order = tags.get(COMPRESSION, 1), tags.get(FILL_ORDER, 1)
    segments = list(_segments(tags))
    planes = found.channels if found.planar else 1
    if len(segments) < planes * per_plane:
        raise CutOffError(f"it has {len(segments)} strips or tiles of {planes * per_plane}")
    for place, (offset, length) in enumerate(segments[: planes * per_plane]):
        plane, place = divmod(place, per_plane)
        if plane >= used:
            break
        top, left = place // across * rows, place % across * columns
        # The last strip may be lower, a tile never is.
        count = rows if TILE_OFFSETS in tags else min(rows, found.height - top)
        channels = 1 if found.planar else found.channels
        breadth = -(-columns * channels * found.bits // 8)  # bytes of a row
        data = _decoded(file, offset, length, compression, fill_order, (count, breadth))
        for start in range(0, count, step := max(1, UNPACKED // (8 * breadth))):
            part = data[start : start + step]
            block = _unpacked(part, (len(part), columns, channels), found, order)
            into = values[top + start : top + start + len(part), left : left + columns]
            channel = slice(plane, plane + 1) if found.planar else slice(used)
            into[..., channel] = block[
                : len(into), : into.shape[1], : used if not found.planar else 1
            ]
    return _as_stated(values, tags, found)


def _as_stated(values: NDArray, tags: Tags, found: Layout) -> Samples:
    bits, stated = found.bits, found.bits not in CONTAINERS
    # Of a container, the largest value that it may hold, in the form 2^n - 1: the camera's bits.
    most = tags.get(MAX_VALUE, (0,))
    most = max(most) if isinstance(most, tuple) else most
    fewer = found.kind == UNSIGNED and not stated and 255 <= most < 2**bits
    if fewer and not most & (most + 1) and values.max() <= most:
        bits, stated = int(most).bit_length(), True
    notes: tuple[str, ...] = ()
    if found.kind == SIGNED and bits == 8 and values.min() < 0:
        # Some writers call all of their samples signed; nobody else reads that of 8 bits.
        values, notes = values.view(np.uint8), (SIGNED_BYTES,)
    alpha = found.mode.endswith("A")
    if alpha and tags.get(EXTRA, (ALPHA,))[0] == PREMULTIPLIED:
        values = _unmultiplied(values, bits)
    if found.mode == "L":
        values = values[..., 0]
    inverted = found.photometric == WHITE_IS_ZERO
    return Samples(values, found.mode, bits, stated, inverted, notes)


def _unmultiplied(values: NDArray, bits: int) -> NDArray:
    """Colours that were multiplied by alpha, divided by it again."""
    white = 1.0 if np.issubdtype(values.dtype, np.floating) else 2.0**bits - 1
    share = np.maximum(values[..., -1:] / white, 1 / white)
    colours = np.minimum(values[..., :-1] / share, white)
    if white > 1:
        colours = np.rint(colours)
    return np.concatenate([colours.astype(values.dtype), values[..., -1:]], axis=-1)


def _segments(tags: Tags) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each strip or tile."""
    tiled = TILE_OFFSETS in tags
    offsets = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    lengths = tags.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    # Raw files without byte counts are as long as they are.
    return zip(offsets, lengths or (0,) * len(offsets), strict=False)


def _decoded(
    file: IO[bytes],
    offset: int,
    length: int,
    compression: int,
    fill_order: int,
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """The bytes (rows, bytes of a row) of a strip or tile, uncompressed, the first bit of each being its highest."""
    file.seek(offset)
    size = shape[0] * shape[1]
    data = file.read(size if compression == RAW else length)
    if len(data) < (size if compression == RAW else length):
        raise CutOffError(f"its pixels end after {len(data):,} of {size:,} bytes")
    if compression == RAW:
        found = np.frombuffer(data, np.uint8).reshape(shape)
        if fill_order == 2:
            found = np.packbits(np.unpackbits(found, bitorder="little")).reshape(shape)
        return found
    # A TIFF file of one strip of bytes.
    rows, breadth = shape
    tags: dict[int, Any] = {WIDTH: breadth, HEIGHT: rows, BITS: 8, COMPRESSION: compression}
    tags |= {PHOTOMETRIC: 1, FILL_ORDER: fill_order, STRIP_OFFSETS: 8, SAMPLES: 1}
    tags |= {ROWS_PER_STRIP: rows, STRIP_BYTES: len(data)}
    data += bytes(len(data) & 1)
    entries = b"".join(
        np.array([tag, 4], "<u2").tobytes() + np.array([1, value], "<u4").tobytes()
        for tag, value in sorted(tags.items())
    )
    start = b"II*\0" + np.array([8 + len(data)], "<u4").tobytes()
    directory = np.array([len(tags)], "<u2").tobytes() + entries + bytes(4)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(start + data + directory)) as strip:
        strip.load()
        return np.asarray(strip)


def _dtype(bits: int, kind: int) -> np.dtype:
    if kind == FLOAT:
        return np.dtype(f"f{bits // 8}")
    size = 1 if bits <= 8 else 2 if bits <= 16 else 4
    return np.dtype(f"{'i' if kind == SIGNED else 'u'}{size}")


def _unpacked(
    data: NDArray[np.uint8], shape: tuple[int, int, int], found: Layout, order: Order
) -> NDArray:
    """Bytes (rows, bytes of a row) -> samples (rows, columns, channels), their differences undone."""
    rows, columns, channels = shape
    bits, kind = found.bits, found.kind
    dtype = _dtype(bits, kind)
    if kind == FLOAT and found.predictor == FLOAT_DIFFERENCE:
        # Adobe's Technical Note 3: the highest bytes of a row, then the next; each the difference to the one before.
        planes = np.cumsum(data.reshape(rows, -1, channels), axis=1, dtype=np.uint8)
        planes = planes.reshape(rows, bits // 8, columns * channels).swapaxes(1, 2)
        return np.ascontiguousarray(planes).view(dtype.newbyteorder(">")).reshape(shape)
    if bits in (8, 16, 32, 64):
        samples = np.ascontiguousarray(data).view(dtype.newbyteorder(order)).reshape(shape)
    elif bits == 24:
        parts = data.reshape(*shape, 3).astype(dtype)
        low, middle, high = (0, 1, 2) if order == "<" else (2, 1, 0)
        samples = parts[..., low] | parts[..., middle] << 8 | parts[..., high] << 16
    else:
        ones = np.unpackbits(data, axis=1)[:, : columns * channels * bits]
        ones = ones.reshape(*shape, bits)
        samples = np.zeros(shape, dtype)
        for bit in range(bits):
            samples = samples << 1 | ones[..., bit]
    if found.predictor == DIFFERENCE and kind != FLOAT:
        samples = np.cumsum(samples, axis=1, dtype=dtype)
        if bits not in (8, 16, 32):
            samples &= dtype.type(2**bits - 1)
    return samples
