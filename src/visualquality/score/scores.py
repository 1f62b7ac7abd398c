"""Reading files of scores, whoever wrote them: JSON Lines (a journal of results too), CSV, Parquet."""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visualquality.errors import UserError


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object in line `number` of `path`. Raises `UserError` where there is none."""
    row = None
    with suppress(ValueError):
        row = json.loads(line)
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: not a JSON object; remove that line")
    return row


def read_scores(path: Path) -> dict[str, float | None]:
    """The scores of a .jsonl, .csv or .parquet file by image name, in its order; None where empty or NaN.

    The columns `image` and `score` are needed, others are ignored; a journal's header line is not a row, and the last
    line counts of an image that it tried again.
    Rows are counted as a spreadsheet does, the header of a CSV file being row 1. Raises `UserError` naming
    the row at fault.
    """
    readers = {".jsonl": _jsonl_scores, ".csv": _csv_scores, ".parquet": _parquet_scores}
    if path.suffix not in readers:
        raise UserError(f"{path} must be a .jsonl, .csv or .parquet file of scores")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a file of scores that exists")
    scores: dict[str, float | None] = {}
    rows: dict[str, int] = {}
    for row, image, score in readers[path.suffix](path):
        if not isinstance(image, str) or not image:
            raise UserError(f"{path}, row {row}: image is {image!r}; it must be a file name")
        tried_again = path.suffix == ".jsonl" and scores.get(image, 0.0) is None
        if image in rows and not tried_again:
            raise UserError(
                f"{path}, row {row}: {image} is already in row {rows[image]}; remove one of the two"
            )
        number = score is None or (isinstance(score, int | float) and not isinstance(score, bool))
        if not number or (score is not None and math.isinf(score)):
            raise UserError(
                f"{path}, row {row}: the score {score!r} of {image} must be a number, or empty for none"
            )
        scores[image] = None if score is None or math.isnan(score) else float(score)
        rows[image] = row
    if not scores:
        raise UserError(f"{path} holds no scores")
    return scores


def _need_columns(path: Path, where: str, columns: list[str]) -> None:
    if missing := [name for name in ("image", "score") if name not in columns]:
        raise UserError(
            f"{path}{where} has no {' and no '.join(missing)}, only {', '.join(columns) or 'nothing'}"
        )


def _jsonl_scores(path: Path) -> Iterator[tuple[int, Any, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = parse_line(path, number, line)
            if number == 1 and row.keys() == {"header"}:
                continue
            _need_columns(path, f", row {number}", list(row))
            yield number, row["image"], row["score"]


def _csv_scores(path: Path) -> Iterator[tuple[int, Any, Any]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        row = 1
        try:
            _need_columns(path, "", list(reader.fieldnames or []))
            for row, cells in enumerate(reader, start=2):
                if None in cells or None in cells.values():
                    raise UserError(
                        f"{path}, row {row}: it has more or fewer cells than the header"
                    )
                score: float | str | None = cells["score"].strip() or None
                with suppress(TypeError, ValueError):
                    score = float(score)  # type: ignore[arg-type]
                yield row, cells["image"], score
        except csv.Error as fault:
            raise UserError(
                f"{path}, after row {row}: not CSV ({fault}); mend the quotes there"
            ) from fault


def _parquet_scores(path: Path) -> Iterator[tuple[int, Any, Any]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as fault:
        raise UserError(f"{path} is not a Parquet file: {fault}") from fault
    _need_columns(path, "", file.schema_arrow.names)
    row = 0
    for batch in file.iter_batches(columns=["image", "score"]):
        for cells in batch.to_pylist():
            row += 1
            yield row, cells["image"], cells["score"]
