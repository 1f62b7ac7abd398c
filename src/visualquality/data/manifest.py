"""A manifest: which images there are, and how people rated them (MOS, mean opinion score).

A CSV, Parquet or Excel file (tables.py) with the columns `image` and `mos`, and optionally `std` (of the ratings, in
MOS units), `reference` (the pristine original, see `Row.reference_image`), `dataset`, `split` (train, val or test),
`distortion` and `reasoning`. MOS are never rescaled: the method compares images of one data set only.
"""

import functools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, shortened
from .find import MAX_IMAGE_PIXELS, listed_path, relative_paths
from .images import image_faults
from .row import SPLITS, Row
from .tables import csv_path, read_table, to_number, write_table

_LISTED_FAULTS = 20
_GENERIC_STEMS = ("manifest", "train", "val", "test", "data")  # the folder names the data set
# The columns that have a meaning here; all others are in `extra`.
_FIELDS = tuple(field.name for field in fields(Row) if field.name not in ("extra", "number"))
_RATER = {"rater", "observer", "subject", "worker", "annotator"}
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
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> "Manifest":
        """Read and check one file.

        name: the data set of rows that name none; by default the file's stem, or its folder's name where the stem is
        manifest, train, val, test or data.
        columns: our names -> the file's, such as {"image": "Image Name", "mos": "MOS"}. A column of the file that
        already has such a name of ours is then not read.
        images: the folder that image names are relative to; by default the manifest's own.
        check_images: also open each image's header; more than `max_image_pixels` are a fault.
        references: every row needs a `reference_image`, which is checked like the images.

        Raises one UserError that lists every fault (20 at most) with its row, as an editor counts lines (the header
        is row 1), and field: missing columns; missing or unreadable images; a MOS or std that is not finite, or a
        negative std; an unknown split; an image that comes twice; a data set whose MOS are all equal; a reference
        whose images are in more than one split of its data set.
        """
        entries, faults = _read_file(Path(path), name, columns, images)
        return _checked(entries, faults, max_image_pixels if check_images else None, references)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV or Parquet file (by suffix), with image paths relative to it, that `read` reads back.

        All values are read back equal, but a CSV returns extra columns as text. A reader of `path` sees the old file
        or the whole new one. Raises UserError for another suffix, and where the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"{path} is neither .csv nor .parquet: give it one of these suffixes")
        images = relative_paths([row.image for row in self.rows], path.parent)
        if path.suffix.lower() == ".csv":
            images = list(map(csv_path, images))
        table: dict[str, list] = {"image": images}
        for field in _FIELDS[1:]:
            values = [getattr(row, field) for row in self.rows]
            # A column that no row fills is left out.
            if field in _REQUIRED or set(values) - {None, ""}:
                table[field] = values
        extra = dict.fromkeys(key for row in self.rows for key in row.extra)
        for key in extra:
            if key not in _FIELDS:
                table[key] = [row.extra.get(key) for row in self.rows]
        write_table(path, table)

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
    paths: Sequence[str | os.PathLike[str]],
    *,
    check_images: bool = True,
    references: bool = False,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Manifest:
    """Several files as one manifest, checked as `Manifest.read` does and across them; one UserError for all.

    A data set may be spread over files only where every row of it names it in the `dataset` column: files
    whose default names merely agree are a fault, not one data set.
    """
    if not paths:
        raise UserError("no manifest is given: name at least one file")
    entries, faults = [], []
    for path in paths:
        own_entries, own_faults = _read_file(Path(path))
        entries += own_entries
        faults += own_faults
    return _checked(entries, faults, max_image_pixels if check_images else None, references)


Fault = tuple[Path, int, str]  # file, row (0: the whole file), sentence


class _Entry(NamedTuple):
    """A row and where it stands."""

    file: Path
    number: int  # of the row in the file, the header being 1
    row: Row
    names_dataset: bool  # the row itself names its data set, not only the file

    def __str__(self) -> str:
        return f"row {self.number} of {self.file}"

    def fault(self, text: str) -> Fault:
        return self.file, self.number, text


def _read_file(
    path: Path,
    name: str | None = None,
    columns: dict[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> tuple[list[_Entry], list[Fault]]:
    """The rows of one file, and what is wrong in each alone; for the arguments see `Manifest.read`."""
    columns = columns or {}
    if unknown := sorted(set(columns) - set(_FIELDS)):
        fix = f"is none of our names: {', '.join(_FIELDS)}"
        raise UserError(f"columns: {', '.join(unknown)} {fix}")
    try:
        header, rows = read_table(path)
    except ValueError as error:
        fix = "give a CSV, best in UTF-8, or a .parquet file"
        return [], [(path, 0, f"cannot be read ({error}): {fix}")]
    if wrong := list(_header_faults(header, columns)):
        return [], [(path, 1, text) for text in wrong]
    entries: list[_Entry] = []
    faults: list[Fault] = []
    if not rows:
        text = "has a header but no rows: add at least one image and its mos"
        faults.append((path, 0, text))
    if not name:
        name = path.absolute().parent.name if path.stem in _GENERIC_STEMS else path.stem
    folder = path.parent if images is None else Path(images)
    realpath = functools.cache(os.path.realpath)
    # Which column each of our fields is in; the others are extra columns.
    column_of = {field: columns.get(field, field) for field in _FIELDS}
    extra = set(header) - {"", *_FIELDS, *column_of.values()}
    for number, cells in rows:
        # An unquoted separator shifts all fields after it, so that none of the row can be trusted.
        if len(cells) != len(header):
            text = f"{len(cells)} fields where the header has {len(header)}"
            faults.append((path, number, f"{text}: quote texts that hold a separator"))
            continue
        values = dict(zip(header, cells, strict=True))
        given = {}
        for field, column in column_of.items():
            if values.get(column) not in (None, ""):
                given[field] = str(values[column])
        # No file system takes a null byte: this becomes the fault of a file that does not exist.
        image = listed_path(folder, given.get("image", "").replace("\0", "\ufffd"))
        # One file by two paths is one image; but an image that is itself a link keeps its own name.
        row, wrong = _row(given, Path(realpath(image.parent), image.name), name, number)
        row.extra.update((column, values[column]) for column in header if column in extra)
        faults += [(path, number, text) for text in wrong]
        if "image" in given:
            entries.append(_Entry(path, number, row, "dataset" in given))
    return entries, faults


def _row(given: dict[str, str], image: Path, dataset: str, number: int) -> tuple[Row, list[str]]:
    """The row of the fields that are not empty, and what is wrong with it."""
    faults = []
    if "image" not in given:
        faults.append("image: is empty: give a file name")
    mos = to_number(given.get("mos", ""))
    if mos is None:
        text = f"mos: {shortened(given.get('mos', ''))!r} is not a finite number"
        faults.append(f"{text}: give one, or delete the row")
        # The row is kept for the other checks of its image.
        mos = math.nan
    std = to_number(given.get("std", ""))
    if "std" in given and (std is None or std < 0):
        text = f"std: {shortened(given['std'])!r} is not a number of at least 0"
        faults.append(f"{text}: leave it empty if unknown")
    if given.get("split", "train") not in SPLITS:
        text = f"split: {shortened(given.pop('split'))!r} is unknown"
        faults.append(f"{text}: use {', '.join(SPLITS)}, or leave it empty")
    row = Row(
        image=image,
        mos=mos,
        dataset=given.get("dataset", dataset),
        std=std,
        reference=given.get("reference"),
        split=given.get("split"),
        distortion=given.get("distortion"),
        reasoning=given.get("reasoning"),
        number=number,
    )
    return row, faults


def _header_faults(header: list[str], columns: dict[str, str]) -> Iterator[str]:
    for field, column in ({name: name for name in _REQUIRED} | columns).items():
        if column in header:
            continue
        there = shortened(", ".join(map(repr, header)), 1000)
        text = f"column {column!r} is missing, there are {there}"
        alike = [name for name in header if name.lower() in _ALIASES.get(field, [field])]
        if field == "mos" and any(name.lower() in _RATER for name in header):
            text += ": of one row a rating, make means of them first, with `data import raters`"
        elif alike:
            text += f": rename {alike[0]!r} to {field!r}, or map it with columns"
            # A score may also be a difference from the reference: then lower is better.
            text += " (only if higher is better in it)" if field == "mos" else ""
        yield text
    # Nameless columns may be many: they are not read.
    for name, count in Counter(header).items():
        if name and count > 1:
            yield f"column {shortened(name)!r} is there {count} times: keep one"


def _checked(
    entries: list[_Entry], faults: list[Fault], most: int | None, references: bool
) -> Manifest:
    """All rows, if there is no fault; else one UserError. most: pixels of an image; None where none is opened."""
    datasets: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        datasets[entry.row.dataset].append(entry)
    # Between rows and files first; then the files of the images, which takes longest.
    faults += _duplicates(entries)
    for name, own in datasets.items():
        faults += [*_dataset_faults(name, own), *_leaks(name, own)]
    if most is not None:
        errors = image_faults([entry.row.image for entry in entries], max_image_pixels=most)
        for entry, error in zip(entries, errors, strict=True):
            if error:
                faults.append(entry.fault(f"image: {error}"))
    if references:
        faults += _reference_faults(entries, most)
    if not faults:
        return Manifest(tuple(entry.row for entry in entries))
    # By file and row; sort is stable, so the faults of one row keep their order.
    faults.sort(key=lambda fault: (str(fault[0]), fault[1]))
    lines = []
    for file, number, text in faults:
        lines.append(f"{file}: row {number}, {text}" if number else f"{file}: {text}")
    if len(lines) > 1:
        lines.insert(0, f"{len(faults)} faults to fix:")
    if len(faults) > _LISTED_FAULTS:
        lines[1 + _LISTED_FAULTS :] = [f"and {len(faults) - _LISTED_FAULTS} more"]
    raise UserError("\n  ".join(lines))


def _duplicates(entries: Iterable[_Entry]) -> Iterator[Fault]:
    # Across files and data sets too: an image rated twice would be in training and test.
    first: dict[Path, _Entry] = {}
    for entry in entries:
        before = first.setdefault(entry.row.image, entry)
        if before is not entry:
            fix = "keep one"
            # Equal ratings are more often a row that was copied.
            if entry.row.mos != before.row.mos:
                fix += ", or average one row a rater with `data import raters`"
            yield entry.fault(f"image: the same file as {before}: {fix}")


def _dataset_faults(name: str, entries: list[_Entry]) -> Iterator[Fault]:
    files = list(dict.fromkeys(entry.file for entry in entries))
    if len(files) > 1 and not all(entry.names_dataset for entry in entries):
        text = f"dataset: {name!r} is the name for {' and '.join(map(str, files))}"
        fix = "give it in a `dataset` column of each, or give them other names"
        yield files[0], 0, f"{text}: {fix}"
    # Equal MOS have no order to learn, and no correlation.
    mos = [entry.row.mos for entry in entries if math.isfinite(entry.row.mos)]
    if len(mos) > 1 and len(set(mos)) == 1:
        text = f"mos: all images of data set {name!r} have the MOS {mos[0]:g}"
        yield files[0], 0, f"{text}: give ratings that differ"


def _leaks(name: str, entries: Iterable[_Entry]) -> Iterator[Fault]:
    # reference -> split -> the first such row
    seen: dict[str, dict[str, _Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.row.reference and entry.row.split:
            seen[entry.row.reference].setdefault(entry.row.split, entry)
    for reference, splits in seen.items():
        if len(splits) > 1:
            where = ", ".join(f"{split} in {entry}" for split, entry in splits.items())
            text = f"reference: {reference!r} of {name!r} is in several splits ({where})"
            yield list(splits.values())[-1].fault(f"{text}: keep it in one")


def _reference_faults(entries: Iterable[_Entry], most: int | None) -> Iterator[Fault]:
    found = [(entry, entry.row.reference_image) for entry in entries]
    # Many images share a reference, which is opened once.
    files = list({file for _, file in found if file})
    checked = files if most is not None else []
    errors = dict(zip(checked, image_faults(checked, max_image_pixels=most or 0), strict=True))
    for entry, file in found:
        name = entry.row.reference
        if file is None:
            text = f"no file {name!r} beside {entry.row.image} or above" if name else "is empty"
            fix = "name the reference's file, or leave references out"
            yield entry.fault(f"reference: {text}: {fix}")
        elif errors.get(file):
            yield entry.fault(f"reference: {errors[file]}")
