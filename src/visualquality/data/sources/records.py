"""The files that data sets come in, read with one error sentence a fault: tables, MATLAB files and label lines."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError
from ..find import SUFFIXES
from ..row import Row
from ..tables import MAX_ROWS, decoded, read_table, to_number
from .distribution import Distribution

# Normalised scores pass their bounds by rounding: SRIQA-Bench has 100.00000000000001.
_ROUNDING = 1e-6
# The fields of a line of labels.
_NAMES, _NUMBERS = ("reference", "image"), ("mos", "std")


class Record(NamedTuple):
    """One row of a table."""

    file: Path
    row: int  # as an editor or Excel counts it, the header being 1
    values: dict[str, str]  # column -> cell

    def text(self, column: str) -> str:
        """The cell without space around it; UserError if it is empty."""
        value = self.values.get(column, "").strip()
        if not value:
            raise self.error(column, "is empty: fill it in, or delete the row")
        return value

    def number(self, column: str, low: float = -math.inf, high: float = math.inf) -> float:
        """The cell as a finite number; UserError if it is not one in [low, high]."""
        text = self.text(column)
        value = to_number(text)
        if value is None:
            fix = "correct it, or delete the row"
            raise self.error(column, f"{text!r} is not a finite number: {fix}")
        if not _in_range(value, low, high):
            wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            fix = "as in the published file: is this another column?"
            raise self.error(column, f"{text} is not {wanted}, {fix}")
        return value

    def error(self, column: str, text: str) -> UserError:
        return UserError(f"{self.file}: row {self.row}, column {column!r}: {text}")


def _in_range(value: float, low: float, high: float) -> bool:
    return low - _ROUNDING <= value <= high + _ROUNDING


def read_records(data: Distribution, path: Path, *columns: str) -> list[Record]:
    """The rows of a table, with at least these columns; blank rows are left out.

    Names of columns are taken without space around them; nameless columns must be empty (BIQ2021 has some).
    Raises UserError for a file that cannot be read, a column that is missing, no rows, and a row with more cells
    than the header has names.
    """
    try:
        header, rows = read_table(path)
    except ValueError as error:
        raise data.unreadable(path, error) from error
    for column in columns:
        if column not in header:
            there = ", ".join(repr(name) for name in header if name) or "none"
            raise data.error(f"{path}: column {column!r} is missing, there are {there}")
    records = []
    for number, cells in rows:
        values = {}
        # Spreadsheets leave out the empty cells at the end of a row.
        for name, cell in zip_longest(header, cells, fillvalue=""):
            text = "" if cell is None else str(cell)
            if name:
                values[name] = text
            elif text.strip():
                fix = "quote texts that hold a separator, such as a comma"
                raise UserError(f"{path}: row {number} has a cell beyond the named columns: {fix}")
        if any(text.strip() for text in values.values()):
            records.append(Record(path, number, values))
    if not records:
        raise data.error(f"{path} has no rows")
    return records


def read_mat(data: Distribution, path: Path, variable: str) -> list[Any]:
    """The values of one variable of a MATLAB file, in order; the texts of a cell array.

    Raises UserError for a file that cannot be read (or is of version 7.3) and for a variable that is missing.
    """
    # Here, since naming the sources in a help text must not wait for SciPy.
    import numpy as np
    from scipy.io import loadmat, whosmat

    try:
        sizes = {name: math.prod(shape) for name, shape, _ in whosmat(path)}
        if variable in sizes:
            # Compressed, a few megabytes may hold a billion zeros.
            if sizes[variable] > MAX_ROWS:
                raise ValueError(f"{variable} has {sizes[variable]:,} values")
            # The other variables are not read: they may be as large.
            content = loadmat(path, variable_names=[variable])
            # A cell array holds arrays of one element; item() is an error for a cell of several.
            return [np.asarray(value).item() for value in content[variable].ravel()]
    except Exception as error:  # a damaged file raises nearly anything
        raise data.unreadable(path, error) from error
    there = ", ".join(sorted(sizes)) or "none"
    raise data.error(f"{path}: variable {variable!r} is missing, there are {there}")


def read_text(data: Distribution, path: Path) -> str:
    """The text of a whole file, as `decoded` takes it; UserError if it cannot be read."""
    try:
        return decoded(path.read_bytes())
    except (OSError, ValueError) as error:
        raise data.unreadable(path, error) from error


def read_labels(
    data: Distribution,
    path: Path,
    folder: Path,
    *,
    dataset: str,
    split: str | None = None,
    form: Sequence[str] = (),
    scale: tuple[float, float] = (-math.inf, math.inf),
) -> Iterable[Row]:
    """The rows of a text file of lines `[reference] image mos [std]`, all of one form; blank lines are skipped.

    form: the fields of each line, such as reference, image, mos; by default those of the first line. scale: the least
    and the largest MOS. Raises UserError for a line of another form, or with a number that cannot be.
    """
    for number, line in enumerate(read_text(data, path).split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        names, numbers = parse_label(line) or ([], [])
        fields = [*_NAMES[2 - len(names) :], *_NUMBERS[: len(numbers)]]
        form = form or fields
        where = f"{path}: row {number}, {line!r},"
        if fields != form or not fields:
            wanted = " ".join(form) or "[reference] image mos [std]"
            raise data.error(f"{where} is not `{wanted}`")
        label: dict[str, Any] = dict(zip(fields, [*names, *numbers], strict=True))
        std = label.get("std")
        if not _in_range(label["mos"], *scale) or (std is not None and std < 0):
            raise data.error(f"{where} has a number out of range")
        image, reference = folder / label["image"], label.get("reference")
        yield Row(image, label["mos"], dataset, std, reference, split)


def parse_label(line: str) -> tuple[list[str], list[float]] | None:
    """The names and numbers of a line, or None if it is not one or two of each.

    It is read from the right: numbers, then names that end like an image file. So a name may hold spaces.
    """
    words = list(re.finditer(r"\S+", line))
    numbers: list[float] = []
    while words and (value := to_number(words[-1].group())) is not None:
        numbers.insert(0, value)
        words.pop()
    names, start = [], 0
    for word in words:
        if Path(word.group()).suffix.lower() in SUFFIXES:
            names.append(line[start : word.end()].strip())
            start = word.end()
    # Words that are left over after the last name belong to none.
    complete = bool(words) and start == words[-1].end()
    if complete and len(names) in (1, 2) and len(numbers) in (1, 2):
        return names, numbers
    return None
