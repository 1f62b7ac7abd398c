"""Which files are images: folders are walked, and the reference image of each image is found by its name."""

import functools
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

# What `images.open_image` reads, for messages; and the names that such files have in a folder.
FORMATS = "PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PPM or JPEG 2000"
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".tif", ".tiff"}
    | {".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files that `paths` mean: files stay as given, folders are walked in sorted order.

    In a folder, files with one of `SUFFIXES` count (in upper or lower case); hidden files and folders are skipped,
    and links to folders are not followed. A path that comes twice is kept at its first place.

    Raises UserError for a path that does not exist, a folder that cannot be listed, and for no image at all.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        # os.path.exists, unlike Path.exists, is False and no error for a name that is too long.
        if not os.path.exists(path):
            raise UserError(f"{path} does not exist: correct the path")
        for image in _images_below(path) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        where = ", ".join(map(str, paths)) or "an empty list of paths"
        raise UserError(
            f"no image in {where}: give image files, or folders that hold {FORMATS} files"
        )
    return list(found.values())


def listed_path(folder: Path, name: str) -> Path:
    """The file that a list of images calls `name`, relative to `folder`.

    Lists that were made on Windows have backslashes between folders. They are taken so everywhere, except where a
    file has that very name: on other systems a name may hold a backslash.
    """
    path = folder / name
    if "\\" not in name or os.path.lexists(path):
        return path
    return folder / name.replace("\\", "/")


def relative_path(path: str | Path, folder: str) -> str:
    """An absolute path seen from an absolute `folder`, with slashes; all of it where there is no way, as between drives
    of Windows."""
    try:
        return Path(os.path.relpath(path, folder) if folder else path).as_posix()
    except ValueError:
        return Path(path).as_posix()


def relative_paths(images: Sequence[Path], folder: Path) -> list[str]:
    """How a list in `folder` calls these files."""
    # Between real folders, since ".." of a linked folder leads elsewhere. Only folders are resolved: an image
    # that is itself a link keeps its own name.
    start, realpath = os.path.realpath(folder), functools.cache(os.path.realpath)
    return [relative_path(Path(realpath(image.parent), image.name), start) for image in images]


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all of these absolute paths are below; "" where they are on several drives of Windows."""
    try:
        return os.path.commonpath(paths)
    except ValueError:
        return ""


def find_references(images: Sequence[Path], given: Path) -> list[Path]:
    """The reference image of each image: the file `given`, or the file of the same stem in or below that folder.

    Raises UserError for a path that does not exist, and for the first image that has no reference there or several.
    """
    if not given.is_dir():
        return find_images([given]) * len(images)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for reference in find_images([given]):
        by_stem[reference.stem].append(reference)
    references = []
    for image in images:
        found = by_stem[image.stem]
        if not found:
            raise UserError(f"{image} has no reference: put an image named {image.stem} in {given}")
        if len(found) > 1:
            raise UserError(
                f"{image} has several references, {found[0]} and {found[1]}: keep one in {given}"
            )
        references += found
    return references


def _images_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}): make it readable"
        ) from error

    images = []
    # Without onerror, os.walk would silently leave out a folder that it may not read.
    for parent, folders, files in os.walk(folder, onerror=refuse):
        # os.walk goes into what is left in this list.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                images.append(path)
    # By parts: "b/1" comes before "b (2)", although a space sorts before a slash.
    return sorted(images, key=lambda path: path.parts)
