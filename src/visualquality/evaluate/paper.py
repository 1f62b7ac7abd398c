"""The paper's Tables 2, 3 and 4, to set published numbers beside measured ones."""

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
    """A row as printed: `cells` in [-1, 1], one for each column by its name, and the printed `average`.

    `coefficient` is SRCC or PLCC. Decimals, since the digits that were printed count: 0.43 is not 0.430.
    """

    table: int
    coefficient: str
    group: str
    method: str
    cells: dict[str, Decimal]
    average: Decimal


@dataclass(frozen=True)
class PaperTables:
    """The `columns` by their names, in the order of the tables, and all rows."""

    columns: dict[str, PaperColumn]
    rows: tuple[PaperRow, ...]

    def methods(self, table: int) -> tuple[str, ...]:
        """The methods of one table, in its order."""
        return tuple(dict.fromkeys(row.method for row in self.rows if row.table == table))

    def published(self, method: str) -> dict[str, PaperRow]:
        """SRCC and PLCC of a method of Table 2 or 4; what is in both agrees. Raises KeyError for another name."""
        rows = [row for row in self.rows if row.table in (TABLE_2, TABLE_4)]
        found = {row.coefficient: row for row in rows if row.method == method}
        if not found:
            raise KeyError(method)
        return found


@cache
def paper_tables() -> PaperTables:
    """The tables that come with the package."""
    text = files(__package__).joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    # BaseLoader leaves numbers as text, with the digits that were printed.
    tree = yaml.load(text, Loader=yaml.BaseLoader)
    columns = {}
    for column in tree["columns"]:
        column["images"] = int(column["images"])
        columns[column["name"]] = PaperColumn(**column)
    rows = []
    for table in tree["tables"]:
        # Table 3 has no SRCC.
        for coefficient in ("SRCC", "PLCC"):
            for group, methods in table.get(coefficient, {}).items():
                for method, printed in methods.items():
                    # The last number of a row is its average.
                    *numbers, average = map(Decimal, printed)
                    cells = dict(zip(columns, numbers, strict=True))
                    number = int(table["number"])
                    rows.append(PaperRow(number, coefficient, group, method, cells, average))
    return PaperTables(columns, tuple(rows))
