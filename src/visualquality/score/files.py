"""Scores in tables: reading files of scores, whoever wrote them, and exporting ratings to CSV or Parquet.

CSV goes through `csv`, not pandas, so that every error names its row: pandas fills up rows that are too short,
and its two parsers either accept text after a closing quote or do not tell the row of a quote that is never closed.
The table may be of any form that `data.tables.read_csv` reads.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.tables import csv_cell, csv_path, from_csv_path, parquet_rows, read_csv
from ..errors import UserError, shortened
from ..io import read_jsonl, write_whole
from .rating import INTERVAL, Rating

Row = tuple[int, Any, Any]  # number, image and score of a row, not checked yet
DROPPED = "dropped"  # the one key of a journal's line that takes back the row of an image
_TAKEN_BACK = object()  # the score of such a line

# The columns of an export are fields of `Rating`; those that are not named here are text.
NUMBERS = {
    "score": pa.float64(),
    "std": pa.float64(),
    "samples": pa.list_(pa.float64()),
    "seed": pa.int64(),
    "seconds": pa.float64(),
    **dict.fromkeys(INTERVAL, pa.float64()),
    "warnings": pa.list_(pa.string()),
}
# Of the journal alone: `evaluate` sums it up.
NOT_EXPORTED = "readable"
SCHEMA = pa.schema(
    [
        (field.name, NUMBERS.get(field.name, pa.string()))
        for field in fields(Rating)
        if field.name != NOT_EXPORTED
    ]
)


def export(ratings: Iterable[Rating], output: Path) -> None:
    """Write `ratings` to `output` (.csv or .parquet), all of them or nothing.

    Columns are the fields of `Rating` but for `readable`, and `warnings` only where a rating has some. None is an empty
    cell (CSV) or null (Parquet); in CSV `samples` is a JSON list, warnings stand beside each other, and no cell is a
    formula (`csv_path`, `csv_cell`). Raises UserError for another ending, a file that cannot be written, or an image
    name that Parquet cannot hold.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(
            f"results are exported to .csv or .parquet, not to {output}; give another name"
        )
    rows = [rating.to_dict() for rating in ratings]
    for row in rows:
        row.pop(NOT_EXPORTED, None)
    schema = SCHEMA
    if not any("warnings" in row for row in rows):
        schema = SCHEMA.remove(SCHEMA.get_field_index("warnings"))
    with write_whole(output) as part:
        if output.suffix == ".parquet":
            try:
                pq.write_table(pa.Table.from_pylist(rows, schema), part)
            except UnicodeEncodeError as error:
                raise UserError(
                    f"Parquet cannot hold {error.object!r}, not UTF-8; rename it or use .csv"
                ) from error
            return
        # surrogateescape writes file names that are not UTF-8 byte for byte as they are on the disk.
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            # Lines end in CR LF (RFC 4180). With LF alone the writer would leave a lone CR in a cell unquoted.
            writer = csv.DictWriter(file, schema.names)
            writer.writeheader()
            for row in rows:
                cells = {**row, "samples": json.dumps(row["samples"])}
                if "warnings" in row:
                    cells["warnings"] = "; ".join(row["warnings"])
                for name, value in cells.items():
                    if type(value) is str:
                        cells[name] = csv_path(value) if name == "image" else csv_cell(value)
                writer.writerow(cells)


def read_scores(path: Path) -> dict[str, float | None]:
    """The scores of a .jsonl, .csv or .parquet file: image name -> score, in the order of the file.

    The columns `image` and `score` are needed, others are ignored. An empty score or NaN is None. Of a journal of
    results, the header is no row, the last line counts of an image that was tried again, and a row that was dropped
    does not.

    Rows of CSV and JSON Lines are numbered by lines, as an editor shows them, from 1. Raises UserError with the row
    of what is wrong.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise UserError(f"{path} must be a .jsonl, .csv or .parquet file of scores")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a file of scores that exists")
    scores: dict[str, float | None] = {}
    row_of: dict[str, int] = {}  # image -> its row, for the error about a second one
    for row, image, score in readers[path.suffix](path):
        if score is _TAKEN_BACK:
            scores.pop(image, None)
            row_of.pop(image, None)
            continue
        if not isinstance(image, str) or not image:
            raise UserError(f"{path}, row {row}: image is {image!r}; it must be a file name")
        # A journal has a second line for an image that had no score the first time.
        tried_again = path.suffix == ".jsonl" and scores.get(image, 0.0) is None
        if image in row_of and not tried_again:
            raise UserError(
                f"{path}, row {row}: {image} is already in row {row_of[image]}; remove one of the two"
            )
        row_of[image] = row
        if score is None or score != score:  # NaN alone differs from itself
            scores[image] = None
            continue
        # Not isinstance: True and False are numbers to Python, and to no one else. A whole number of 400 digits is
        # larger than any float.
        if type(score) not in (int, float) or not abs(score) <= sys.float_info.max:
            raise UserError(
                f"{path}, row {row}: the score {shortened(repr(score))} of {image} must be a number, or empty for none"
            )
        scores[image] = float(score)
    if not scores:
        raise UserError(f"{path} holds no scores")
    return scores


def _need_columns(where: str, columns: list[str]) -> None:
    missing = [name for name in ("image", "score") if name not in columns]
    if missing:
        raise UserError(
            f"{where} has no {' and no '.join(missing)}, only {', '.join(columns) or 'nothing'}: "
            "name the columns image and score"
        )


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for line in read_jsonl(path):
        # Of a journal: see journal.py.
        if line.record.keys() == {"header"}:
            continue
        if line.record.keys() == {DROPPED}:
            yield line.number, line.record[DROPPED], _TAKEN_BACK
            continue
        _need_columns(f"{path}, row {line.number}", list(line.record))
        yield line.number, line.record["image"], line.record["score"]


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        # A file name need not be text: our own exports hold such names byte for byte.
        header, rows = read_csv(path, "surrogateescape")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}, {error}: save it as CSV in UTF-8, every quote of a text closed"
        ) from error
    _need_columns(str(path), header)
    image, score_at = header.index("image"), header.index("score")
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}, row {number}: it has more or fewer cells than the header")
        text = cells[score_at].strip()
        score: float | str | None = text or None
        # Text that is no number stays as it is, for the error message.
        with suppress(ValueError):
            score = float(text)
        yield number, from_csv_path(cells[image]), score


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        names, rows = parquet_rows(path, "image", "score")
    # ArrowInvalid is a ValueError.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error
    _need_columns(str(path), names)
    for number, (image, score) in enumerate(rows, start=1):
        yield number, image, score
