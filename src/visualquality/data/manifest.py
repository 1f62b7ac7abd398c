"""A manifest: which images there are, and how people rated them (MOS, mean opinion score).

A CSV (UTF-8) or Parquet file with the columns `image` and `mos`, and optionally `std` (of the ratings, in
MOS units), `reference` (the pristine original, see `Row.reference_image`), `dataset`, `split` (train, val or test),
`distortion` and `reasoning`. MOS are never rescaled: the method compares images of one data set only.
"""

import csv
import functools
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from .images import image_faults

SPLITS = ("train", "val", "test")

_LISTED_FAULTS = 20
_GENERIC_STEMS = {
    "manifest",
    "train",
    "val",
    "test",
    "data",
}  # file names that do not name a data set
_ALIASES = {  # what published files call the two columns that must be there, in lower case
    "image": (
        "image name",
        "image_name",
        "image_path",
        "name",
        "filename",
        "file_name",
        "file",
        "dist_img",
    ),
    "mos": ("dmos", "score", "gt_score", "mos_quality", "mean_opinion_score"),
}


@dataclass(frozen=True)
class Row:
    """One rated image. `extra` holds the file's other columns, such as a distortion's `level`."""

    image: Path
    mos: float  # on the data set's own scale, higher is better
    dataset: str
    std: float | None = None
    reference: str | None = None
    split: str | None = None
    distortion: str | None = None
    reasoning: str | None = None
    extra: dict[str, object] = field(default_factory=dict, hash=False)

    @property
    def reference_image(self) -> Path | None:
        """The file that `reference` names, relative to the image's folder or to the nearest one above it that has it.

        So it is found wherever the manifest lies, whether the column names files as KADID-10k does (beside the image)
        or relative to the whole set. None where `reference` is empty or names no file, as a scene's number.
        """
        named = (folder / self.reference for folder in self.image.parents) if self.reference else ()
        return next((path for path in named if path.is_file()), None)


_FIELDS = tuple(f.name for f in fields(Row) if f.name != "extra")
_REQUIRED = ("image", "mos")


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

        name: the data set of rows that name none; by default the file's stem, or its folder's name where the
        stem is manifest, train, val, test or data.
        columns: our names -> the file's, such as {"image": "Image Name", "mos": "MOS"}; they displace
        columns that bear our names already.
        images: the folder that image names are relative to; by default the manifest's own.
        check_images: also open each image's header.
        references: every row needs a `reference_image`, which is checked like the images.

        Raises one UserError that lists every fault (20 at most) with its row, as an editor counts lines (the
        header is row 1), and field: missing columns; missing or unreadable images; a MOS or std that is not
        finite, or a negative std; an unknown split; an image that comes twice; a data set whose MOS are all
        equal; a reference whose images are in more than one split of its data set.
        """
        return _checked(
            *_entries(Path(path), name, columns or {}, images), check_images, references
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV or Parquet file (by suffix), with image paths relative to it, that `read` reads back.

        All comes back equal, save that a CSV gives extra columns back as text. Whoever reads `path` meanwhile
        sees the old file or the whole new one. Raises UserError for another suffix.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"{path} is neither .csv nor .parquet: give it one of these suffixes")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder, realpath = os.path.realpath(path.parent), functools.cache(os.path.realpath)
        table: dict[str, list] = {n: [getattr(row, n) for row in self.rows] for n in _FIELDS}
        table = {n: v for n, v in table.items() if n in _REQUIRED or set(v) - {None, ""}}
        located = [os.path.join(realpath(row.image.parent), row.image.name) for row in self.rows]
        table["image"] = [Path(os.path.relpath(image, folder)).as_posix() for image in located]
        for key in dict.fromkeys(
            key for row in self.rows for key in row.extra if key not in _FIELDS
        ):
            table[key] = [row.extra.get(key) for row in self.rows]
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if path.suffix.lower() == ".parquet":
                pq.write_table(pa.table(table), part)
            else:
                with part.open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

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
    read = [_entries(Path(path), None, {}, None) for path in paths]
    entries = [entry for more, _ in read for entry in more]
    return _checked(
        entries, [fault for _, more in read for fault in more], check_images, references
    )


class _Fault(NamedTuple):
    file: Path
    row: int  # 0: the fault of a whole file or data set
    text: str


class _Entry(NamedTuple):
    file: Path
    number: int  # of the row in the file, the header being 1
    row: Row
    explicit: bool  # whether the row itself names its data set

    def fault(self, text: str) -> _Fault:
        return _Fault(self.file, self.number, text)

    def __str__(self) -> str:
        return f"row {self.number} of {self.file}"


def _checked(
    entries: list[_Entry], faults: list[_Fault], check_images: bool, references: bool
) -> Manifest:
    by_dataset: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_dataset[entry.row.dataset].append(entry)
    faults = faults + _duplicates(entries)
    for name, members in by_dataset.items():
        faults += _dataset_faults(name, members)
    if check_images:
        wrong = image_faults([entry.row.image for entry in entries])
        faults += [
            entry.fault(f"image: {error}")
            for entry, error in zip(entries, wrong, strict=True)
            if error
        ]
    if references:
        faults += _reference_faults(entries, check_images)
    if not faults:
        return Manifest(tuple(entry.row for entry in entries))
    faults.sort(key=lambda fault: (str(fault.file), fault.row))
    lines = [f"{f.file}: {f'row {f.row}, ' if f.row else ''}{f.text}" for f in faults]
    if len(lines) == 1:
        raise UserError(lines[0])
    more = [f"and {len(lines) - _LISTED_FAULTS} more"] if len(lines) > _LISTED_FAULTS else []
    raise UserError("\n  ".join([f"{len(lines)} faults to mend:", *lines[:_LISTED_FAULTS], *more]))


def _duplicates(entries: list[_Entry]) -> list[_Fault]:
    first: dict[Path, _Entry] = {}
    pairs = [(entry, first.setdefault(entry.row.image, entry)) for entry in entries]
    return [
        e.fault(f"image: the same file as {before}: keep one")
        for e, before in pairs
        if before is not e
    ]


def _reference_faults(entries: list[_Entry], check_images: bool) -> list[_Fault]:
    found = [entry.row.reference_image for entry in entries]
    files = list({file for file in found if file})
    wrong = dict(zip(files, image_faults(files), strict=True)) if check_images else {}
    faults = []
    for entry, file in zip(entries, found, strict=True):
        name = entry.row.reference
        if file is None:
            text = f"no file {name!r} beside {entry.row.image} or above" if name else "is empty"
            faults.append(
                entry.fault(
                    f"reference: {text}: name the reference's file, or leave references out"
                )
            )
        elif wrong.get(file):
            faults.append(entry.fault(f"reference: {wrong[file]}"))
    return faults


def _dataset_faults(name: str, members: list[_Entry]) -> list[_Fault]:
    faults = []
    files = list(dict.fromkeys(entry.file for entry in members))
    if len(files) > 1 and not all(entry.explicit for entry in members):
        where = " and ".join(map(str, files))
        text = f"dataset: {name!r} is the name for {where}: give it in a `dataset` column of each, or others"
        faults.append(_Fault(files[0], 0, text))
    mos = [entry.row.mos for entry in members if math.isfinite(entry.row.mos)]
    if len(mos) > 1 and len(set(mos)) == 1:
        text = f"mos: all images of data set {name!r} have the MOS {mos[0]:g}: give ratings that differ"
        faults.append(_Fault(files[0], 0, text))
    seen: dict[str, dict[str, _Entry]] = defaultdict(
        dict
    )  # reference -> split -> the first such row
    for entry in members:
        if entry.row.reference and entry.row.split:
            seen[entry.row.reference].setdefault(entry.row.split, entry)
    for reference, splits in seen.items():
        if len(splits) > 1:
            where = ", ".join(f"{split} in {entry}" for split, entry in splits.items())
            text = f"reference: {reference!r} of {name!r} is in several splits ({where}): keep it in one"
            faults.append(list(splits.values())[-1].fault(text))
    return faults


def _entries(
    path: Path, name: str | None, columns: dict[str, str], images: str | os.PathLike[str] | None
) -> tuple[list[_Entry], list[_Fault]]:
    if unknown := sorted(set(columns) - set(_FIELDS)):
        raise UserError(f"columns: {', '.join(unknown)} is none of our names: {', '.join(_FIELDS)}")
    try:
        header, records = (_read_parquet if path.suffix.lower() == ".parquet" else _read_csv)(path)
    except (OSError, ValueError, csv.Error) as error:  # ValueErrors: pyarrow's, and of UTF-8
        reason = getattr(error, "strerror", None) or error
        return [], [
            _Fault(path, 0, f"cannot be read ({reason}): give a CSV in UTF-8, or a .parquet file")
        ]
    if wrong := _header_faults(header, columns):
        return [], [_Fault(path, 1, text) for text in wrong]
    if not records:
        return [], [_Fault(path, 0, "has a header but no rows: add at least one image and its mos")]
    places = {f: header.index(columns.get(f, f)) for f in _FIELDS if columns.get(f, f) in header}
    others = [
        i for i, n in enumerate(header) if n and n not in _FIELDS and i not in places.values()
    ]
    default = name or (path.absolute().parent.name if path.stem in _GENERIC_STEMS else path.stem)
    folder = path.parent if images is None else Path(images)
    realpath = functools.cache(
        os.path.realpath
    )  # of a row's folder; a linked image keeps its own name
    entries, faults = list[_Entry](), list[_Fault]()
    for number, values in records:
        if len(values) != len(header):
            text = f"{len(values)} fields where the header has {len(header)}: quote texts that hold a comma"
            faults.append(_Fault(path, number, text))
            continue
        given = {f: values[i] for f, i in places.items() if values[i] not in (None, "")}
        image = folder / str(given.get("image", "")).replace(
            "\0", "\ufffd"
        )  # no file system takes a null
        row, wrong = _row(given, Path(realpath(image.parent), image.name), default)
        row.extra.update((header[i], values[i]) for i in others)
        faults += [_Fault(path, number, text) for text in wrong]
        if "image" in given:
            entries.append(_Entry(path, number, row, "dataset" in given))
    return entries, faults


def _row(given: dict[str, object], image: Path, dataset: str) -> tuple[Row, list[str]]:
    """The row of the fields that are not empty, and what is wrong with it."""
    text = {key: str(value) for key, value in given.items()}
    mos = _number(text.get("mos", ""))
    std = _number(text["std"]) if "std" in text else None
    faults = [] if "image" in given else ["image: is empty: give a file name"]
    if not math.isfinite(mos):
        faults.append(
            f"mos: {text.get('mos', '')!r} is not a finite number: give one, or delete the row"
        )
    if std is not None and not 0 <= std < math.inf:
        faults.append(
            f"std: {text['std']!r} is not a number of at least 0: leave it empty if unknown"
        )
    if text.get("split", "train") not in SPLITS:
        faults.append(
            f"split: {text.pop('split')!r} is unknown: use {', '.join(SPLITS)}, or leave it empty"
        )
    reference, split, distortion, reasoning = map(
        text.get, ("reference", "split", "distortion", "reasoning")
    )
    return Row(
        image, mos, text.get("dataset", dataset), std, reference, split, distortion, reasoning
    ), faults


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _header_faults(header: list[str], columns: dict[str, str]) -> list[str]:
    faults = []
    for key, wanted in (dict(zip(_REQUIRED, _REQUIRED, strict=True)) | columns).items():
        if wanted not in header:
            aliases = [n for n in header if n.lower() == key or n.lower() in _ALIASES.get(key, ())][
                :1
            ]
            mend = "".join(f": rename {n!r} to {key!r}, or map it with columns" for n in aliases)
            mend += " (only if higher is better in it)" if mend and key == "mos" else ""
            faults.append(
                f"column {wanted!r} is missing, there are {', '.join(map(repr, header))}{mend}"
            )
    twice = [n for n in dict.fromkeys(header) if n and header.count(n) > 1]
    return faults + [f"column {n!r} is there {header.count(n)} times: keep one" for n in twice]


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        records, start = [], reader.line_num + 1
        for values in reader:
            if values:  # not a blank line
                records.append((start, values))
            start = reader.line_num + 1  # a quoted text may hold line breaks
    if not header:
        raise ValueError("its first line is empty")
    return header, records


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, list]]]:
    with path.open("rb") as file:
        table = pq.ParquetFile(file).read()
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return table.column_names, [(number, list(row)) for number, row in enumerate(rows, 2)]
