"""Image files that are made to take all memory or hours: recognised before their pixels are decoded.

`images.py` compares the size in the header with a limit, and Pillow bounds texts and profiles. What is left are files
whose decoder does far more than the size in their header tells. The limits are far above what any camera or program
writes; benchmarks/results/bombs.json has what each such file did.
"""

import os
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ...errors import UserError

# A flat image of 100 million pixels has 300 kB as PNG and 2 MB as JPEG. From here on a file is too small to be one.
LEAST_PIXELS = 25_000_000
PIXELS_A_BYTE = 10_000
# Progressive JPEGs have about ten scans, each of which goes over the whole image.
MAX_SCANS = 100
# EXIF of a JPEG is one segment of at most 64 kB. Pillow joins several, in quadratic time, which hurts in large files.
MAX_EXIF_SEGMENTS = 16
LARGE_JPEG = 32_000_000  # bytes
# Pillow reads the header of a PPM byte by byte. The comment that GIMP writes has some dozen.
MAX_PPM_HEADER = 4096

_TIFF_TILE = (322, 323)  # TIFF 6.0, TileWidth and TileLength


def refuse_slow_header(file: BinaryIO, path: Path) -> None:
    """Raises UserError for a JPEG or PPM whose header alone would take minutes. The file stands at its start again."""
    start = file.read(4)
    if start[:3] == b"\xff\xd8\xff":
        if file.seek(0, os.SEEK_END) > LARGE_JPEG:
            file.seek(0)
            segments = file.read().count(b"Exif\0\0")
            if segments > MAX_EXIF_SEGMENTS:
                raise _bomb(path, f"it has {segments:,} segments of EXIF")
    elif start[:1] == b"P" and start[1:2].isdigit():
        file.seek(0)
        if not _ends_early(file.read(MAX_PPM_HEADER)):
            raise _bomb(path, f"its header is longer than {MAX_PPM_HEADER} bytes")
    file.seek(0)


def refuse_bomb(image: Image.Image, file: BinaryIO, path: Path) -> None:
    """Raises UserError for an image whose decoding would take far more time or memory than its size tells.

    `image` was opened from `file` and is not decoded yet. The place in the file is kept.
    """
    place = file.tell()
    try:
        size = file.seek(0, os.SEEK_END)
        pixels = image.width * image.height
        # Deflated pixels take a thousandth at least: such a PNG is cut off, and its decoder says so at once.
        tiny = image.format != "PNG" and pixels > PIXELS_A_BYTE * size
        if tiny and pixels > LEAST_PIXELS:
            raise _bomb(path, f"its {size:,} bytes unpack to {image.width} × {image.height} pixels")
        tile = _tile(image)
        if tile is not None and tile > max(LEAST_PIXELS, 4 * pixels):
            raise _bomb(path, f"it has tiles of {tile:,} pixels for an image of {pixels:,}")
        if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
            file.seek(0)
            # In coded data 0xff is followed by 0, so that this is a marker wherever it stands (or a thumbnail's).
            scans = file.read().count(b"\xff\xda")
            if scans > MAX_SCANS:
                raise _bomb(path, f"it goes over its pixels {scans:,} times")
    finally:
        file.seek(place)


def _ends_early(start: bytes) -> bool:
    """Whether the header of a PPM ends within its first bytes, or the whole file does."""
    if len(start) < MAX_PPM_HEADER:
        return True
    lines = [line.partition(b"#")[0] for line in start.splitlines()]
    # Magic number, width, height, and the largest value, which PBM leaves out.
    needed = 3 if start[1:2] in b"14" else 4
    return len(b" ".join(lines).split(maxsplit=needed)) > needed


def _tile(image: Image.Image) -> int | None:
    """Pixels of a tile of a TIFF; None for other images."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in _TIFF_TILE)
    if not (isinstance(width, int) and isinstance(height, int)):
        return None
    return width * height


def _bomb(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is made to take all memory or hours ({why}): save it anew as PNG if it is an image"
    )
