"""Any image a user may hold -> the same 8-bit RGB pixels everywhere, or one clear error.

Scoring and training open their images here and nowhere else, so that a photo means the same pixels to both.
Colour profiles are not applied: the stored values count, as in every common IQA reader.
"""

import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

MAX_PIXELS = 100_000_000

# Only these decoders are tried (MPO is a JPEG): Pillow's full list holds one that starts Ghostscript, EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000")
_KINDS = "PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM or JPEG 2000"
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"GIF8", b"BM")
_AVIF_BRANDS = (b"ftypavif", b"ftypavis")  # after four bytes of length

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".tif", ".tiff"}
    | {".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)

_ORIENTATION = 0x0112  # EXIF 2.3, tag 274; values 2 to 8 say how the stored pixels are to be turned
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns about odd metadata and large images. `warnings.catch_warnings` swaps a list that all threads
# share, so one thread at a time may do it; only headers are parsed under the lock, pixels never.
_QUIET = threading.Lock()


def open_image(
    image: str | os.PathLike[str] | Image.Image | np.ndarray, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A fully loaded, upright RGB copy of an image, without metadata; opening it again changes nothing.

    - A file: PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM or JPEG 2000, told by its content, not by its name;
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

    with ThreadPoolExecutor(max_workers=16) as pool:  # they wait for disks, not for processors
        return list(pool.map(fault, paths))


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


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files that `paths` mean: files stay as given, folders are walked in sorted order.

    In a folder, files with one of `SUFFIXES` count (in upper or lower case); hidden files and folders are
    skipped, and links to folders are not followed. A path that comes twice is kept at its first place.

    Raises UserError for a path that does not exist, a folder that cannot be listed, and for no image at all.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not os.path.exists(path):
            raise _missing(path)
        for image in _images_in(path) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        where = ", ".join(map(str, paths)) or "an empty list of paths"
        raise UserError(
            f"no image in {where}: give image files, or folders that hold {_KINDS} files"
        )
    return list(found.values())


def find_references(images: Sequence[Path], given: Path) -> list[Path]:
    """The reference of each image: the file `given`, or in that folder and those below it the file of the same stem.

    Raises UserError for a path that does not exist, and for the first image that has no reference there or several.
    """
    by_stem: dict[str, list[Path]] = {}
    for reference in find_images([given]):
        by_stem.setdefault(reference.stem if given.is_dir() else "", []).append(reference)

    def reference_of(image: Path) -> Path:
        found = by_stem.get(image.stem if given.is_dir() else "", [])
        if not found:
            raise UserError(f"{image} has no reference: put an image named {image.stem} in {given}")
        if len(found) > 1:
            raise UserError(
                f"{image} has several references, {found[0]} and {found[1]}: keep one in {given}"
            )
        return found[0]

    return [reference_of(image) for image in images]


def _images_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}): make it readable"
        ) from error

    images = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (Path(parent, name) for name in files if not name.startswith("."))
        images += [path for path in shown if path.suffix.lower() in SUFFIXES]
    return sorted(images, key=lambda path: path.parts)


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
        raise _missing(path) from error
    except (
        OSError,
        ValueError,
    ) as error:  # no permission, too long a name; ValueError: a null byte in it
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
    start = file.read(16)  # outside the lock: this is where a slow disk is waited for
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        if start.startswith(_SIGNATURES) or start[4:12] in _AVIF_BRANDS:
            raise _damaged(path, "or an unusual form of its format") from error
        raise UserError(
            f"{path} is not an image that can be read: convert it to {_KINDS}"
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
    # Read after load(): the TIFF and AVIF decoders turn the pixels themselves and then drop the tag.
    turn = _UPRIGHT.get(_orientation(image))
    rgb = _rgb(image, name)
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # else a second open_image would turn it again
    return rgb


def _orientation(image: Image.Image) -> int:
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return image.getexif().get(_ORIENTATION, 1)
        except (
            Exception
        ):  # EXIF that cannot be parsed states no orientation: shown as stored, as viewers do
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
    elif array.dtype.type is np.uint16 or np.issubdtype(array.dtype, np.floating):
        array = _deep_to_8_bit(array, "the array")
    elif array.dtype != np.uint8:
        raise UserError(
            f"the array has dtype {array.dtype}: give uint8, uint16, bool, or float in [0, 1]"
        )
    return Image.fromarray(
        np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
    )


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
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _refuse_size(size: Sequence[int], name: str, max_pixels: int) -> None:
    if 0 in size:
        raise UserError(f"{name} has no pixels: give an image of at least 1 × 1")
    if len(size) == 2 and size[0] * size[1] > max_pixels:
        limit = f"more than the {max_pixels:,} allowed: make it smaller, or raise max_pixels"
        raise UserError(f"{name} has {size[0]} × {size[1]} pixels, {limit}")


def _missing(path: Path) -> UserError:
    return UserError(f"{path} does not exist: correct the path")


def _damaged(name: str | Path, cause: object) -> UserError:
    return UserError(
        f"{name} is truncated or damaged ({str(cause) or type(cause).__name__}): copy it again"
    )
