"""Results of a benchmark as Table 2 of the paper lays them out: what stands where, and what is bold or underlined.

A pure function from results to a `Table` of texts and marks; `render` writes it in each format.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isnan
from typing import Literal, TypeVar

from .agreement import Estimate, average
from .benchmark import Column, Result, Results
from .notes import notes_of
from .paper import paper_tables

Item = TypeVar("Item")
Mark = Literal["", "best", "second"]

NOTHING = "–"
AVERAGE = "Avg"
# A published number is ranked only where the data set here is the paper's: as many images, within 1 % (CLIVE is 1162
# or 1169, as its training images are left out or not).
SAME_SIZE = 0.01


@dataclass(frozen=True)
class Value:
    """A cell as it is printed: three decimals, "undefined" or a dash; its 95 % interval, where there is one."""

    text: str
    interval: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Line:
    """A row: `values` are one a column, then the average. `published`: the paper's, not measured here."""

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
    """`spans` are the groups of data sets over `columns`, (name, number of columns); the average is after them.

    A table of one data set has no average, and its lines one value.
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
        return (*(column.name for column in self.columns), *([AVERAGE] if self.averaged else []))


def layout(results: Results) -> Table:
    """The table of `results`: data sets by group, an SRCC and a PLCC block, methods by group, the best two marked.

    The paper's groups come first, in its order; within a group all is in the order of the suite.

    Best (bold) and second (underlined) are those of a column by its printed digits, equals together, where at least
    two can be compared. A published row takes part where the data set here has the paper's size.
    """
    spanning = dict.fromkeys(
        [*(c.group for c in paper_tables().columns), *(c.group for c in results.columns)]
    )
    columns = _grouped(results.columns, list(spanning), lambda column: column.group)
    shown = {"SRCC": "srcc", "PLCC": "plcc" if results.plcc == "raw" else "plcc_logistic"}
    blocks = tuple(_block(results, columns, name, field) for name, field in shown.items())
    spans = tuple(
        (group, len(list(members)))
        for group, members in groupby(columns, lambda column: column.group)
    )
    return Table(results.title, spans, tuple(columns), blocks, tuple(notes_of(results, columns)))


def comparable(column: Column) -> bool:
    """Whether published numbers of the paper's column are of as many images as the data set here has."""
    sizes = {each.name: each.images for each in paper_tables().columns}
    return (
        column.column is not None
        and abs(column.n - sizes[column.column]) <= SAME_SIZE * sizes[column.column]
    )


def _block(results: Results, columns: Sequence[Column], name: str, field: str) -> Block:
    measured = [(result.group, _measured(result, columns, field)) for result in results.methods]
    published = [_published(method, columns, name) for method in results.paper]
    # A published row stands under the measured one of its name, the others at the end of their group.
    beside = {line.name: (group, line) for group, line in published}
    rows: list[tuple[str, Line]] = []
    for group, line in measured:
        rows.append((group, line))
        if line.name in beside:
            rows.append((group, beside.pop(line.name)[1]))
    rows += beside.values()
    order = dict.fromkeys(
        [*(row.group for row in paper_tables().rows), *(group for group, _ in rows)]
    )
    rows = _grouped(rows, list(order), lambda row: row[0])
    lines = _marked([line for _, line in rows], [comparable(column) for column in columns])
    groups = groupby(zip((group for group, _ in rows), lines, strict=True), lambda row: row[0])
    return Block(
        name, tuple((group, tuple(line for _, line in members)) for group, members in groups)
    )


def _grouped(
    items: Iterable[Item], order: Sequence[str], group: Callable[[Item], str]
) -> list[Item]:
    """Items of one group together, groups in the order of their first place in `order`, each in its own order."""
    return sorted(items, key=lambda item: order.index(group(item)))


def _measured(result: Result, columns: Sequence[Column], field: str) -> Line:
    agreements = [
        cell.agreement for c in columns if (cell := result.measured.get(c.name)) and cell.agreement
    ]
    estimates = {
        name: getattr(cell.agreement, field)
        for name, cell in result.measured.items()
        if cell.agreement
    }
    values = [_value(estimates.get(column.name)) for column in columns]
    if len(columns) > 1:
        complete = len(agreements) == len(columns)
        mean = getattr(average(agreements), field) if complete else None
        values.append(Value(NOTHING) if mean is None or isnan(mean.value) else _value(mean))
    return Line(result.name, False, tuple(values), result.problem)


def _value(estimate: Estimate | None) -> Value:
    if estimate is None:
        return Value(NOTHING)
    if isnan(estimate.value):
        return Value("undefined")
    return Value(
        _printed(estimate.value),
        "" if isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}",
    )


def _printed(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _published(method: str, columns: Sequence[Column], coefficient: str) -> tuple[str, Line]:
    tables = paper_tables()
    row = tables.published(method)[coefficient]
    cells = dict(zip((column.name for column in tables.columns), row.cells, strict=True))
    numbers = [cells[column.column] if column.column is not None else None for column in columns]
    values = [Value(NOTHING if number is None else _printed(float(number))) for number in numbers]
    if len(columns) > 1:
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            values.append(Value(NOTHING))
        else:  # over all eight, what the paper prints
            mean = row.average if len(known) == len(row.cells) else sum(known) / len(known)
            values.append(Value(_printed(float(mean))))
    return row.group, Line(method, True, tuple(values))


def _marked(lines: Sequence[Line], same: Sequence[bool]) -> list[Line]:
    """`lines` with the best two of each column marked; `same` says where published lines count."""
    marks: list[dict[str, Mark]] = []  # of each column: printed number -> mark
    counts = [*same, all(same)]  # the average's too
    for place in range(len(lines[0].values)):
        ranked = [
            line.values[place].text
            for line in lines
            if (counts[place] or not line.published)
            and line.values[place].text not in (NOTHING, "undefined")
        ]
        best = sorted(set(ranked), key=float, reverse=True)[:2] if len(ranked) > 1 else []
        marks.append(dict(zip(best, ("best", "second"), strict=False)))

    def marked(line: Line) -> Line:
        values = [
            replace(
                value,
                mark=marks[place].get(value.text, "")
                if counts[place] or not line.published
                else "",
            )
            for place, value in enumerate(line.values)
        ]
        return replace(line, values=tuple(values))

    return [marked(line) for line in lines]
