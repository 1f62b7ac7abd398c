"""A manifest: which images there are, and how people rated them (MOS, mean opinion score).

A CSV (UTF-8), Parquet or Excel file with the columns `image` and `mos`, and optionally `std` (of the ratings, in
MOS units), `reference` (the pristine original, see `Row.reference_image`), `dataset`, `split` (train, val or test),
`distortion` and `reasoning`. MOS are never rescaled: the method compares images of one data set only.
"""

import functools
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .images import image_faults
from .row import SPLITS, Row
from .tables import read_table, to_number, write_table

_LISTED_FAULTS = 20
# File names that do not name a data set; its folder does.
_GENERIC_STEMS = ("manifest", "train", "val", "test", "data")
_FIELDS = tuple(field.name for field in fields(Row) if field.name != "extra")
_REQUIRED = ("image", "mos")
# What published files call the two required columns, in lower case.
_ALIASES = {
    "image": {"image", "image name", "image_name", "image_path", "name", "filename", "file_name"}
    | {"file", "dist_img"},
    "mos": {"mos", "dmos", "score", "gt_score", "mos_quality", "mean_opinion_score"},
}


@dataclass(frozen=True)
class Manifest:
    """Rated images, in the order of the file. `read` checks them; a manifest made in code is not checked."""

    rows: tuple[Row, ...]

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        check_images: bool = True,
        columns: dict[str, str] | None = None,
        images: str | os.PathLike[str] | None = None,
        references: bool = False,
    ) -> "Manifest":
        """Read and check one file.

        name: the data set of rows that name none; by default the file's stem, or its folder's name where the stem is
        manifest, train, val, test or data.
        columns: our names -> the file's, such as {"image": "Image Name", "mos": "MOS"}; they displace columns that
        bear our names already.
        images: the folder that image names are relative to; by default the manifest's own.
        check_images: also open each image's header.
        references: every row needs a `reference_image`, which is checked like the images.

        Raises one UserError that lists every fault (20 at most) with its row, as an editor counts lines (the header
        is row 1), and field: missing columns; missing or unreadable images; a MOS or std that is not finite, or a
        negative std; an unknown split; an image that comes twice; a data set whose MOS are all equal; a reference
        whose images are in more than one split of its data set.
        """
        reader = _Reader()
        reader.read(Path(path), name, columns, images)
        return reader.checked(check_images, references)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV or Parquet file (by suffix), with image paths relative to it, that `read` reads back.

        All comes back equal, save that a CSV gives extra columns back as text. Whoever reads `path` meanwhile sees
        the old file or the whole new one. Raises UserError for another suffix, and where it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"{path} is neither .csv nor .parquet: give it one of these suffixes")
        table: dict[str, list] = {}
        for field in _FIELDS:
            # A column that no row fills is left out.
            values = [getattr(row, field) for row in self.rows]
            if field in _REQUIRED or set(values) - {None, ""}:
                table[field] = values
        table["image"] = self._relative_images(path)
        for row in self.rows:
            for key in row.extra:
                if key not in _FIELDS and key not in table:
                    table[key] = [other.extra.get(key) for other in self.rows]
        write_table(path, table)

    def _relative_images(self, path: Path) -> list[str]:
        # Between real folders, since ".." of a linked folder leads elsewhere. Only folders are resolved: an image
        # that is itself a link keeps its own name.
        folder, realpath = os.path.realpath(path.parent), functools.cache(os.path.realpath)
        located = [os.path.join(realpath(row.image.parent), row.image.name) for row in self.rows]
        return [Path(os.path.relpath(image, folder)).as_posix() for image in located]

    def subset(self, split: str) -> "Manifest":
        """The rows of one split: train, val or test; none if there are none. UserError for another name."""
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}: use {', '.join(SPLITS)}")
        return Manifest(tuple(row for row in self.rows if row.split == split))

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, in the order in which they first come."""
        return tuple(dict.fromkeys(row.dataset for row in self.rows))

    def __len__(self) -> int:
        return len(self.rows)


def read_manifests(
    paths: Sequence[str | os.PathLike[str]], *, check_images: bool = True, references: bool = False
) -> Manifest:
    """Several files as one manifest, checked as `Manifest.read` does and across them; one UserError for all.

    A data set may be spread over files only where every row of it names it in the `dataset` column: files
    whose default names merely agree are a fault, not one data set.
    """
    if not paths:
        raise UserError("no manifest is given: name at least one file")
    reader = _Reader()
    for path in paths:
        reader.read(Path(path))
    return reader.checked(check_images, references)


class _Entry(NamedTuple):
    """A row and where it stands."""

    file: Path
    number: int  # of the row in the file, the header being 1
    row: Row
    names_dataset: bool  # the row itself names its data set, not only the file

    def __str__(self) -> str:
        return f"row {self.number} of {self.file}"


class _Reader:
    """Reads files and collects every fault in them, so that one error can list them all."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.faults: list[tuple[Path, int, str]] = []  # file, row (0: the whole file), sentence

    def read(
        self,
        path: Path,
        name: str | None = None,
        columns: dict[str, str] | None = None,
        images: str | os.PathLike[str] | None = None,
    ) -> None:
        """Collect the rows of one file; for the arguments see `Manifest.read`."""
        columns = columns or {}
        if unknown := sorted(set(columns) - set(_FIELDS)):
            fix = f"is none of our names: {', '.join(_FIELDS)}"
            raise UserError(f"columns: {', '.join(unknown)} {fix}")
        try:
            header, rows = read_table(path)
        except ValueError as error:
            fix = "give a CSV in UTF-8, or a .parquet file"
            self.faults.append((path, 0, f"cannot be read ({error}): {fix}"))
            return
        if wrong := _header_faults(header, columns):
            self.faults += [(path, 1, text) for text in wrong]
            return
        if not rows:
            text = "has a header but no rows: add at least one image and its mos"
            self.faults.append((path, 0, text))
        if not name:
            name = path.absolute().parent.name if path.stem in _GENERIC_STEMS else path.stem
        folder = path.parent if images is None else Path(images)
        realpath = functools.cache(os.path.realpath)
        # Which column each of our fields is in; the others are extra columns.
        places = {
            f: header.index(columns.get(f, f)) for f in _FIELDS if columns.get(f, f) in header
        }
        used = {*places.values(), *(i for i, column in enumerate(header) if column in _FIELDS)}
        extra = {i: column for i, column in enumerate(header) if column and i not in used}
        for number, cells in rows:
            # An unquoted comma shifts all fields after it, so that none of the row can be trusted.
            if len(cells) != len(header):
                text = f"{len(cells)} fields where the header has {len(header)}"
                self.faults.append((path, number, f"{text}: quote texts that hold a comma"))
                continue
            given = {f: str(cells[i]) for f, i in places.items() if cells[i] not in (None, "")}
            # No file system takes a null byte: this becomes the fault of a file that does not exist.
            image = folder / given.get("image", "").replace("\0", "\ufffd")
            # One file by two paths is one image; but an image that is itself a link keeps its own name.
            row, wrong = _row(given, Path(realpath(image.parent), image.name), name)
            row.extra.update((column, cells[i]) for i, column in extra.items())
            self.faults += [(path, number, text) for text in wrong]
            if "image" in given:
                self.entries.append(_Entry(path, number, row, "dataset" in given))

    def checked(self, check_images: bool, references: bool) -> Manifest:
        """All rows, if there is no fault in them or between them; else one UserError."""
        # Between rows and files first; then the files of the images, which takes longest.
        self._check_duplicates()
        datasets: dict[str, list[_Entry]] = defaultdict(list)
        for entry in self.entries:
            datasets[entry.row.dataset].append(entry)
        for name, entries in datasets.items():
            self._check_dataset(name, entries)
            self._check_leaks(name, entries)
        if check_images:
            faults = image_faults([entry.row.image for entry in self.entries])
            for entry, error in zip(self.entries, faults, strict=True):
                if error:
                    self._fault(entry, f"image: {error}")
        if references:
            self._check_references(check_images)
        if not self.faults:
            return Manifest(tuple(entry.row for entry in self.entries))
        # By file and row; sort is stable, so the faults of one row keep their order.
        self.faults.sort(key=lambda fault: (str(fault[0]), fault[1]))
        lines = [
            f"{file}: row {number}, {text}" if number else f"{file}: {text}"
            for file, number, text in self.faults
        ]
        if len(lines) == 1:
            raise UserError(lines[0])
        listed = [f"{len(lines)} faults to fix:", *lines[:_LISTED_FAULTS]]
        if len(lines) > _LISTED_FAULTS:
            listed.append(f"and {len(lines) - _LISTED_FAULTS} more")
        raise UserError("\n  ".join(listed))

    def _fault(self, entry: _Entry, text: str) -> None:
        self.faults.append((entry.file, entry.number, text))

    def _check_duplicates(self) -> None:
        # Across files and data sets too: an image rated twice would be in training and test.
        first: dict[Path, _Entry] = {}
        for entry in self.entries:
            before = first.setdefault(entry.row.image, entry)
            if before is not entry:
                self._fault(entry, f"image: the same file as {before}: keep one")

    def _check_dataset(self, name: str, entries: list[_Entry]) -> None:
        files = list(dict.fromkeys(entry.file for entry in entries))
        if len(files) > 1 and not all(entry.names_dataset for entry in entries):
            where = " and ".join(map(str, files))
            text = f"dataset: {name!r} is the name for {where}"
            fix = "give it in a `dataset` column of each, or give them other names"
            self.faults.append((files[0], 0, f"{text}: {fix}"))
        # Nothing could be learnt from equal MOS, and no correlation be computed.
        mos = [entry.row.mos for entry in entries if math.isfinite(entry.row.mos)]
        if len(mos) > 1 and len(set(mos)) == 1:
            text = f"mos: all images of data set {name!r} have the MOS {mos[0]:g}"
            self.faults.append((files[0], 0, f"{text}: give ratings that differ"))

    def _check_leaks(self, name: str, entries: list[_Entry]) -> None:
        # reference -> split -> the first such row
        seen: dict[str, dict[str, _Entry]] = defaultdict(dict)
        for entry in entries:
            if entry.row.reference and entry.row.split:
                seen[entry.row.reference].setdefault(entry.row.split, entry)
        for reference, splits in seen.items():
            if len(splits) > 1:
                where = ", ".join(f"{split} in {entry}" for split, entry in splits.items())
                text = f"reference: {reference!r} of {name!r} is in several splits ({where})"
                self._fault(list(splits.values())[-1], f"{text}: keep it in one")

    def _check_references(self, check_images: bool) -> None:
        found = [entry.row.reference_image for entry in self.entries]
        # Many images share a reference, which is opened once.
        files = list({file for file in found if file})
        errors = dict(zip(files, image_faults(files), strict=True)) if check_images else {}
        for entry, file in zip(self.entries, found, strict=True):
            if file is None:
                name = entry.row.reference
                text = f"no file {name!r} beside {entry.row.image} or above" if name else "is empty"
                fix = "name the reference's file, or leave references out"
                self._fault(entry, f"reference: {text}: {fix}")
            elif errors.get(file):
                self._fault(entry, f"reference: {errors[file]}")


def _row(given: dict[str, str], image: Path, dataset: str) -> tuple[Row, list[str]]:
    """The row of the fields that are not empty, and what is wrong with it."""
    faults = []
    if "image" not in given:
        faults.append("image: is empty: give a file name")
    mos = to_number(given.get("mos", ""))
    if mos is None:
        text = f"mos: {given.get('mos', '')!r} is not a finite number"
        faults.append(f"{text}: give one, or delete the row")
    std = to_number(given.get("std", ""))
    if "std" in given and (std is None or std < 0):
        text = f"std: {given['std']!r} is not a number of at least 0"
        faults.append(f"{text}: leave it empty if unknown")
    if given.get("split", "train") not in SPLITS:
        text = f"split: {given.pop('split')!r} is unknown"
        faults.append(f"{text}: use {', '.join(SPLITS)}, or leave it empty")
    names = ("reference", "split", "distortion", "reasoning")
    reference, split, distortion, reasoning = map(given.get, names)
    dataset = given.get("dataset", dataset)
    # A row without a MOS is kept for the other checks of its image.
    mos = math.nan if mos is None else mos
    return Row(image, mos, dataset, std, reference, split, distortion, reasoning), faults


def _header_faults(header: list[str], columns: dict[str, str]) -> list[str]:
    faults = []
    for field, column in ({name: name for name in _REQUIRED} | columns).items():
        if column in header:
            continue
        text = f"column {column!r} is missing, there are {', '.join(map(repr, header))}"
        for name in header:
            if name.lower() in _ALIASES.get(field, [field]):
                text += f": rename {name!r} to {field!r}, or map it with columns"
                # A score may also be a difference from the reference: then lower is better.
                text += " (only if higher is better in it)" if field == "mos" else ""
                break
        faults.append(text)
    # Nameless columns may be many: they are not read.
    for name in dict.fromkeys(header):
        if name and header.count(name) > 1:
            faults.append(f"column {name!r} is there {header.count(name)} times: keep one")
    return faults
