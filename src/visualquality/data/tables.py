"""Tables in files: CSV, Parquet and Excel, as cells with the row numbers that an editor or a spreadsheet shows.

A CSV may have commas, semicolons or tabs between its cells, and be in UTF-8, in UTF-16 with a byte order mark, or in
Windows-1252, since spreadsheets write all of these.

Excel sheets are read by pandas. CSV is read by `csv.reader`: pandas counts records, not lines, so that errors would
name the wrong row after a quoted line break or a blank line, and it stops at the first row that has too many cells.
Parquet is read by pyarrow: pandas would make floats of whole numbers where a cell is empty.
pandas and pyarrow are imported where they are used, so that a CSV does not wait for them.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..parsing import refuse_archive_bomb

if TYPE_CHECKING:
    import _csv

_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")


# A small file may unfold to far more than any table of ratings has, such as one text in a million rows.
MAX_ROWS = 10_000_000
MAX_TABLE_BYTES = 2_000_000_000

# A spreadsheet takes a cell that begins with one of these for a formula, also where a line break or a tab stands
# before it, and in East Asian versions in their wide forms.
_FORMULA = re.compile("[=+\\-@\t\r\n＝＋－＠]")
# What `csv_cell` put before such a text, and `from_csv_cell` takes away.
_GUARDED = re.compile(f"'+{_FORMULA.pattern}")
_GUARDED_PATH = re.compile(rf"(\./)+{_FORMULA.pattern}")


class Table(NamedTuple):
    header: list[str]
    rows: list[tuple[int, list]]  # row number, the header being row 1, and its cells


def read_table(path: Path) -> Table:
    """The table in a .csv, .parquet, .xlsx or .xls file (its first sheet); by default a CSV (`read_csv`).

    Cells are texts; those of Parquet keep their type. Blank lines of a CSV are left out, but counted.
    Raises ValueError with the reason why the file cannot be read, which the caller puts into its message.
    """
    readers = {".parquet": _read_parquet, ".xlsx": _read_excel, ".xls": _read_excel}
    try:
        table = readers.get(path.suffix.lower(), read_csv)(path)
    # Parsers raise nearly anything on a damaged file.
    except Exception as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from error
    if not table.header:
        raise ValueError("its first line is empty")
    return table


def to_number(text: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    # float() also takes "nan" and "inf", which pandas and others write for an empty cell.
    return value if math.isfinite(value) else None


def decoded(content: bytes, errors: str = "strict") -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a byte order mark (UTF-16: with one), or in Windows-1252.

    errors: of UTF-8, as `bytes.decode` takes it; with any other than "strict" nothing is taken for Windows-1252.
    Raises UnicodeDecodeError.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError:
        # Text in another encoding is hardly ever UTF-8 by chance, so that this is not tried on UTF-8.
        return content.decode("cp1252")


def read_csv(path: Path, errors: str = "strict") -> Table:
    """The table in a CSV with commas, semicolons or tabs between its cells; for `errors` see `decoded`.

    Of these three it is the one by which the first row has as many cells as the header, and then the one that gives
    most. A line `sep=;` before the header, as Excel writes, decides it. Where it is no comma, a number may have a
    decimal comma, and gets a decimal point.

    Raises OSError, and ValueError for another encoding or quotes that do not fit, with the row that these follow.
    """
    text = decoded(path.read_bytes(), errors)
    named = re.match(r"sep=([,;\t])\r?\n", text)
    delimiter = named[1] if named else max(",;\t", key=lambda each: _fit(text, each))
    reader = _rows_of(text, delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        if named:
            next(reader)
        header = [from_csv_cell(name.strip()) for name in next(reader, [])]
        for number, cells in numbered_rows(reader):
            rows.append((number, list(map(from_csv_cell, cells))))
    except csv.Error as error:
        last = rows[-1][0] if rows else 1
        raise ValueError(f"after row {last}: not CSV ({error})") from error
    if delimiter != ",":
        rows = [(number, [_with_point(cell) for cell in cells]) for number, cells in rows]
    return Table(header, rows)


def _rows_of(text: str, delimiter: str) -> "_csv.Reader":
    # newline="": csv.reader counts the lines itself.
    # strict: a quote that is never closed would otherwise swallow the rest of the file.
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _fit(text: str, delimiter: str) -> tuple[bool, int]:
    """How well a table reads with this delimiter; of two that read alike the first that is tried counts."""
    reader = _rows_of(text, delimiter)
    try:
        header = next(reader, [])
        _, first = next(numbered_rows(reader), (0, header))
    except csv.Error:
        return False, 0
    return len(header) > 1 and len(first) == len(header), len(header)


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell.strip()) else cell


def csv_cell(text: str) -> str:
    """A text as a cell of a CSV: one that a spreadsheet would take for a formula gets an apostrophe before it.

    The names of files and the words of models are a stranger's, and a spreadsheet runs the formulas of a file that
    it opens. Numbers stay numbers, also as text, such as "-1.5". `from_csv_cell` gives the text back exactly.

    >>> csv_cell("=1+1"), csv_cell("-1.5"), from_csv_cell(csv_cell("=1+1"))
    ("'=1+1", '-1.5', '=1+1')
    """
    guarded = _FORMULA.match(text) or _GUARDED.match(text)
    return f"'{text}" if guarded and to_number(text) is None else text


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` wrote."""
    return cell[1:] if _GUARDED.match(cell) and to_number(cell[1:]) is None else cell


def csv_path(path: str) -> str:
    """A file name as a cell of a CSV: "./" before one that a spreadsheet would take for a formula.

    It is then the name of the same file to every program. `from_csv_path` gives the name back exactly.

    >>> csv_path("=1.png"), csv_path("photos/=1.png")
    ('./=1.png', 'photos/=1.png')
    """
    return f"./{path}" if _FORMULA.match(path) or _GUARDED_PATH.match(path) else path


def from_csv_path(cell: str) -> str:
    """The name that `csv_path` wrote."""
    return cell.removeprefix("./") if _GUARDED_PATH.match(cell) else cell


def numbered_rows(reader: "_csv.Reader") -> Iterator[tuple[int, list[str]]]:
    """The rows that are left in a `csv.reader`, each with the line that it starts at; blank ones are left out."""
    # A quoted text may hold line breaks, so a row starts after the last line of the one before.
    start = reader.line_num + 1
    for cells in reader:
        if cells:
            yield start, cells
        start = reader.line_num + 1


def _read_parquet(path: Path) -> Table:
    names, rows = parquet_rows(path)
    return Table(names, list(enumerate(rows, start=2)))


def parquet_rows(path: Path, *needed: str) -> tuple[list[str], list[list]]:
    """The names of a Parquet file's columns, and the cells of each row: of all columns, or of the `needed` ones.

    Where one of `needed` is missing, there are no rows. Raises what pyarrow raises, and ValueError for a file that
    unfolds to more than a table of ratings can be.
    """
    import pyarrow.parquet as pq

    # Opened here, so that a missing file gives the usual OSError and not pyarrow's own.
    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        if table.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"it has {table.metadata.num_rows:,} rows, more than {MAX_ROWS:,}")
        names = table.schema_arrow.names
        rows: list[list] = []
        size = 0
        # A part at a time, since one text may stand in all rows and be stored once.
        if not set(needed) <= set(names):
            return names, []
        for batch in table.iter_batches(batch_size=4096, columns=list(needed) or None):
            size += batch.nbytes
            if size > MAX_TABLE_BYTES:
                raise ValueError(f"its cells take more than {MAX_TABLE_BYTES:,} bytes")
            columns = [column.to_pylist() for column in batch.columns]
            rows += [list(cells) for cells in zip(*columns, strict=True)]
        return names, rows


def _read_excel(path: Path) -> Table:
    import pandas as pd

    # An .xlsx is a ZIP archive of XML; an .xls is not, and is not compressed.
    refuse_archive_bomb(path)
    # header=None, so that pandas neither renames columns nor drops the blank rows, which count.
    # keep_default_na: "NA" and "null" are names like any other.
    sheet = pd.read_excel(path, header=None, dtype=str, keep_default_na=False)
    header, *rows = sheet.to_numpy().tolist() or [[]]
    return Table([name.strip() for name in header], list(enumerate(rows, start=2)))


def write_table(path: Path, columns: dict[str, list]) -> None:
    """Write named columns to a .parquet file, or else as a CSV (texts as `csv_cell`); whole or not at all."""
    # Here, since `--help` imports this module and should not wait for pydantic and YAML.
    from ..io import write_whole

    with write_whole(path) as part:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table(columns), part)
        else:
            # Not by pandas, which would write whole numbers beside an empty cell as 3.0.
            cells = [list(map(_csv_value, values)) for values in columns.values()]
            with part.open("w", encoding="utf-8", newline="") as file:
                header = list(map(csv_cell, columns))
                csv.writer(file).writerows([header, *zip(*cells, strict=True)])


def _csv_value(value: object) -> object:
    return csv_cell(value) if isinstance(value, str) else value
