"""The paper's Tables 2, 3 and 4, to set published numbers beside measured ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files

import yaml

TABLE_2, TABLE_4 = 2, 4


@dataclass(frozen=True)
class PaperColumn:
    """A column of the tables: its heading, data set and group, and how many images the paper tested."""

    name: str
    dataset: str
    group: str
    images: int


@dataclass(frozen=True)
class PaperRow:
    """A row as printed: eight `cells` in [-1, 1] in the order of the columns, and the printed `average`.

    `coefficient` is SRCC or PLCC. Decimals, since the digits that were printed count: 0.43 is not 0.430.
    """

    table: int
    coefficient: str
    group: str
    method: str
    cells: tuple[Decimal, ...]
    average: Decimal

    @property
    def mean(self) -> Decimal:
        """The exact mean of the cells."""
        return sum(self.cells, Decimal(0)) / len(self.cells)


@dataclass(frozen=True)
class PaperTables:
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]

    def methods(self, table: int) -> tuple[str, ...]:
        """The methods of one table, in its order."""
        return tuple(dict.fromkeys(row.method for row in self.rows if row.table == table))

    def published(self, method: str) -> dict[str, PaperRow]:
        """SRCC and PLCC of a method of Table 2 or 4; what is in both agrees. Raises KeyError for another name."""
        found = {
            r.coefficient: r
            for r in self.rows
            if r.method == method and r.table in (TABLE_2, TABLE_4)
        }
        if not found:
            raise KeyError(method)
        return found


@cache
def paper_tables() -> PaperTables:
    """The tables that come with the package."""
    text = files(__package__).joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    # BaseLoader leaves numbers as text, with the digits that were printed.
    tree = yaml.load(text, Loader=yaml.BaseLoader)
    columns = tuple(
        PaperColumn(**{**column, "images": int(column["images"])}) for column in tree["columns"]
    )
    rows = []
    for table in tree["tables"]:
        for coefficient in ("SRCC", "PLCC"):
            for group, methods in table.get(coefficient, {}).items():
                for method, printed in methods.items():
                    # The last number of a row is its average.
                    *cells, average = map(Decimal, printed)
                    if len(cells) != len(columns):
                        raise ValueError(
                            f"Table {table['number']}, {coefficient}, {method}: {len(cells)} cells"
                        )
                    rows.append(
                        PaperRow(
                            int(table["number"]), coefficient, group, method, tuple(cells), average
                        )
                    )
    return PaperTables(columns, tuple(rows))


def mismatches(rows: Iterable[PaperRow]) -> list[PaperRow]:
    """The rows whose printed average is not the mean of their cells, rounded to the digits that are printed.

    An average of three digits may be 0.0005 away, one of two digits 0.005; at just that distance it may have been
    rounded either way.
    """
    return [row for row in rows if abs(row.mean - row.average) > _half_a_digit(row.average)]


def _half_a_digit(printed: Decimal) -> Decimal:
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int), "a printed number is finite"
    return Decimal(5).scaleb(exponent - 1)
