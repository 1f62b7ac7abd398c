"""Boxes of AVIF and HEIF files (ISO/IEC 14496-12 and 23008-12): what Pillow's AVIF decoder does not say.

The crop box (clap), which it does not apply; colours that the file states by numbers (nclx, ITU-T H.273) and nobody
converts; and streams that are cut off, which are decoded without a word.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

BRANDS_AV1 = (b"avif", b"avis")
BRANDS_HEVC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
AV1, HEVC = b"av01", (b"hvc1", b"hev1")  # kinds of items
# ITU-T H.273: numbers that mean sRGB, what is shown as it, and "unspecified".
PRIMARIES, TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)
NAMES = {9: "BT.2020", 11: "DCI P3", 12: "Display P3", 16: "PQ", 18: "HLG", 8: "linear light"}
_FRAME_KINDS = (3, 4, 6)  # OBUs of AV1 that hold pixels: frame header, tile group, frame


class _Item(NamedTuple):
    extents: list[tuple[int, int]]  # (offset, length), in the file or in idat
    in_idat: bool


@dataclass
class Boxes:
    """What is said of the primary image.

    Attributes:
        crop: (width, height, horizontal, vertical offset of the centre) of its crop box, or None.
        colours: (primaries, transfer) of H.273, or None.
        streams: (kind, bytes) that it is decoded from, av01 or hvc1: one, or those of the tiles of a grid.
        missing: bytes that its items should have and the file has not.
        layer: of a stream of several layers, the one that is shown; None for all.
    """

    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    colours: tuple[int, int] | None = None
    streams: list[tuple[bytes, bytes]] = field(default_factory=list)
    missing: int = 0
    layer: int | None = None


def brands(start: bytes) -> tuple[bytes, ...]:
    """The major and the compatible brands in the first bytes of a file; none where it has no ftyp box."""
    if start[4:8] != b"ftyp":
        return ()
    length = int.from_bytes(start[:4], "big")
    body = start[8 : max(16, min(length, len(start)))]
    return (body[:4], *(body[at : at + 4] for at in range(8, len(body) - 3, 4)))


def read_boxes(data: bytes) -> Boxes:
    """The boxes of a file's primary image; empty where they cannot be followed, which is the decoder's to refuse."""
    try:
        for kind, body in _children(data):
            if kind == b"meta":
                return _read_meta(data, body[4:])
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError):
        pass
    return Boxes()


def crop_box(boxes: Boxes, size: tuple[int, int]) -> Box | None:
    """The crop box in pixels; None for one that is not whole pixels inside the image (MIAF, 7.3.6.7)."""
    if boxes.crop is None:
        return None
    width, height, right, down = boxes.crop
    # Offsets are from the centre of the image to the centre of the box.
    left, top = (size[0] - width) / 2 + right, (size[1] - height) / 2 + down
    edges = (left, top, left + width, top + height)
    if any(edge.denominator != 1 for edge in edges):
        return None
    box = (int(left), int(top), int(left + width), int(top + height))
    inside = 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]
    return box if inside else None


def colour_warning(boxes: Boxes) -> str | None:
    """A warning of colours that are not sRGB and were not converted."""
    if boxes.colours is None:
        return None
    primaries, transfer = boxes.colours
    odd = [] if primaries in PRIMARIES else [NAMES.get(primaries, f"primaries {primaries}")]
    odd += [] if transfer in TRANSFERS else [NAMES.get(transfer, f"transfer {transfer}")]
    return f"its colours are stated as {' with '.join(odd)}, and were read as sRGB" if odd else None


def why_cut(boxes: Boxes) -> str | None:
    """Why a stream is not whole: it ends within a unit, in zeros, or before its last layer; None if it is."""
    if boxes.missing:
        return f"it ends {boxes.missing:,} bytes too early"
    for kind, stream in boxes.streams:
        try:
            problem = (
                _why_av1_is_cut(stream, boxes.layer) if kind == AV1 else _why_hevc_is_cut(stream)
            )
        except (IndexError, ValueError):
            problem = "its stream ends within a unit"
        if problem:
            return problem
    return None


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + length if length else len(data)
        if end < start:
            raise ValueError("a box is shorter than its header")
        yield kind, data[start:end]
        at = end


def _read_meta(data: bytes, meta: bytes) -> Boxes:
    parts = dict(_children(meta))
    (primary,) = struct.unpack_from(">I" if parts[b"pitm"][0] else ">H", parts[b"pitm"], 4)
    found = Boxes()
    for kind, body in _properties(parts[b"iprp"], primary):
        if kind == b"clap":
            terms = struct.unpack_from(">IIIIiIiI", body)
            width, height, right, down = map(Fraction, terms[::2], terms[1::2])
            found.crop = (width, height, right, down)
        elif kind == b"colr" and body[:4] == b"nclx":
            found.colours = struct.unpack_from(">HH", body, 4)
        elif kind == b"lsel":
            (layer,) = struct.unpack_from(">H", body)
            found.layer = None if layer == 0xFFFF else layer
    kinds = _kinds(parts[b"iinf"])
    items = _items(parts[b"iloc"])
    idat = parts.get(b"idat", b"")
    # Of all items, since where one of them is missing, the file is cut off.
    for item in items.values():
        end = max((start + size for start, size in item.extents), default=0)
        found.missing = max(found.missing, end - len(idat if item.in_idat else data))
    for number in [primary, *_tiles(parts.get(b"iref"), primary)]:
        if kinds.get(number) in (AV1, *HEVC):
            source = idat if items[number].in_idat else data
            # Without a length, an extent goes on to the end.
            stream = b"".join(
                source[start : start + size if size else None]
                for start, size in items[number].extents
            )
            found.streams.append((kinds[number], stream))
    return found


def _properties(iprp: bytes, item: int) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of the properties that the box ipma gives an item."""
    parts = list(_children(iprp))
    stored = list(_children(dict(parts)[b"ipco"]))
    for ipma in (body for kind, body in parts if kind == b"ipma"):
        wide, at = ipma[3] & 1, 8
        for _ in range(struct.unpack_from(">I", ipma, 4)[0]):
            (number,) = struct.unpack_from(">I" if ipma[0] else ">H", ipma, at)
            at += 4 if ipma[0] else 2
            count, at = ipma[at], at + 1
            for _ in range(count):
                index = struct.unpack_from(">H", ipma, at)[0] & 0x7FFF if wide else ipma[at] & 0x7F
                at += 2 if wide else 1
                if number == item and index:  # 0 is no property
                    yield stored[index - 1]


def _kinds(iinf: bytes) -> dict[int, bytes]:
    """Item -> its kind, such as av01, grid or Exif."""
    found = {}
    for kind, infe in _children(iinf[8 if iinf[0] else 6 :]):
        if kind == b"infe" and infe[0] >= 2:
            wide = infe[0] > 2
            (number,) = struct.unpack_from(">I" if wide else ">H", infe, 4)
            found[number] = infe[10:14] if wide else infe[8:12]
    return found


def _tiles(iref: bytes | None, item: int) -> list[int]:
    """The items that a grid is made of."""
    if iref is None:
        return []
    number = ">I" if iref[0] else ">H"
    size = struct.calcsize(number)
    for kind, body in _children(iref[4:]):
        if kind == b"dimg" and struct.unpack_from(number, body)[0] == item:
            (count,) = struct.unpack_from(">H", body, size)
            return [struct.unpack_from(number, body, 2 + size * (i + 1))[0] for i in range(count)]
    return []


def _items(iloc: bytes) -> dict[int, _Item]:
    """Item -> where its data is (14496-12, 8.11.3)."""
    version = iloc[0]
    sizes = [iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15 if version else 0]
    offset_size, length_size, base_size, index_size = sizes
    at = 6

    def take(size: int) -> int:
        nonlocal at
        at += size
        if at > len(iloc):
            raise ValueError("iloc ends too early")
        return int.from_bytes(iloc[at - size : at], "big")

    found = {}
    for _ in range(take(4 if version == 2 else 2)):
        number = take(4 if version == 2 else 2)
        in_idat = version > 0 and take(2) & 15 == 1
        take(2)  # data_reference_index
        base = take(base_size)
        extents = []
        for _ in range(take(2)):
            take(index_size)
            offset = base + take(offset_size)
            extents.append((offset, take(length_size)))
        found[number] = _Item(extents, in_idat)
    return found


def _why_hevc_is_cut(stream: bytes) -> str | None:
    """ISO/IEC 14496-15: units with their lengths in four bytes. None ends in a zero byte (ITU-T H.265, 7.4.2)."""
    at = 0
    while at < len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        at += 4 + size
        if not size or at > len(stream):
            return "its HEVC stream ends within a unit"
        if not stream[at - 1]:
            return "its HEVC stream ends in zeros"
    return None


def _why_av1_is_cut(stream: bytes, layer: int | None) -> str | None:
    at, announced, seen, last = 0, 0, 0, b""
    while at < len(stream):
        # AV1 bitstream specification, 5.3: the header of an open bitstream unit (OBU), its length, its payload.
        kind, extended, sized = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        if extended and kind in _FRAME_KINDS:
            seen = max(seen, stream[at + 1] >> 3 & 3)  # spatial_id
        at += 1 + extended
        size = len(stream) - at
        if sized:
            size, at = _leb128(stream, at)
        if at + size > len(stream):
            return "its AV1 stream ends within a unit"
        payload = stream[at : at + size]
        if kind == 1:
            announced = max(announced, _layers(payload) - 1)
        if kind in _FRAME_KINDS:
            last = payload
        at += size
    # The arithmetic coder never ends in a zero byte (8.2.4: a one bit and fewer than eight zeros).
    if last.endswith(b"\0\0"):
        return "its AV1 stream ends in zeros"
    wanted = announced if layer is None else layer
    if seen < wanted:
        return f"its AV1 stream has {seen + 1} of {wanted + 1} layers"
    return None


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        value |= (data[at] & 127) << (7 * place)
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a length has over 8 bytes")


def _layers(sequence: bytes) -> int:
    """Spatial layers of the first operating point of a sequence header (AV1, 5.5.1)."""
    bits = "".join(f"{byte:08b}" for byte in sequence[:32])
    # After the profile (3 bits) and still_picture (1): a reduced header has one layer.
    if bits[4] == "1":
        return 1
    # A stream with the timing of a film has no layers of a still image that could be missing.
    if bits[5] == "1":
        return 1
    # initial_display_delay_present_flag (1) and operating_points_cnt_minus_1 (5) stand before the first point.
    idc = int(bits[12:24], 2)
    return max(1, (idc >> 8).bit_length())
