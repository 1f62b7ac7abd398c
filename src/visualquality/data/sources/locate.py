"""Where the files of a distribution lie, and which of its images are really there."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from ..manifest import Row

_NAMED = 3  # as many missing images as an error names


@dataclass(frozen=True)
class Request:
    """What is asked for, as `import_dataset` takes it, and `source`: what the set is and where it is had."""

    name: str
    root: Path
    source: str
    split: str | None
    columns: dict[str, str]
    images: Path | None

    def file(self, *names: str) -> Path:
        """The file of one of these names below the root or a folder right in it; UserError if there is none."""
        found = self.find(*names)
        if found is None:
            wanted = " or ".join(map(repr, names))
            raise UserError(
                f"{wanted} is neither in {self.root} nor in a folder right in it: get {self.source}"
            )
        return found

    def find(self, *names: str, beside: Path | None = None, folder: bool = False) -> Path | None:
        """Like `file`, but None if there is none. `beside` is looked into first; folder: find one of these."""
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder: name the one that holds {self.source}")
        is_right = Path.is_dir if folder else Path.is_file
        for parent in [self.root] if beside is None else [beside, self.root]:
            for name in names:
                if is_right(parent / name):
                    return parent / name
        children = sorted(child for child in self.root.iterdir() if child.is_dir())
        for name in names:
            found = [child / name for child in children if is_right(child / name)]
            if len(found) > 1:
                raise UserError(
                    f"{' and '.join(map(str, found))} are both there: name the folder of one data set"
                )
            if found:
                return found[0]
        return None

    def image_folder(self, *names: str, beside: Path, or_beside: bool = False) -> Path:
        """The folder of the images: the one asked for, else one of these names as `find` looks for it.

        or_beside: where there is no such folder, the images lie in `beside` itself. UserError otherwise.
        """
        if self.images is not None:
            return self.images
        found = self.find(*names, beside=beside, folder=True)
        if found is None and not or_beside:
            wanted = " or ".join(map(repr, names))
            raise UserError(
                f"the image folder {wanted} is neither in {beside} nor beside it: get {self.source}"
            )
        return found or beside

    def single_file(self) -> Path:
        """The root of a source that is one file; UserError if it is not there."""
        if not self.root.is_file():
            what = "a folder" if self.root.is_dir() else "not there"
            raise UserError(f"{self.root} is {what}: name the file itself, {self.source}")
        return self.root


def on_disk(
    rows: Sequence[Row], request: Request, *, skip: bool
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows whose images are there, with their real paths, and the paths of those that are not.

    Rows that are the same count once. UserError for an image with different rows, for no row at all, and for
    missing images unless `skip`, or if none is there.
    """
    kept: dict[Path, Row] = {}
    absent: dict[str, None] = {}
    listing = functools.cache(_listing)
    for row in rows:
        image = _real_path(row.image, listing)
        if image is None:
            absent[str(row.image)] = None
            continue
        row = replace(row, image=image)
        if (before := kept.setdefault(image, row)) != row:
            raise UserError(
                f"{image.name} is listed twice, with {_said(before)} and with {_said(row)}: delete one row"
            )
    if not rows:
        raise UserError(f"{request.root} lists no image: get {request.source}")
    if absent and not (skip and kept):
        total = len(kept) + len(absent)
        first = ", ".join([*list(absent)[:_NAMED], *(["…"] if len(absent) > _NAMED else [])])
        mend = (
            "complete the set, or leave them out with --skip-missing"
            if kept
            else "give their folder with --images"
        )
        mend += (
            f"; get {request.source}" if request.root.is_dir() else ""
        )  # a single file is the user's own
        raise UserError(f"{len(absent)} of {total} images are not there ({first}): {mend}")
    return tuple(kept.values()), tuple(absent)


def _said(row: Row) -> str:
    said = {"mos": f"{row.mos:g}", "std": row.std, "reference": row.reference, "split": row.split}
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def _real_path(image: Path, listing: Callable[[Path], "_Listing"]) -> Path | None:
    """The file that `image` means: of that very name, else the only one that differs in case alone."""
    folder, names, folded = listing(image.parent)
    if image.name in names:
        return folder / image.name
    same = folded.get(image.name.casefold(), [])
    return folder / same[0] if len(same) == 1 else None


class _Listing(NamedTuple):
    folder: Path  # without links
    names: frozenset[str]
    folded: dict[str, list[str]]  # name without regard to case -> the names that it is of


def _listing(folder: Path) -> _Listing:
    names = os.listdir(folder) if folder.is_dir() else []
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    return _Listing(Path(os.path.realpath(folder)), frozenset(names), folded)
