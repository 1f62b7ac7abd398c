"""Tables in files: CSV, Parquet and Excel, as cells with the row numbers that an editor or a spreadsheet shows.

Excel sheets are read by pandas. CSV is read by `csv.reader`: pandas counts records, not lines, so that errors would
name the wrong row after a quoted line break or a blank line, and it stops at the first row that has too many cells.
Parquet is read by pyarrow: pandas would make floats of whole numbers where a cell is empty.
pandas and pyarrow are imported where they are used, so that a CSV does not wait for them.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import _csv


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
        header = [name.strip() for name in next(reader, [])]
        return Table(header, list(numbered_rows(reader)))


def numbered_rows(reader: "_csv.Reader") -> Iterator[tuple[int, list[str]]]:
    """The rows that are left in a `csv.reader`, each with the line that it starts at; blank ones are left out."""
    # A quoted text may hold line breaks, so a row starts after the last line of the one before.
    start = reader.line_num + 1
    for cells in reader:
        if cells:
            yield start, cells
        start = reader.line_num + 1


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    # Opened here, so that a missing file gives the usual OSError and not pyarrow's own.
    with path.open("rb") as file:
        table = pq.read_table(file)
    columns = [column.to_pylist() for column in table.columns]
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    return Table(table.column_names, list(enumerate(rows, start=2)))


def _read_excel(path: Path) -> Table:
    import pandas as pd

    # header=None, so that pandas neither renames columns nor drops the blank rows, which count.
    # keep_default_na: "NA" and "null" are names like any other.
    sheet = pd.read_excel(path, header=None, dtype=str, keep_default_na=False)
    header, *rows = sheet.to_numpy().tolist() or [[]]
    return Table([name.strip() for name in header], list(enumerate(rows, start=2)))


def write_table(path: Path, columns: dict[str, list]) -> None:
    """Write named columns to a .parquet file, or else as a CSV; whole or not at all."""
    # Here, since `--help` imports this module and should not wait for pydantic and YAML.
    from ..io import write_whole

    with write_whole(path) as part:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table(columns), part)
        else:
            # Not by pandas, which would write whole numbers beside an empty cell as 3.0.
            with part.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
