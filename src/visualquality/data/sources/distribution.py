"""A data set as it lies on a disk: where its files are, and which of its images are really there."""

import functools
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UserError
from ..row import Row

_NAMED = 3  # missing images that an error names


@dataclass(frozen=True)
class Distribution:
    """What a source's function reads: the data set's place, and the arguments of `import_dataset`."""

    name: str
    root: Path
    source: str  # what the set is and where to get it
    split: str | None
    columns: dict[str, str]
    images: Path | None

    def error(self, text: str) -> UserError:
        """An error that is fixed by getting the data set again."""
        return UserError(f"{text}: get {self.source}")

    def unreadable(self, path: Path, error: Exception) -> UserError:
        # The text of an OSError repeats the file's name, its strerror does not.
        return self.error(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})")

    def file(self, *names: str) -> Path:
        """The file of one of these names below the root or a folder right in it; UserError if there is none."""
        found = self.find(*names)
        if found is None:
            wanted = " or ".join(map(repr, names))
            raise self.error(f"{wanted} is neither in {self.root} nor in a folder right in it")
        return found

    def find(self, *names: str, beside: Path | None = None, folder: bool = False) -> Path | None:
        """Like `file`, but None if there is none. `beside` is searched first. folder: find a folder, not a file."""
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder: name the one that holds {self.source}")
        is_right = Path.is_dir if folder else Path.is_file
        for parent in [self.root] if beside is None else [beside, self.root]:
            for name in names:
                if is_right(parent / name):
                    return parent / name
        # Archives often unpack into a folder of their own, so one level deeper counts too.
        children = sorted(child for child in self.root.iterdir() if child.is_dir())
        for name in names:
            found = [child / name for child in children if is_right(child / name)]
            if len(found) > 1:
                where = " and ".join(map(str, found))
                raise UserError(f"{where} are both there: name the folder of one data set")
            if found:
                return found[0]
        return None

    def image_folder(self, *names: str, beside: Path) -> Path:
        """The folder of the images: the one that the user named, else one of these names as `find` looks for it.

        Where there is none, the images can only lie in `beside` itself; `rows_on_disk` says so if they do not.
        """
        return self.images or self.find(*names, beside=beside, folder=True) or beside

    def single_file(self) -> tuple[Path, Path]:
        """The root of a source that is one file, and the folder of its images; UserError if it is not there."""
        if not self.root.is_file():
            what = "a folder" if self.root.is_dir() else "not there"
            raise UserError(f"{self.root} is {what}: name the file itself, {self.source}")
        return self.root, self.images or self.root.parent


def rows_on_disk(
    rows: Sequence[Row], data: Distribution, *, skip: bool
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows whose images are there, with their real paths, and the paths of those that are not.

    Rows that are the same count once. UserError for an image with different rows, for no row at all, and for
    missing images unless `skip`, or if none is there.
    """
    if not rows:
        raise data.error(f"{data.root} lists no image")
    kept: dict[Path, Row] = {}
    absent: dict[str, None] = {}  # a set that keeps the order
    # A folder is listed once in this call, and anew in the next.
    listing = functools.cache(_listing)
    for row in rows:
        image = _file_named(row.image, *listing(row.image.parent))
        if image is None and "\\" in row.image.name:
            # A name from Windows; see `find.listed_path`.
            split = Path(row.image.parent, *row.image.name.split("\\"))
            image = _file_named(split, *listing(split.parent))
        if image is None:
            absent[str(row.image)] = None
            continue
        row = replace(row, image=image)
        before = kept.setdefault(image, row)
        if before != row:
            ratings = f"with {_rating(before)} and with {_rating(row)}"
            fix = "delete one row, or import one row a rater with the name raters"
            raise UserError(f"{image.name} is listed twice, {ratings}: {fix}")
    if absent and not (skip and kept):
        first = ", ".join(list(absent)[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
        fix = "give their folder with --images"
        if kept:
            fix = "complete the set, or leave them out with --skip-missing"
        # A single file is the user's own, and cannot be downloaded again.
        if data.root.is_dir():
            fix += f"; get {data.source}"
        total = len(kept) + len(absent)
        raise UserError(f"{len(absent)} of {total} images are not there ({first}): {fix}")
    return tuple(kept.values()), tuple(absent)


def _rating(row: Row) -> str:
    facts = {"mos": f"{row.mos:g}", "std": row.std, "reference": row.reference, "split": row.split}
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _file_named(image: Path, folder: Path, files: dict[str, list[str]]) -> Path | None:
    """The file that `image` means: of that very name, else the only one that differs in case alone."""
    same = files.get(image.name.casefold(), [])
    if image.name in same:
        return folder / image.name
    return folder / same[0] if len(same) == 1 else None


def _listing(folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """The folder without links, and its files by their names in one case."""
    files = defaultdict(list)
    for name in os.listdir(folder) if folder.is_dir() else []:
        files[name.casefold()].append(name)
    return Path(os.path.realpath(folder)), files
