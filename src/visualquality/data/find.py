"""Which files are images: folders are walked, and the reference image of each image is found by its name."""

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

# What `images.open_image` reads, for messages; and the names that such files have in a folder.
FORMATS = "PNG, JPEG, WebP, AVIF, HEIC, TIFF, BMP, GIF, PPM or JPEG 2000"
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".heic", ".heif"}
    | {".hif", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
    | {".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"}
)
# Images of more pixels are refused by default: a file of a few kilobytes may state any number of them.
MAX_IMAGE_PIXELS = 100_000_000
# Files that people take for images and that are not read; in a folder they are counted, so that nobody misses them
# unawares. Pillow opens some of them, but not so that the pixels are surely those that people see: the alpha channel
# of TGA often means nothing, PSD need not hold its composite, ICO holds several images, and DDS textures of any kind.
NOT_READ = {
    "a raw photo": ".3fr .ari .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .eip .erf .fff .gpr .iiq .k25 .kdc .mdc "
    ".mef .mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f",
    "an image of another kind": ".jxl .jxr .wdp .hdp .tga .icb .vda .vst .psd .psb .xcf .kra .clip .procreate .dds "
    ".ktx .ktx2 .exr .hdr .ico .icns .cur .pcx .sgi .rgb .qoi .fits .fit .dcm .xbm .xpm .bpg .flif "
    ".insp .heics .heifs .avifs",
    "a drawing or a document": ".svg .svgz .eps .ai .wmf .emf .pdf .djvu .indd .afphoto .afdesign .sketch .fig",
    "a film": ".mp4 .mov .m4v .avi .mkv .webm .wmv .mpg .mpeg .mts .m2ts .3gp .flv .insv .lrv",
}
_KINDS = {suffix: kind for kind, suffixes in NOT_READ.items() for suffix in suffixes.split()}


class Found(NamedTuple):
    """The image files that were found, and how many others of each ending are images that are not read."""

    images: list[Path]
    skipped: Counter[str]

    @property
    def skipped_line(self) -> str | None:
        """What was skipped, such as "4 files were skipped: 2 .dng, 1 .psd, 1 .tga"; None where nothing was."""
        if not self.skipped:
            return None
        # The most frequent first; equal counts by ending.
        counts = sorted(self.skipped.items(), key=lambda pair: (-pair[1], pair[0]))
        count = self.skipped.total()
        files = "1 file was" if count == 1 else f"{count:,} files were"
        return f"{files} skipped: {', '.join(f'{n:,} {suffix}' for suffix, n in counts)}"


def kind_not_read(path: Path) -> str | None:
    """What a file with such an ending is, such as "a raw photo (.dng)"; None if it is none of `NOT_READ`."""
    suffix = path.suffix.lower()
    return f"{_KINDS[suffix]} ({suffix})" if suffix in _KINDS else None


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The images of `search`."""
    return search(paths).images


def search(paths: Sequence[str | os.PathLike[str]]) -> Found:
    """The image files that `paths` mean: files stay as given, folders are walked in sorted order.

    In a folder, files with one of `SUFFIXES` count (in upper or lower case), and those of `NOT_READ` are counted;
    hidden files and folders are skipped, and links to folders are not followed. A path that comes twice is kept at its
    first place.

    Raises UserError for a path that does not exist, a folder that cannot be listed, and for no image at all.
    """
    found: dict[str, Path] = {}
    skipped: dict[str, Path] = {}
    for path in map(Path, paths):
        # os.path.exists, unlike Path.exists, is False and no error for a name that is too long.
        if not os.path.exists(path):
            raise UserError(f"{path} does not exist: correct the path")
        images, others = _below(path) if path.is_dir() else ([path], [])
        for image in images:
            found.setdefault(os.path.abspath(image), image)
        for other in others:
            skipped.setdefault(os.path.abspath(other), other)
    counts = Counter(path.suffix.lower() for path in skipped.values())
    all_found = Found(list(found.values()), counts)
    if not found:
        where = ", ".join(map(str, paths)) or "an empty list of paths"
        besides = f" ({all_found.skipped_line})" if counts else ""
        raise UserError(
            f"no image in {where}{besides}: give image files, or folders that hold {FORMATS} files"
        )
    return all_found


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


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in and below a folder, and the files of `NOT_READ`."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}): make it readable"
        ) from error

    images, others = [], []
    # Without onerror, os.walk would silently leave out a folder that it may not read.
    for parent, folders, files in os.walk(folder, onerror=refuse):
        # os.walk goes into what is left in this list.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in SUFFIXES:
                images.append(path)
            elif path.suffix.lower() in _KINDS:
                others.append(path)
    # By parts: "b/1" comes before "b (2)", although a space sorts before a slash.
    return sorted(images, key=lambda path: path.parts), others
