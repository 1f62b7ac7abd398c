"""A file -> Pillow's image with its header read, its pixels not yet decoded, or one sentence why not.

The kind is told by the first bytes, not by the name, and only the decoder of that kind is tried: so what it says tells
a damaged file from one of a kind that nobody here reads.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ...errors import UserError
from ...process import ForkSafeLock
from ..find import FORMATS, kind_not_read
from .boxes import BRANDS_AV1, BRANDS_HEVC, brands
from .tiff import TiffFile, is_raw_photo

# Pillow's names (MPO is a JPEG). Its full list holds a decoder that starts Ghostscript, EPS.
DECODERS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000")
# First bytes by which a damaged image is distinguished from a file that never was one.
SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
# How Pillow and libtiff word it that a file is of a kind that they do not read.
UNSUPPORTED = (
    "Unsupported BMP",
    "cannot handle",
    "unknown pixel mode",
    "unknown data organization",
    "unable to determine J2K image mode",
    "not yet supported",
    "not configured",
    "not supported",
    "Improper JPEG",
    "Conversion from YUV failed",
)
# How Pillow's reader of TIFF words it that the file ends too early.
CUT_OFF = ("Truncated File Read", "Tag data larger than file", "Corrupt EXIF data")
# TIFF's number of a compression -> its name, of those that Pillow's libtiff often lacks.
COMPRESSIONS = {
    6: "old JPEG",
    7: "JPEG",
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    50002: "JPEG XL",
}
COMPRESSION = 259  # the tag
HEIC_NEEDED = (
    "HEIC is read by another package: pip install 'visualquality[heic]', or convert it to PNG"
)

# Without a handler, Python writes what Pillow logs to the user's terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Pillow warns about odd metadata and large images. `warnings.catch_warnings` swaps a list that all threads
# share, so one thread at a time may do it; only headers are parsed under the lock, pixels never.
WARNINGS = ForkSafeLock()


def parse(file: BinaryIO, path: Path, max_image_pixels: int) -> Image.Image:
    """The image of an open file, its header read. Raises UserError that names `path`.

    Its size is the caller's to compare with `max_image_pixels`: Pillow's own limit is lower, or it is not asked.
    """
    # Outside the lock, since this is where a slow disk is waited for; Pillow then parses from the buffer.
    start = file.read(64)
    kind = None
    try:
        with WARNINGS, _limit(max_image_pixels), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            kind = _kind(start)
            if kind is not None:
                file.seek(0)
                try:
                    image = _open(file, kind, path)
                finally:
                    # First, since what is missing of a header may look like another kind of it.
                    if kind == "TIFF":
                        _refuse_cut_off(said)
                if isinstance(image, TiffFile):
                    _refuse_raw_photo(image, start, path)
                return image
    except UserError:
        raise
    # Of a frame inside the image, or of a format whose decoder asks before we can.
    except Image.DecompressionBombError as error:
        raise too_large(path, "too many", max_image_pixels) from error
    except Exception as error:  # a damaged file can raise nearly anything from inside a decoder
        raise unreadable(path, kind or "", error) from error
    if not_read := kind_not_read(path):
        raise UserError(f"{path} is {not_read}, which is not read: convert it to PNG")
    for signature, damaged in SIGNATURES.items():
        if start.startswith(signature):
            raise unreadable(path, damaged, "or an unusual form of its format")
    raise UserError(f"{path} is not an image that can be read: convert it to {FORMATS}")


@contextmanager
def _limit(max_image_pixels: int) -> Iterator[None]:
    """Meanwhile Pillow, which refuses above twice its limit, allows as much as this. To be used under the lock."""
    before = Image.MAX_IMAGE_PIXELS
    if before is not None:
        Image.MAX_IMAGE_PIXELS = max(before, max_image_pixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def too_large(name: str | Path, size: str, max_image_pixels: int) -> UserError:
    """The sentence for an image of so many pixels, such as "9000 × 9000"."""
    allowed = f"more than the {max_image_pixels:,} allowed"
    return UserError(
        f"{name} has {size} pixels, {allowed}: make it smaller, or score it with a higher --max-image-pixels"
    )


def unreadable(
    name: str | Path, kind: str, cause: object, image: Image.Image | None = None
) -> UserError:
    """The sentence for a file of a `kind` (Pillow's name) whose reading failed with `cause`.

    image: where its header was read before.
    """
    if isinstance(cause, MemoryError):
        return UserError(f"{name} needs more memory than there is: make it smaller")
    # One line, without the places of libtiff's forms that nothing was put into.
    text = re.sub(r"\s+", " ", re.sub(r"%l*[a-z]", "…", str(cause))).strip() or type(cause).__name__
    compression = getattr(image, "tag_v2", {}).get(COMPRESSION, 1)
    if compression in COMPRESSIONS and ("decoder error" in text or "not configured" in text):
        # libtiff says no more than that, and its strips are all there (`tiff.check_whole`).
        return _unsupported(
            name, kind, f"{COMPRESSIONS[compression]} inside TIFF, unless it is damaged"
        )
    if any(words in text for words in UNSUPPORTED):
        return _unsupported(name, kind, text)
    return UserError(f"{name} is truncated or damaged ({text}): copy it again")


def _unsupported(name: str | Path, kind: str, why: str) -> UserError:
    return UserError(
        f"{name}: this kind of {kind or 'file'} is not supported ({why}): convert it to PNG"
    )


def _kind(start: bytes) -> str | None:
    """Pillow's name of the kind of a file that begins so; HEIF is of pi-heif."""
    if Image.OPEN.keys() < set(DECODERS):
        Image.init()
    known = brands(start)
    # A file may be of both: what its brands name first counts.
    for brand in known:
        if brand in BRANDS_HEVC:
            return "HEIF"
        if brand in BRANDS_AV1:
            break
    if start.startswith((b"II+\0", b"MM\0+")):  # BigTIFF
        return "TIFF"
    for kind in DECODERS:
        factory = Image.OPEN.get(kind)
        # The answer is a sentence where Pillow was built without this decoder.
        if factory is not None and factory[1] is not None and factory[1](start[:16]) is True:
            return kind
    return None


def _open(file: BinaryIO, kind: str, path: Path) -> Image.Image:
    if kind == "TIFF":
        return TiffFile(file)
    if kind == "HEIF":
        # Only here: where there is no such file, nobody needs the package.
        try:
            from pi_heif import HeifImageFile
        except ImportError as error:
            raise UserError(f"{path}: {HEIC_NEEDED}") from error
        return HeifImageFile(file)
    return Image.OPEN[kind][0](file, "")


def _refuse_cut_off(said: list[warnings.WarningMessage]) -> None:
    """Raises EOFError where Pillow left out a tag whose value is beyond the end of the file, such as its colours."""
    for warning in said:
        if str(warning.message).startswith(CUT_OFF):
            raise EOFError("it ends before the values of its header do")


def _refuse_raw_photo(image: TiffFile, start: bytes, path: Path) -> None:
    if is_raw_photo(image.tag_v2, start) or "raw" in (kind_not_read(path) or ""):
        raise UserError(
            f"{path} is a raw photo, of which only a small preview could be read: develop it, and save it as PNG"
        )
