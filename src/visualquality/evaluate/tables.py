"""The results of a benchmark in the layout of the paper's Table 2: cells, bold and underlined marks, and notes.

`layout` is a pure function from results to a `Table` of texts and marks, which `render` writes in each format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isnan
from typing import Literal

from .agreement import COEFFICIENTS, Estimate, average
from .benchmark import Column, Result, Results
from .paper import paper_tables

Mark = Literal["", "best", "second"]

NOTHING = "–"
UNDEFINED = "undefined"
AVERAGE = "Avg"
# A published number is ranked only where the data set here is the paper's: as many images, within 1 %. CLIVE, for
# example, has 1162 or 1169 images, without or with its training images.
SAME_SIZE = 0.01
# What a suite calls the two PLCC -> the name in `COEFFICIENTS`, and a sentence about it.
PLCC = {
    "raw": ("plcc", "PLCC is that of the scores as they are, with no mapping"),
    "logistic": (
        "plcc_logistic",
        "PLCC is that of the scores after the 4-parameter logistic mapping",
    ),
}


@dataclass(frozen=True)
class Value:
    """A cell as it is printed: three decimals, "undefined" or a dash; its 95 % interval, where there is one."""

    text: str
    interval: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Line:
    """A row: `values` are one for each column, then the average. `published`: the paper's, not measured here."""

    name: str
    published: bool
    values: tuple[Value, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Block:
    """SRCC or PLCC: lines by group of methods, in order."""

    name: str
    groups: tuple[tuple[str, tuple[Line, ...]], ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for _, lines in self.groups for line in lines)


@dataclass(frozen=True)
class Table:
    """`spans` are the groups of data sets over `columns`, (name, number of columns); the average comes after them.

    A table of one data set has no average, and its lines have one value.
    """

    title: str
    spans: tuple[tuple[str, int], ...]
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]

    @property
    def averaged(self) -> bool:
        return len(self.columns) > 1

    @property
    def headings(self) -> tuple[str, ...]:
        """Over the values of a line."""
        names = tuple(column.name for column in self.columns)
        return (*names, AVERAGE) if self.averaged else names

    @property
    def sizes(self) -> tuple[str, ...]:
        """The number of images under each heading."""
        numbers = tuple(str(column.n) for column in self.columns)
        return (*numbers, "") if self.averaged else numbers


def layout(results: Results) -> Table:
    """The table of `results`: data sets by group, an SRCC and a PLCC block, methods by group, the best two marked.

    The paper's groups come first, in its order; within a group, data sets and methods keep the order of the suite.

    Best (bold) and second (underlined) are those of a column by the printed digits, equal numbers together, where at
    least two can be compared. A published row is ranked where the data set here has the paper's size.
    """
    groups = [column.group for column in paper_tables().columns]
    groups += [column.group for column in results.columns]
    # Sorting is stable: within a group the order of the suite stays.
    columns = tuple(sorted(results.columns, key=lambda column: groups.index(column.group)))
    spans = [
        (group, len(list(members)))
        for group, members in groupby(columns, lambda column: column.group)
    ]
    plcc, _ = PLCC[results.plcc]
    blocks = (_block(results, columns, "SRCC", "srcc"), _block(results, columns, "PLCC", plcc))
    return Table(results.title, tuple(spans), columns, blocks, tuple(_notes(results, columns)))


def comparable(column: Column) -> bool:
    """Whether the data set here has as many images as the paper's column has."""
    if column.column is None:
        return False
    # Other images of the same data set would make another test: their numbers are shown, not ranked.
    size = {each.name: each.images for each in paper_tables().columns}[column.column]
    return abs(column.n - size) <= SAME_SIZE * size


def _block(results: Results, columns: Sequence[Column], name: str, field: str) -> Block:
    # Those that are left at the end have no measured row of their name.
    published = {method: _published(method, columns, name) for method in results.paper}
    rows: list[tuple[str, Line]] = []  # with the group of each
    for result in results.methods:
        rows.append((result.group, _measured(result, columns, field)))
        # A published row stands under the measured one of its name, the others at the end of their group.
        if result.name in published:
            rows.append((result.group, published.pop(result.name)[1]))
    rows += published.values()
    order = [row.group for row in paper_tables().rows] + [group for group, _ in rows]
    rows.sort(key=lambda row: order.index(row[0]))
    lines = _marked([line for _, line in rows], [comparable(column) for column in columns])
    marked = zip((group for group, _ in rows), lines, strict=True)
    groups = groupby(marked, lambda row: row[0])
    return Block(name, tuple((g, tuple(line for _, line in members)) for g, members in groups))


def _measured(result: Result, columns: Sequence[Column], field: str) -> Line:
    cells = [result.measured.get(column.name) for column in columns]
    found = [cell.agreement for cell in cells if cell and cell.agreement]
    values = [
        _value(getattr(cell.agreement, field)) if cell and cell.agreement else Value(NOTHING)
        for cell in cells
    ]
    if len(columns) > 1:
        mean = Value(NOTHING)
        if len(found) == len(columns):
            estimate = getattr(average(found), field)
            # Undefined on one data set is undefined on average, which is no news.
            mean = Value(NOTHING) if isnan(estimate.value) else _value(estimate)
        values.append(mean)
    return Line(result.name, False, tuple(values), result.problem)


def _value(estimate: Estimate) -> Value:
    if isnan(estimate.value):
        return Value(UNDEFINED)
    interval = "" if isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}"
    return Value(_printed(estimate.value), interval)


def _printed(value: float) -> str:
    # A small negative number would be printed with a sign that means nothing.
    return f"{value:.3f}".replace("-0.000", "0.000")


def _published(method: str, columns: Sequence[Column], coefficient: str) -> tuple[str, Line]:
    """The group and the line of a method of the paper."""
    row = paper_tables().published(method)[coefficient]
    names = [column.name for column in paper_tables().columns]
    cells = dict(zip(names, row.cells, strict=True))
    numbers = [cells[column.column] for column in columns if column.column is not None]
    values = [
        Value(NOTHING if column.column is None else _printed(float(cells[column.column])))
        for column in columns
    ]
    if len(columns) > 1:
        if len(numbers) < len(columns):
            values.append(Value(NOTHING))
        elif len(numbers) == len(row.cells):
            # Over all eight data sets, the average is what the paper prints.
            values.append(Value(_printed(float(row.average))))
        else:
            values.append(Value(_printed(float(sum(numbers) / len(numbers)))))
    return row.group, Line(method, True, tuple(values))


def _marked(lines: Sequence[Line], same: Sequence[bool]) -> list[Line]:
    """`lines` with the best two of each column marked; `same` says where published lines are ranked."""
    places = len(lines[0].values)
    # The average is ranked where all its data sets are.
    ranked = [*same, all(same)][:places]
    marked = [list(line.values) for line in lines]
    for place in range(places):
        rows = [
            row
            for row, line in enumerate(lines)
            if (ranked[place] or not line.published)
            and line.values[place].text not in (NOTHING, UNDEFINED)
        ]
        if len(rows) < 2:
            continue
        # By the printed digits: what looks equal is marked alike.
        texts = sorted({marked[row][place].text for row in rows}, key=float, reverse=True)
        marks: dict[str, Mark] = dict(zip(texts, ("best", "second"), strict=False))
        for row in rows:
            value = marked[row][place]
            marked[row][place] = replace(value, mark=marks.get(value.text, ""))
    return [replace(line, values=tuple(values)) for line, values in zip(lines, marked, strict=True)]


def _notes(results: Results, columns: Sequence[Column]) -> list[str]:
    """The sentences under the table: whose numbers these are, and of which images. The weightiest come first."""
    # Whole rows first, then cells, then single coefficients.
    unavailable, cells, undefined = [], [], []
    field, about_plcc = PLCC[results.plcc]
    # Problems of coefficients that are not shown are left out.
    hidden = tuple(f"{name}:" for key, name in COEFFICIENTS.items() if key not in ("srcc", field))
    for result in results.methods:
        if result.problem:
            unavailable.append(f"{result.name} is unavailable: {result.problem}")
        for name, cell in result.measured.items():
            found = cell.agreement
            if found is None:
                cells.append(f"{result.name} has no number on {name}: {cell.problem}")
                continue
            if found.n_unreadable:
                total = found.n + found.n_unreadable
                cells.append(
                    f"{result.name} on {name}: {found.n_unreadable} of {total} images have no score: {cell.problem}"
                )
            for problem in found.problems:
                if not problem.startswith(hidden):
                    undefined.append(f"{result.name} on {name}: {problem}")
    unknown = "; the paper does not say which its PLCC is" if results.paper else ""
    notes = [*unavailable, *cells, *undefined]
    notes.append(f"{about_plcc}{unknown}. Best in bold, second underlined.")
    if results.paper:
        notes += _notes_on_published(columns)
    if len(columns) > 1:
        notes.append(
            f"Avg is the plain mean over the {len(columns)} data sets, given where all of them are there."
        )
    return notes


def _notes_on_published(columns: Sequence[Column]) -> list[str]:
    images = {column.name: column.images for column in paper_tables().columns}
    notes = [
        "Rows marked “paper” are the numbers that the paper prints, of its own runs: they were not measured here."
    ]
    sizes = [
        f"{c.name} {c.n} of {images[c.column]}"
        for c in columns
        if c.column is not None and c.n != images[c.column]
    ]
    if sizes:
        notes.append(
            f"The images here are not all, or not only, those of the paper: {', '.join(sizes)}. Where they differ by "
            "more than 1 %, published numbers are shown beside the measured ones but not ranked with them."
        )
    return notes
