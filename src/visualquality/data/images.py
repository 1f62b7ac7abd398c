"""Any image a user may hold -> the same 8-bit RGB pixels everywhere, or one clear error.

Scoring and training open their images here and nowhere else, so that a photo means the same pixels to both.
Colour profiles are not applied: the stored values count, as in every common IQA reader.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..io import map_ahead
from ..process import ForkSafeLock
from .find import FORMATS

MAX_PIXELS = 100_000_000

# Only these decoders are tried (MPO is a JPEG): Pillow's full list holds one that starts Ghostscript, EPS.
_DECODERS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000")
# First bytes by which a damaged image is distinguished from a file that never was one.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"GIF8", b"BM")
_AVIF_BRANDS = (b"ftypavif", b"ftypavis")  # after four bytes of length

# Pillow warns about odd metadata and large images. `warnings.catch_warnings` swaps a list that all threads
# share, so one thread at a time may do it; only headers are parsed under the lock, pixels never.
_WARNINGS = ForkSafeLock()


def open_image(
    image: str | os.PathLike[str] | Image.Image | np.ndarray, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A fully loaded, upright RGB copy of an image, without metadata; opening it again changes nothing.

    - A file: PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM or JPEG 2000, recognised by its content, not by its name;
      of an animation, the first frame.
    - A PIL image (left as it is): the frame it stands at, turned upright if it carries an EXIF orientation.
    - An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8 in [0, 255], uint16 in [0, 65535], bool,
      or float in [0, 1].

    16-bit grey becomes round(value / 257), never clipped; of 16-bit colour files Pillow keeps the high byte.
    Transparency is composited on white, as a page shows it.

    `max_pixels` is compared with the header, before any pixel is decoded. Pillow's own limit (twice
    `PIL.Image.MAX_IMAGE_PIXELS`) stays in force beside it.

    Raises UserError, naming the file, for one that is missing, a folder, empty, not an image, truncated, too
    large, or has values of unknown white point (32-bit integers above 65535, floats outside [0, 1]).
    """
    if isinstance(image, np.ndarray):
        _refuse_size(image.shape[1::-1], "the array", max_pixels)
        return _rgb(_from_array(image), "the array")
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or "the image")
        _refuse_size(image.size, name, max_pixels)
        return _upright_rgb(image, name)
    if isinstance(image, str | os.PathLike):
        with header(Path(image), max_pixels) as opened:
            return _upright_rgb(opened, str(image))
    raise UserError(
        f"an image is given as a path, a PIL image or an array, not as {type(image).__name__}"
    )


def image_faults(paths: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> list[UserError | None]:
    """For each file the error that its header alone gives `open_image`, or None; a cut-off body is not seen.

    Cheap enough for a whole data set before any work: only headers are read, in threads.
    """

    def fault(path: Path) -> UserError | None:
        try:
            with header(path, max_pixels):
                return None
        except UserError as error:
            return error

    # More threads than processors, since they wait for disks.
    return list(map_ahead(fault, paths, workers=16))


def image_digest(image: Image.Image) -> str:
    """Identity of the content: 32 hex digits, xxh3_128 of width, height (uint32, little-endian) and RGB.

    It is the same on every machine, and for every lossless file of the same pixels. Takes what `open_image`
    returns; raises ValueError for another mode.
    """
    if image.mode != "RGB":
        raise ValueError(
            f"a digest is of RGB pixels, not of mode {image.mode}: use open_image first"
        )
    digest = xxhash.xxh3_128(np.array(image.size, dtype="<u4").tobytes())
    digest.update(image.tobytes())
    return digest.hexdigest()


@contextmanager
def header(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The image of a file with its header read and its size checked, its pixels not yet decoded."""
    with _open_file(path) as file, _parse(file, path, max_pixels) as image:
        _refuse_size(image.size, str(path), max_pixels)
        yield image


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        # A pipe is not opened (that would wait for ever), nor is a folder.
        file = path.open("rb", buffering=1 << 16) if stat.S_ISREG(status.st_mode) else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist: correct the path") from error
    # No permission, too long a name; ValueError for a null byte in it.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{str(path)!r} cannot be read ({reason}): correct it or its permissions"
        ) from error
    if file is None:
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise UserError(f"{path} is {kind}, not an image: give an image file")
    if status.st_size == 0:
        file.close()
        raise UserError(f"{path} is empty (0 bytes): copy it again")
    return file


def _parse(file: BinaryIO, path: Path, max_pixels: int) -> Image.Image:
    # Outside the lock, since this is where a slow disk is waited for; Pillow then parses from the buffer.
    start = file.read(16)
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(file, formats=_DECODERS)
    except UnidentifiedImageError as error:
        if start.startswith(_SIGNATURES) or start[4:12] in _AVIF_BRANDS:
            raise _damaged(path, "or an unusual form of its format") from error
        raise UserError(
            f"{path} is not an image that can be read: convert it to {FORMATS}"
        ) from error
    except Image.DecompressionBombError as error:
        limit = f"max_pixels {max_pixels:,}, and Pillow's own limit"
        raise UserError(
            f"{path} has too many pixels ({error}; {limit}): make it smaller"
        ) from error
    except Exception as error:  # a damaged file can raise nearly anything from inside a decoder
        raise _damaged(path, error) from error


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as in _parse
        raise _damaged(name, error) from error
    rgb = _rgb(image, name)
    # The copy gets the orientation alone: exif_transpose writes all the rest of its EXIF back, which fails for tags of
    # some cameras. And it keeps no other metadata, else a second open_image would turn it again.
    rgb.info = {}
    rgb.getexif()[ExifTags.Base.Orientation] = _orientation(image)
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _orientation(image: Image.Image) -> int:
    """EXIF 2.3, tag 274. To be read after load(): the TIFF and AVIF decoders turn the pixels and then drop the tag."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
        # EXIF that cannot be parsed states no orientation: the image is taken as stored, as viewers do.
        except Exception:
            return 1


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode -> RGB of the same size. A new image, never `image` itself."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_deep_to_8_bit(np.asarray(image), name)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(rgba, mask=rgba.getchannel("A"))
        return page
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise UserError(
            f"the array has shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    # By type, not by dtype: uint16 of either byte order.
    elif array.dtype.type is np.uint16 or np.issubdtype(array.dtype, np.floating):
        array = _deep_to_8_bit(array, "the array")
    elif array.dtype != np.uint8:
        raise UserError(
            f"the array has dtype {array.dtype}: give uint8, uint16, bool, or float in [0, 1]"
        )
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _deep_to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Integers in [0, 65535] or floats in [0, 1] -> uint8 in [0, 255]."""
    if np.issubdtype(values.dtype, np.floating):
        if not ((values >= 0) & (values <= 1)).all():  # NaN fails both
            raise UserError(
                f"{name} has floating-point values outside [0, 1]: scale them so that 1 is white"
            )
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"{name} has 32-bit values, of unknown white point: save it with 8 or 16 bits"
        )
    # Rounded in integers: 65535 / 257 is 255.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _refuse_size(size: Sequence[int], name: str, max_pixels: int) -> None:
    if 0 in size:
        raise UserError(f"{name} has no pixels: give an image of at least 1 × 1")
    # An array of one dimension has no area; _from_array names its shape.
    if len(size) == 2 and size[0] * size[1] > max_pixels:
        limit = f"more than the {max_pixels:,} allowed: make it smaller, or raise max_pixels"
        raise UserError(f"{name} has {size[0]} × {size[1]} pixels, {limit}")


def _damaged(name: str | Path, cause: object) -> UserError:
    return UserError(
        f"{name} is truncated or damaged ({str(cause) or type(cause).__name__}): copy it again"
    )
