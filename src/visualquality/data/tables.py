"""Tables in files: CSV, Parquet and Excel, as cells with the row numbers that an editor or a spreadsheet shows.

Excel sheets are read by pandas. CSV is read by `csv.reader`: pandas counts records, not lines, so that errors would
name the wrong row after a quoted line break or a blank line, and it stops at the first row that has too many cells.
Parquet is read by pyarrow: pandas would make floats of whole numbers where a cell is empty.
pandas and pyarrow are imported where they are used, so that a CSV does not wait for them.
"""

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..parsing import refuse_archive_bomb

if TYPE_CHECKING:
    import _csv


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
    """The table in a .csv, .parquet, .xlsx or .xls file (its first sheet); by default a CSV in UTF-8.

    Cells are texts; those of Parquet keep their type. Blank lines of a CSV are left out, but counted.
    Raises ValueError with the reason why the file cannot be read, which the caller puts into its message.
    """
    readers = {".parquet": _read_parquet, ".xlsx": _read_excel, ".xls": _read_excel}
    try:
        table = readers.get(path.suffix.lower(), _read_csv)(path)
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


def _read_csv(path: Path) -> Table:
    # utf-8-sig: Excel writes a byte order mark. newline="": csv.reader counts the lines itself.
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: a quote that is never closed would otherwise swallow the rest of the file.
        reader = csv.reader(file, strict=True)
        header = [from_csv_cell(name.strip()) for name in next(reader, [])]
        rows = [
            (number, list(map(from_csv_cell, cells))) for number, cells in numbered_rows(reader)
        ]
        return Table(header, rows)


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
