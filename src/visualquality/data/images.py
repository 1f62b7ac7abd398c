"""Any image a user may hold -> the same 8-bit sRGB pixels everywhere, or one clear error.

Scoring and training open their images here and nowhere else, so that a photo means the same pixels to both. What
files hold, kind by kind, is in `formats`.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import xxhash
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from ..errors import UserError
from ..io import map_ahead
from .find import MAX_IMAGE_PIXELS
from .formats import boxes, endings, sixteen, tiff
from .formats.bombs import refuse_bomb, refuse_slow_header
from .formats.depth import Samples
from .formats.libtiff import errors_of_libtiff
from .formats.opening import WARNINGS, parse, too_large, unreadable
from .formats.rgb import deep_samples, from_image, from_samples, to_rgb

DIGEST_BYTES = 1 << 24  # of the pixels, that a digest takes at a time
GAMMA_TOLERANCE = 0.05

Picture = str | Path | Image.Image | np.ndarray  # what `open_image` takes


class Opened(NamedTuple):
    """An image as `open_image` gives it, and what its user should know of how it was read, a sentence each."""

    image: Image.Image
    warnings: tuple[str, ...]


def open_image(
    image: Picture, *, max_image_pixels: int = MAX_IMAGE_PIXELS, assume_bits: int | None = None
) -> Image.Image:
    """The image of `read_image`, whose warnings nobody asks for."""
    return read_image(image, max_image_pixels=max_image_pixels, assume_bits=assume_bits).image


def read_image(
    image: Picture, *, max_image_pixels: int = MAX_IMAGE_PIXELS, assume_bits: int | None = None
) -> Opened:
    """A fully loaded, upright RGB copy of an image, without metadata; opening it again changes nothing.

    - A file: PNG, JPEG, WebP, AVIF, HEIC, TIFF, BMP, GIF, PPM or JPEG 2000, recognised by its content, not by its
      name; of an animation, the first frame.
    - A PIL image (left as it is): the frame it stands at, turned upright if it carries an EXIF orientation.
    - An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8 in [0, 255], uint16 in [0, 65535], bool,
      or float in [0, 1].

    Samples of n bits become round(value · 255 / (2ⁿ - 1)), never clipped, where the header says n; of 16-bit colour
    PNG the high byte counts. Files of 16 and 32 bits may hold fewer without saying so: there is a warning where the
    values reach no further, and `assume_bits` states it for all integers of such files. An embedded ICC profile is
    converted to sRGB. The crop box of AVIF and HEIC is applied. Transparency is composited on white, as a page shows
    it.

    `max_image_pixels` is compared with the header, before any pixel is decoded.

    Raises UserError, naming the file, for one that is missing, a folder, empty, not an image, truncated, damaged, of
    a kind that is not supported, too large, or has values of unknown white point (32-bit integers, floats outside
    [0, 1]).
    """
    if isinstance(image, np.ndarray):
        _refuse_size(image.shape[1::-1], "the array", max_image_pixels)
        return _from_array(image, assume_bits)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or "the image")
        _refuse_size(image.size, name, max_image_pixels)
        return _read(image, name, None, assume_bits)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        with _opened(path, max_image_pixels) as (opened, file):
            return _read(opened, str(image), file, assume_bits)
    raise UserError(
        f"an image is given as a path, a PIL image or an array, not as {type(image).__name__}"
    )


def image_faults(
    paths: Sequence[Path], *, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> list[UserError | None]:
    """For each file the error that its header alone gives `open_image`, or None; a cut-off body is not seen.

    Cheap enough for a whole data set before any work: only headers are read, in threads.
    """

    def fault(path: Path) -> UserError | None:
        try:
            with header(path, max_image_pixels):
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
    # By parts, since all bytes at once would be a second image in memory.
    rows = max(1, DIGEST_BYTES // (3 * image.width))
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(part.tobytes())
    return digest.hexdigest()


@contextmanager
def header(path: Path, max_image_pixels: int) -> Iterator[Image.Image]:
    """The image of a file with its header read and its size checked, its pixels not yet decoded."""
    with _opened(path, max_image_pixels) as (image, _):
        yield image


@contextmanager
def _opened(path: Path, max_image_pixels: int) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The same, and the file that it is read from."""
    with _open_file(path) as file:
        refuse_slow_header(file, path)
        with parse(file, path, max_image_pixels) as image:
            _refuse_size(image.size, str(path), max_image_pixels)
            refuse_bomb(image, file, path)
            yield image, file


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


def _read(image: Image.Image, name: str, file: BinaryIO | None, assume_bits: int | None) -> Opened:
    """An image whose header is read, of `file`, or a PIL image of the caller's, which is left as it is."""
    found = boxes.Boxes()
    high_bytes = sixteen.is_deep(image)
    try:
        with errors_of_libtiff() as messages:
            if file is not None:
                found = _check(image, file)
            samples = deep_samples(image, file, assume_bits)
            if samples is None:
                image.load()
        # Pillow goes on after some errors, such as words of a fax that are no code.
        if messages:
            raise OSError(messages[0])
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything from inside a decoder
        told = f"{error} ({messages[0]})" if messages and str(error) not in messages else error
        raise unreadable(name, str(image.format or ""), told, image) from error
    if samples is not None:
        profile = image.info.get("icc_profile") or None
        rgb, notes = from_samples(samples, name, assume_bits, profile)
    else:
        rgb, notes = from_image(image, own=file is not None, high_bytes=high_bytes)
    rgb = _cropped(rgb, image, found, notes)
    if "icc_profile" not in image.info:
        notes += _unused_colours(image, found)
    # The copy gets the orientation alone: exif_transpose writes all the rest of its EXIF back, which fails for tags of
    # some cameras. And it keeps no other metadata, else a second open_image would turn it again.
    rgb.info = {}
    rgb.getexif()[ExifTags.Base.Orientation] = _orientation(image)
    ImageOps.exif_transpose(rgb, in_place=True)
    return Opened(rgb, tuple(notes))


def _check(image: Image.Image, file: BinaryIO) -> boxes.Boxes:
    """Raises ValueError for a damaged file that its decoder would accept; the boxes of an AVIF or HEIF file."""
    place = file.tell()
    found = boxes.Boxes()
    if image.format == "PNG":
        endings.check_png(file)
    elif image.format in ("JPEG", "MPO"):
        endings.check_jpeg(file)
    elif image.format == "GIF":
        endings.check_gif(file)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        tiff.check_whole(file, image.tag_v2)
    elif image.format in ("AVIF", "HEIF"):
        file.seek(0)
        found = boxes.read_boxes(file.read())
        if problem := boxes.why_cut(found):
            raise endings.DamagedError(problem)
    file.seek(place)
    return found


def _cropped(
    rgb: Image.Image, image: Image.Image, found: boxes.Boxes, notes: list[str]
) -> Image.Image:
    """The part of an AVIF image that its crop box shows. In HEIF files the decoder applies it."""
    if found.crop is None or image.format != "AVIF":
        return rgb
    box = boxes.crop_box(found, rgb.size)
    if box is None:
        notes.append("its crop box is not of whole pixels inside the image, and was not applied")
        return rgb
    left, top, right, bottom = box
    # Not by Image.crop, which has a limit of its own.
    return Image.fromarray(np.ascontiguousarray(np.asarray(rgb)[top:bottom, left:right]))


def _unused_colours(image: Image.Image, found: boxes.Boxes) -> list[str]:
    """Warnings of colours that a file without a profile states in another way, which is not followed."""
    warning = boxes.colour_warning(found)
    notes = [warning] if warning else []
    gamma = image.info.get("gamma")
    # PNG's gAMA chunk: 1 / 2.2 is that of sRGB.
    stated = image.format == "PNG" and "srgb" not in image.info
    if stated and gamma and abs(gamma * 2.2 - 1) > GAMMA_TOLERANCE:
        notes.append(f"it states a gamma of {gamma:.3g}, and was read as sRGB")
    return notes


def _orientation(image: Image.Image) -> int:
    """EXIF 2.3, tag 274. To be read after load(): Pillow's own TIFF images are turned there, and lose the tag."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2.get(ExifTags.Base.Orientation, 1)
    with WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return image.getexif().get(ExifTags.Base.Orientation, 1)
        # EXIF that cannot be parsed states no orientation: the image is taken as stored, as viewers do.
        except Exception:
            return 1


def _from_array(array: np.ndarray, assume_bits: int | None) -> Opened:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise UserError(
            f"the array has shape {array.shape}: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    # By type, not by dtype: uint16 of either byte order.
    if array.dtype.type is np.uint16 or np.issubdtype(array.dtype, np.floating):
        mode = "L" if array.ndim == 2 else "RGB" if array.shape[2] == 3 else "RGBA"
        rgb, notes = from_samples(Samples(array, mode, 16), "the array", assume_bits, None)
        return Opened(rgb, tuple(notes))
    if array.dtype != np.uint8:
        raise UserError(
            f"the array has dtype {array.dtype}: give uint8, uint16, bool, or float in [0, 1]"
        )
    rgb, _ = to_rgb(Image.fromarray(np.ascontiguousarray(array)), None)
    return Opened(rgb, ())


def _refuse_size(size: Sequence[int], name: str, max_image_pixels: int) -> None:
    if 0 in size:
        raise UserError(f"{name} has no pixels: give an image of at least 1 × 1")
    # An array of one dimension has no area; _from_array names its shape.
    if len(size) == 2 and size[0] * size[1] > max_image_pixels:
        raise too_large(name, f"{size[0]} × {size[1]}", max_image_pixels)
