"""Tables as published: CSV, Excel (both kinds) and MATLAB files, each fault one sentence with file, row and column."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError


class Record(NamedTuple):
    """One row of a table: column -> its cell, as a text or as the number that Excel stores."""

    file: Path
    row: int  # as an editor or Excel counts it, the header being 1
    values: dict[str, object]

    def text(self, column: str) -> str:
        """The cell without space around it; UserError if it is empty."""
        value = str(self.values.get(column, "")).strip()
        if not value:
            raise self.fault(column, "is empty: fill it in, or delete the row")
        return value

    def number(self, column: str, low: float = -math.inf, high: float = math.inf) -> float:
        """The cell as a finite number; UserError if it is not one in [low, high]."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(
                column, f"{text!r} is not a finite number: correct it, or delete the row"
            )
        if (
            not low - 1e-6 <= value <= high + 1e-6
        ):  # normalised scores pass their bounds by rounding
            wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise self.fault(
                column, f"{text} is not {wanted}, as in the published file: is this another column?"
            )
        return value

    def fault(self, column: str, text: str) -> UserError:
        return UserError(f"{self.file}: row {self.row}, column {column!r}: {text}")


def read_table(path: Path, columns: Sequence[str], source: str) -> list[Record]:
    """The rows of a .csv, .xlsx or .xls (its first sheet), with at least these columns; blank rows are left out.

    Names of columns are taken without space around them; nameless columns must be empty (BIQ2021 has some).
    source: where the file is had, for the errors. Raises UserError for a file that cannot be read, a column
    that is missing, no rows, and a row with more cells than the header has names.
    """
    lines = _lines(path, source)
    _, header_line = next(lines, (0, []))
    header = [_cell(name).strip() for name in header_line]
    for column in columns:
        if column not in header:
            there = ", ".join(repr(name) for name in header if name) or "none"
            raise UserError(
                f"{path}: column {column!r} is missing, there are {there}: get {source}"
            )
    records = []
    for number, line in lines:
        cells = dict(enumerate(map(_cell, line)))
        if not any(cell.strip() for cell in cells.values()):
            continue
        if any(cell.strip() for i, cell in cells.items() if i >= len(header) or not header[i]):
            raise UserError(
                f"{path}: row {number} has a cell beyond the named columns: quote texts that hold a comma"
            )
        records.append(
            Record(path, number, {name: cells.get(i, "") for i, name in enumerate(header) if name})
        )
    if not records:
        raise UserError(f"{path} has no rows: get {source}")
    return records


def read_mat(path: Path, variable: str, source: str) -> list[Any]:
    """The values of one variable of a MATLAB file, in order; the texts of a cell array.

    Raises UserError for a file that cannot be read (or is of version 7.3) and for a variable that is missing.
    """
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise unreadable(path, error, source) from error
    if variable not in content:
        there = ", ".join(sorted(name for name in content if not name.startswith("__"))) or "none"
        raise UserError(
            f"{path}: variable {variable!r} is missing, there are {there}: get {source}"
        )
    try:
        return [np.asarray(value).item() for value in content[variable].ravel()]
    except ValueError as error:  # a cell that is not one text or number
        raise unreadable(path, error, source) from error


def read_text(path: Path, source: str) -> str:
    """A whole file in UTF-8, with or without a byte order mark; UserError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # line breaks as they are, for the csv module
    except (OSError, ValueError) as error:
        raise unreadable(path, error, source) from error


def unreadable(path: Path, error: Exception, source: str) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path} cannot be read ({reason}): get {source}")


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _lines(path: Path, source: str) -> Iterator[tuple[int, Sequence[object]]]:
    kinds = {".csv": _csv_lines, ".xlsx": _xlsx_lines, ".xls": _xls_lines}
    return kinds[path.suffix.lower()](path, source)


def _csv_lines(path: Path, source: str) -> Iterator[tuple[int, Sequence[object]]]:
    reader = csv.reader(io.StringIO(read_text(path, source), newline=""), strict=True)
    start = 1
    try:
        for line in reader:
            yield start, line
            start = reader.line_num + 1  # a quoted text may hold line breaks
    except csv.Error as error:
        raise unreadable(path, error, source) from error


def _xlsx_lines(path: Path, source: str) -> Iterator[tuple[int, Sequence[object]]]:
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
        lines = list(book.worksheets[0].iter_rows(values_only=True))
        book.close()
    except (OSError, KeyError, ValueError, IndexError, BadZipFile, InvalidFileException) as error:
        raise unreadable(path, error, source) from error
    yield from enumerate(lines, 1)


def _xls_lines(path: Path, source: str) -> Iterator[tuple[int, Sequence[object]]]:
    import xlrd

    try:
        sheet = xlrd.open_workbook(str(path)).sheet_by_index(0)
    except (OSError, ValueError, IndexError, xlrd.XLRDError, xlrd.compdoc.CompDocError) as error:
        raise unreadable(path, error, source) from error
    for number in range(sheet.nrows):
        yield number + 1, sheet.row_values(number)
