"""Files that Pillow does not write: TIFF of any depth, PNG of raw chunks, crop boxes of AVIF, ICC profiles, HEIC."""

import base64
import struct
import zlib

import numpy as np

SHORT, LONG, UNDEFINED = 3, 4, 7
DEFLATE = 8


def tiff(
    values: np.ndarray,
    bits: int,
    *,
    photometric: int = 1,
    kind: int = 1,
    order: str = "<",
    compression: int = 1,
    predictor: int = 1,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    planar: bool = False,
    fill_order: int = 1,
    more: dict[int, tuple[int, bytes | list[int]]] | None = None,
) -> bytes:
    """A TIFF file (TIFF 6.0) of samples (H, W) or (H, W, channels) of so many bits.

    kind: SampleFormat. order: "<" or ">". tile: (height, width). more: tag -> (type, values).
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    rows, columns = tile or (rows_per_strip or height, width)
    blocks = []
    for plane in np.split(values, channels, axis=2) if planar else [values]:
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                block = plane[top : top + rows, left : left + columns]
                if tile:
                    missing = (rows - block.shape[0], columns - block.shape[1])
                    block = np.pad(block, ((0, missing[0]), (0, missing[1]), (0, 0)))
                data = packed(block, bits, order, predictor)
                if fill_order == 2:
                    data = np.packbits(np.unpackbits(data), bitorder="little")
                data = data.tobytes()
                blocks.append(zlib.compress(data) if compression == DEFLATE else data)
    tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * channels),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        266: (SHORT, [fill_order]),
        277: (SHORT, [channels]),
        284: (SHORT, [2 if planar else 1]),
        317: (SHORT, [predictor]),
        339: (SHORT, [kind] * channels),
    }
    start, offsets = 8, []
    for block in blocks:
        offsets.append(start)
        start += len(block)
    lengths = [len(block) for block in blocks]
    if tile:
        tags |= {322: (LONG, [columns]), 323: (LONG, [rows])}
        tags |= {324: (LONG, offsets), 325: (LONG, lengths)}
    else:
        tags |= {273: (LONG, offsets), 278: (LONG, [rows]), 279: (LONG, lengths)}
    tags |= more or {}
    body = b"".join(blocks)
    directory = directory_of(tags, 8 + len(body), order)
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HI", 42, 8 + len(body)) + body + directory


def directory_of(tags: dict, at: int, order: str) -> bytes:
    """An image file directory that begins at byte `at`, with the values that do not fit into it behind."""
    entries, behind = [], b""
    end = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        letter = {SHORT: "H", LONG: "I", UNDEFINED: "B"}[kind]
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        stored = data.ljust(4, b"\0")
        if len(data) > 4:
            stored = struct.pack(f"{order}I", end + len(behind))
            behind += data
        entries.append(struct.pack(f"{order}HHI", tag, kind, len(values)) + stored)
    return struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + behind


def packed(values: np.ndarray, bits: int, order: str, predictor: int) -> np.ndarray:
    """Samples (rows, columns, channels) as bytes, each row from a byte's beginning."""
    rows = len(values)
    if (
        predictor == 3
    ):  # Adobe's floating point differences: the highest bytes of a row, then the next
        size = bits // 8
        parts = values.astype(f">f{size}").view(np.uint8).reshape(rows, -1, size).swapaxes(1, 2)
        data = parts.reshape(rows, -1, values.shape[2]).astype(np.int16)
        return np.diff(data, axis=1, prepend=0).astype(np.uint8).ravel()
    if predictor == 2:
        values = np.diff(values.astype(np.int64), axis=1, prepend=0) & (2**bits - 1)
    if values.dtype.kind == "f":
        return values.astype(f"{order}f{bits // 8}").ravel().view(np.uint8)
    if bits in (8, 16, 32):
        return values.astype(np.int64).astype(f"{order}u{bits // 8}").ravel().view(np.uint8)
    flat = values.reshape(rows, -1).astype(np.int64)
    ones = flat[..., None] >> np.arange(bits - 1, -1, -1) & 1
    if bits == 24 and order == "<":
        ones = ones.reshape(rows, -1, 3, 8)[:, :, ::-1]
    return np.packbits(ones.reshape(rows, -1).astype(np.uint8), axis=1).ravel()


def png(
    depth: int, colour: int, width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]
) -> bytes:
    """A PNG of raw chunks (the specification's section 5)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(d)) + tag + d + struct.pack(">I", zlib.crc32(tag + d))
        for tag, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png_of(values: np.ndarray, *extra: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG of samples (H, W) or (H, W, channels)."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    data = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # each row without a filter
    return png(16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], width, height, data, *extra)


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    """The chunk of a PNG that holds an ICC profile."""
    return b"iCCP", b"a profile\0\0" + zlib.compress(profile)


def profile(gamma: float | None, *, grey: bool = False) -> bytes:
    """An ICC profile (version 2) of a power law: grey, or with sRGB's primaries.

    gamma: None is the curve of sRGB in a coarse table, as of a maker who rounds.
    """
    white = struct.pack(">4s4x3i", b"XYZ ", *fixed([0.9642, 1.0, 0.8249]))
    if gamma is None:
        unit = np.linspace(0, 1, 256)
        linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
        table = np.rint(linear * 4095).astype(int) * 16  # rounded to 12 bits
        curve = struct.pack(">4s4xI256H", b"curv", 256, *table)
    else:
        curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    parts = {b"desc": text, b"wtpt": white, b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    if grey:
        parts[b"kTRC"] = curve
    else:
        columns = [(0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045)]
        columns += [(0.1430804, 0.0606169, 0.7141733)]
        for letter, column in zip(b"rgb", columns, strict=True):
            name = bytes([letter])
            parts[name + b"XYZ"] = struct.pack(">4s4x3i", b"XYZ ", *fixed(column))
            parts[name + b"TRC"] = curve
    start, table, body = 128 + 4 + 12 * len(parts), b"", b""
    for name, data in parts.items():
        data = data.ljust(-(-len(data) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    space = b"GRAY" if grey else b"RGB "
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x3i48x",
        start + len(body),
        b"lcms",
        0x02400000,
        b"mntr",
        space,
        b"XYZ ",
        b"acsp",
        *fixed([0.9642, 1.0, 0.8249]),
    )
    return header + struct.pack(">I", len(parts)) + table + body


def fixed(values: list[float] | tuple[float, ...]) -> list[int]:
    """Numbers as s15Fixed16Number."""
    return [round(value * 65536) for value in values]


def cropped_avif(data: bytes, clap: tuple[int, ...]) -> bytes:
    """An AVIF file of Pillow's with a crop box: (numerator, denominator) of width, height and both offsets."""
    box = struct.pack(">I4sIIIIiIiI", 40, b"clap", *clap)
    ipco, ipma, iloc = (data.index(kind) - 4 for kind in (b"ipco", b"ipma", b"iloc"))
    (ipco_size,) = struct.unpack_from(">I", data, ipco)
    # Properties are numbered from 1.
    number, at = 1, ipco + 8
    while at < ipco + ipco_size:
        at += struct.unpack_from(">I", data, at)[0]
        number += 1
    made = bytearray(data)
    # Of the one item: how many properties it has, and the new one at the end, as essential.
    count = ipma + 18
    end = ipma + struct.unpack_from(">I", data, ipma)[0]
    made[count] += 1
    made[end:end] = bytes([0x80 | number])
    made[at:at] = box
    for kind, grown in ((b"meta", 41), (b"iprp", 41), (b"ipco", 40), (b"ipma", 1)):
        place = made.index(kind) - 4
        struct.pack_into(">I", made, place, struct.unpack_from(">I", made, place)[0] + grown)
    offset = iloc + 22  # of the item's one extent
    struct.pack_into(">I", made, offset, struct.unpack_from(">I", made, offset)[0] + 41)
    return bytes(made)


# 29 × 100 pixels of 10-bit grey, a ramp. From the tests of pillow-heif, with the licence pillow_heif_licence.txt.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAWNtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAAA5waXRtAA"
    "AAAAABAAAAImlsb2MAAAAAREAAAQABAAAAAAGHAAEAAAAAAAACZQAAACNpaW5mAAAAAAABAAAAFWluZmUCAAAAAAEAAGh2YzEAAAAA42lwcnAA"
    "AADEaXBjbwAAAHJodmNDAQQIAAAAAAAAAAAA//AA/Pz6+gAADwMgAAEAF0ABDAH//wQIAAADAJ34AAADAAD/ugJAIQABACdCAQEECAAAAwCd+A"
    "AAAwAA/8CCBp8rZbqrprmwIAAAAwAgAAADACEiAAEABkQBwXGLEgAAABRpc3BlAAAAAAAAAEAAAABkAAAAKGNsYXAAAAAdAAAAAQAAAGQAAAAB"
    "////3QAAAAIAAAAAAAAAAgAAAA5waXhpAAAAAAEKAAAAF2lwbWEAAAAAAAAAAQABBIECgwQAAAJtbWRhdAAAAmEoAa4LZz47VmxnySx7NDMf//"
    "5AIcnwscN5McCRsE35DNDPQJfYVCES+NVol9kS+NVpEohdAD/E/T9+XXOiK7QmO5Mae7K1JoAASTw61utEEsxQkOP6yvmUQAAdBZm/Zn0F1tmK"
    "7d/ZV5NuVM7XooAMrQAADtJI3EHeuGAxKF7i2LClgAAQ0HDGPdoT/Ua+ABjtS4s5OwA94oqLnaHFKWetmCflWUAAzUVHJGk483bEC2EI0gHrQA"
    "B0lB74EwLXZHflVeTo7GNPNT0NFr8AAD1IQVsGjyNmOVfl8yfYxcAANE+XvhWoqNsH2cdc3quXsjgDUvrY+ci9w1yFUW5pXUQAJ9seR68OaEVl"
    "UJfvO/WEQADiMj49P8E9/ebxMwEFPcfo2G2sIZEAAHGW4xkZFnX43djkGh4HDoADsJXnPIGiQNMUXHc/c2ychgCWHUv1G6tctq9pdZPu6gAUjU"
    "4c90Xbe5SPbjhW4+sYACxW+BYl3PpmwmNClWxIZvrEvGAipQAAlvRPfE1s97oJVHKm5kt7gAXipYHwVlZwAdIdDc/i1AmAASBexR9Bw4FFdgx7"
    "bfbZIAAew4gsIYWFSMPNaHl1extgAWm2+GQzM+OyNqkteSx3/4AAbeEB61RtugfMpd6Let5duCngAADgMIpTOECKhiGlVmlxKOMADJRb9QZzv0"
    "+AxwmN6IZHbzwA0UP3c1v559DlReA//oAAw83jjPv7S6dY1Cy3A/kdwALxRu9+BK/l66RAA5+5p4wEAOOoMRL4/iFsMNMX+NWfQnIAAbhodP6B"
    "kmaYbFQoefAmPsijW9I="
)
