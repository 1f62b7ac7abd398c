"""Tables of other projects, and anybody's own: pyiqa's meta CSV, DeQA-Score's JSON, a CSV with named columns."""

import json
import math
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ..manifest import SPLITS, Manifest, Row
from .locate import Request
from .tables import Record, read_table, read_text

_MOS = ("mos", "elo_score", "score")  # what pyiqa calls a score of which higher is better
_OFFICIAL = "official_split"


def pyiqa_csv(request: Request) -> list[Row]:
    """pyiqa's meta CSV: image, mos, std, … without a reference, or reference, image, mos, std, … with one.

    Names of columns vary, so that places count, as in pyiqa: a first column whose name has "ref" or "hq" in
    it is a reference. `std` is taken as it stands (that of KADID-10k is the official column `var`). Columns
    with "split" in their name hold train, val or test: the one that `split` names is used, else
    official_split where there is one.

    Raises UserError for a column `dmos` unless columns={"mos": "dmos"} says that higher is better in it: it
    is in KADID-10k, and is not in CSIQ and LIVE. The data set is the file's name, without meta_info_ and
    Dataset.
    """
    path = request.single_file()
    records = read_table(path, (), request.source)
    header = list(records[0].values)
    has_reference = any(part in header[0].lower() for part in ("ref", "hq"))
    if len(header) < 2 + has_reference:
        raise UserError(f"{path} has the columns {', '.join(header)}: give {request.source}")
    image, mos = header[has_reference : has_reference + 2]
    if mos.lower() not in _MOS and request.columns.get("mos") != mos:
        raise UserError(
            f"{path}: is higher better in column {mos!r}? If so, import with columns mos={mos}"
        )
    if set(request.columns) - {"mos"} or request.columns.get("mos", mos) != mos:
        raise UserError(
            f"columns of pyiqa-csv go by their place: give mos={mos}, or leave columns out"
        )
    split = _split_column(request, header)
    folder = request.images or path.parent
    dataset = path.stem.removeprefix("meta_info_").removesuffix("Dataset")
    return [
        Row(
            image=folder / record.text(image),
            mos=record.number(mos),
            dataset=dataset,
            std=record.number("std", 0) if record.values.get("std") else None,
            reference=record.text(header[0]) if has_reference else None,
            split=_split(record, split) if split else None,
        )
        for record in records
    ]


def _split_column(request: Request, header: list[str]) -> str | None:
    there = [name for name in header if "split" in name]
    if request.split is None:
        return _OFFICIAL if _OFFICIAL in there else None
    if request.split not in there:
        choices = (
            f"choose one of {', '.join(there)}" if there else "it has no split column: leave it out"
        )
        raise UserError(f"unknown split {request.split!r} of {request.root}: {choices}")
    return request.split


def _split(record: Record, column: str) -> str:
    name = record.text(column)
    if name not in SPLITS:
        raise record.fault(column, f"{name!r} is none of {', '.join(SPLITS)}: correct it")
    return name


def deqa_json(request: Request) -> list[Row]:
    """DeQA-Score's meta JSON, also Q-Insight's: a list of {image, gt_score, std, …}.

    gt_score, on the set's own scale, is the MOS (gt_score_norm is brought to 1 to 5) and std its deviation.
    Images are named from the folder that holds all sets (KONIQ/images/1.jpg): by default that is two above a
    file in a folder `metas`, else the file's own. The data set is the first of these folders, else the
    file's name.
    """
    path = request.single_file()
    try:
        entries = json.loads(read_text(path, request.source))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): give {request.source}") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a list of images: give {request.source}")
    metas = path.absolute().parent
    folder = request.images or (metas.parents[1] if metas.name == "metas" else path.parent)
    return [_deqa_row(entry, number, path, folder) for number, entry in enumerate(entries, 1)]


def _deqa_row(entry: object, number: int, path: Path, folder: Path) -> Row:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise UserError(f"{path}: entry {number} has no `image` that is one name: correct it")
    std = entry.get("std")
    for key, value in (("gt_score", entry.get("gt_score")), ("std", 0 if std is None else std)):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(
                f"{path}: entry {number}: {key} is {value!r}, not a finite number: correct it"
            )
    if std is not None and std < 0:
        raise UserError(f"{path}: entry {number}: std is {std}, below 0: correct it")
    parts = PurePosixPath(entry["image"]).parts
    dataset = parts[0] if len(parts) > 2 and parts[0] != "/" else path.stem
    return Row(
        folder / entry["image"],
        float(entry["gt_score"]),
        dataset,
        None if std is None else float(std),
    )


def any_csv(request: Request) -> list[Row]:
    """Any CSV or Parquet file, read and checked as a manifest with `columns`: our names -> the file's."""
    path = request.single_file()
    manifest = Manifest.read(
        path, columns=request.columns, images=request.images, check_images=False
    )
    return list(manifest.rows)
