"""The results of a benchmark in the layout of the paper's Table 2: rows of cells, and notes.

`layout` is a pure function from results to a `Table`, which `render` writes in each format.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from math import isnan
from typing import NamedTuple

from .agreement import COEFFICIENTS, Estimate
from .benchmark import Column, Result, Results
from .paper import PaperRow, paper_tables

NOTHING = "–"
UNDEFINED = "undefined"
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


class Cell(NamedTuple):
    """A text of the table, with the 95 % interval of a number where it has one.

    `style` names what it is: in the first column method, n, measured, published, card (figures of a model's makers) or
    unavailable; over a column heading; for a number best or second; over `span` columns spans (a group of data sets),
    block (SRCC or PLCC) or group (a group of methods). Each format has its own way to show a style.
    """

    text: str
    style: str = ""
    span: int = 1
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A method: a cell for each column, then the average.

    `published`: the paper's numbers, not measured here. `of_card`: those that the makers of a model publish, not
    measured here either, and never ranked: they may be of other images and of other settings.
    """

    name: str
    published: bool
    cells: list[Cell]
    problem: str | None = None
    of_card: bool = False

    @property
    def style(self) -> str:
        if self.of_card:
            return "card"
        if self.published:
            return "published"
        return "unavailable" if self.problem else "measured"


@dataclass(frozen=True)
class Table:
    """`spans` are the groups of data sets over `columns`, (name, number of columns); the average comes after them.

    `blocks` are SRCC and PLCC, each with its lines by group of methods. A table of one data set has no average, and
    its lines have one cell.
    """

    title: str
    spans: list[tuple[str, int]]
    columns: list[Column]
    blocks: dict[str, dict[str, list[Line]]]
    notes: list[str]

    @property
    def averaged(self) -> bool:
        return len(self.columns) > 1

    def grid(self) -> Iterator[list[Cell]]:
        """The table row by row; the spans of each row sum to the same width.

        First three rows of headings: groups of data sets, data sets, numbers of images. A row of one cell is the
        heading of a block or of a group.
        """
        columns, last = self.columns, [Cell("")] if self.averaged else []
        width = 1 + len(columns) + len(last)
        yield [Cell(""), *(Cell(name, "spans", count) for name, count in self.spans), *last]
        headings = [column.name for column in columns] + ["Avg" for _ in last]
        # "n" is the number of images; an average has none.
        yield [Cell("Method", "method"), *(Cell(name, "heading") for name in headings)]
        yield [Cell("n", "n"), *(Cell(str(column.n)) for column in columns), *last]
        for block, groups in self.blocks.items():
            yield [Cell(block, "block", width)]
            for group, lines in groups.items():
                yield [Cell(group, "group", width)]
                for line in lines:
                    yield [Cell(line.name, line.style), *line.cells]


def layout(results: Results) -> Table:
    """The table of `results`: data sets by group, an SRCC and a PLCC block, methods by group, the best two marked.

    The paper's groups come first, in its order; within a group, data sets and methods keep the order of the suite.

    Best (bold) and second (underlined) are those of a column by the printed digits, equal numbers together, where at
    least two can be compared. A published row is ranked where the data set here has the paper's size.
    """
    groups = [column.group for column in paper_tables().columns.values()]
    groups += [column.group for column in results.datasets]
    # Sorting is stable: within a group the order of the suite stays.
    columns = sorted(results.datasets, key=lambda column: groups.index(column.group))
    members = groupby(columns, lambda column: column.group)
    spans = [(group, len(list(of_group))) for group, of_group in members]
    plcc, _ = PLCC[results.plcc]
    blocks = {
        "SRCC": _block(results, columns, "SRCC", "srcc"),
        "PLCC": _block(results, columns, "PLCC", plcc),
    }
    return Table(results.title, spans, columns, blocks, _notes(results, columns))


def comparable(column: Column) -> bool:
    """Whether the data set here has as many images as the paper's column has."""
    if column.column is None:
        return False
    # Other images of the same data set would make another test: their numbers are shown, not ranked.
    size = paper_tables().columns[column.column].images
    return abs(column.n - size) <= SAME_SIZE * size


def _block(
    results: Results, columns: Sequence[Column], name: str, field: str
) -> dict[str, list[Line]]:
    # Those that are left at the end have no measured row of their name.
    published = {method: paper_tables().published(method)[name] for method in results.paper}
    order = [row.group for row in paper_tables().rows]
    order += [result.group for result in results.methods]
    groups: dict[str, list[Line]] = {group: [] for group in order}
    for result in results.methods:
        groups[result.group].append(_measured(result, columns, field))
        # A published row stands under the measured one of its name, the others at the end of their group.
        if result.name in published:
            groups[result.group].append(_published(published.pop(result.name), columns))
        if result.published:
            groups[result.group].append(_of_card(result, columns, name))
    for row in published.values():
        groups[row.group].append(_published(row, columns))
    _mark_best([line for lines in groups.values() for line in lines], columns)
    return {group: lines for group, lines in groups.items() if lines}


def _measured(result: Result, columns: Sequence[Column], field: str) -> Line:
    cells = []
    for column in columns:
        found = result.measured[column.name].agreement if result.measured else None
        cells.append(_cell(getattr(found, field)) if found else Cell(NOTHING))
    if len(columns) > 1:
        mean = _cell(getattr(result.average, field)) if result.average else Cell(NOTHING)
        # Undefined on one data set is undefined on average, which is no news.
        cells.append(Cell(NOTHING) if mean.text == UNDEFINED else mean)
    return Line(result.name, False, cells, result.problem)


def _cell(estimate: Estimate) -> Cell:
    if isnan(estimate.value):
        return Cell(UNDEFINED)
    interval = "" if isnan(estimate.low) else f"{estimate.low:.2f} to {estimate.high:.2f}"
    return Cell(_printed(estimate.value), interval=interval)


def _printed(value: float) -> str:
    # A small negative number would be printed with a sign that means nothing.
    return f"{value:.3f}".replace("-0.000", "0.000")


def _published(row: PaperRow, columns: Sequence[Column]) -> Line:
    numbers = [row.cells[column.column] if column.column else None for column in columns]
    if len(columns) > 1:
        measured = [number for number in numbers if number is not None]
        mean = None
        if len(measured) == len(columns):
            # Over all eight data sets, the average is what the paper prints.
            whole = len(measured) == len(row.cells)
            mean = row.average if whole else sum(measured, Decimal(0)) / len(measured)
        numbers.append(mean)
    cells = [Cell(NOTHING if each is None else _printed(float(each))) for each in numbers]
    return Line(row.method, True, cells)


def _of_card(result: Result, columns: Sequence[Column], coefficient: str) -> Line:
    cells = []
    for column in columns:
        figure = result.published.get(column.name, {}).get(coefficient.lower())
        cells.append(Cell(NOTHING if figure is None else _printed(figure)))
    if len(columns) > 1:
        cells.append(Cell(NOTHING))
    return Line(result.name, False, cells, of_card=True)


def _mark_best(lines: Sequence[Line], columns: Sequence[Column]) -> None:
    """Give the best two cells of each column their style."""
    ranked = [comparable(column) for column in columns]
    if len(columns) > 1:
        # Published averages are ranked where all their data sets are.
        ranked.append(all(ranked))
    for place, with_published in enumerate(ranked):
        compared = [
            line
            for line in lines
            if (with_published or not line.published)
            and not line.of_card
            and line.cells[place].text not in (NOTHING, UNDEFINED)
        ]
        if len(compared) < 2:
            continue
        # By the printed digits: what looks equal is marked alike.
        texts = sorted({line.cells[place].text for line in compared}, key=float, reverse=True)
        styles = dict(zip(texts, ("best", "second"), strict=False))
        for line in compared:
            cell = line.cells[place]
            line.cells[place] = cell._replace(style=styles.get(cell.text, ""))


def _notes(results: Results, columns: Sequence[Column]) -> list[str]:
    """The sentences under the table: whose numbers these are, and of which images. The weightiest come first."""
    # Whole rows first, then cells, then single coefficients.
    unavailable, missing, undefined = [], [], []
    plcc, about_plcc = PLCC[results.plcc]
    # Problems of coefficients that are not shown are left out.
    hidden = tuple(f"{name}:" for key, name in COEFFICIENTS.items() if key not in ("srcc", plcc))
    for result in results.methods:
        if result.problem:
            unavailable.append(f"{result.name} is unavailable: {result.problem}")
        for name, cell in result.measured.items():
            found, where = cell.agreement, f"{result.name} on {name}"
            if found is None:
                missing.append(f"{result.name} has no number on {name}: {cell.problem}")
                continue
            if found.n_unreadable:
                share = f"{found.n_unreadable} of {found.n + found.n_unreadable} images"
                missing.append(f"{where}: {share} have no score: {cell.problem}")
            shown = [problem for problem in found.problems if not problem.startswith(hidden)]
            undefined += [f"{where}: {problem}" for problem in shown]
    unknown = "; the paper does not say which its PLCC is" if results.paper else ""
    notes = [*unavailable, *missing, *undefined]
    notes.append(f"{about_plcc}{unknown}. Best in bold, second underlined.")
    if results.paper:
        notes += _notes_on_published(columns)
    if any(result.published for result in results.methods):
        notes.append(
            "Rows marked “published” are figures that the makers of a model publish: they were not measured here, and "
            "are not ranked."
        )
    notes += [
        f"{result.name} was trained on {result.trained_on}."
        for result in results.methods
        if result.trained_on
    ]
    if len(columns) > 1:
        notes.append(
            f"Avg is the plain mean over the {len(columns)} data sets, given where all of them are there."
        )
    return notes


def _notes_on_published(columns: Sequence[Column]) -> list[str]:
    notes = [
        "Rows marked “paper” are the numbers that the paper prints, of its own runs: they were not measured here."
    ]
    sizes = []
    for column in columns:
        if column.column is not None:
            images = paper_tables().columns[column.column].images
            if column.n != images:
                sizes.append(f"{column.name} {column.n} of {images}")
    if sizes:
        notes.append(
            f"The images here are not all, or not only, those of the paper: {', '.join(sizes)}. Where they differ by "
            "more than 1 %, published numbers are shown beside the measured ones but not ranked with them."
        )
    return notes
