"""The paper's tables: what was typed in agrees with itself and with the paper's own marks."""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import pytest

from visualquality.evaluate.paper import PaperRow, paper_tables

TABLES = paper_tables()


def mismatches(rows: Iterable[PaperRow]) -> list[PaperRow]:
    """The rows whose printed average is not the mean of their cells, rounded to the digits that are printed.

    An average of three digits may be 0.0005 away, one of two digits 0.005; at just that distance it may have been
    rounded either way.
    """
    found = []
    for row in rows:
        mean = sum(row.cells.values(), Decimal(0)) / len(row.cells)
        exponent = row.average.as_tuple().exponent
        assert isinstance(exponent, int), "a printed number is finite"
        if abs(mean - row.average) > Decimal(5).scaleb(exponent - 1):
            found.append(row)
    return found


def test_every_row_has_eight_numbers_and_the_tables_their_rows():
    assert len(TABLES.columns) == 8
    assert all(
        len(row.cells) == 8 and all(-1 < cell < 1 for cell in row.cells.values())
        for row in TABLES.rows
    )
    counts = {
        (n, c): sum(r.table == n and r.coefficient == c for r in TABLES.rows)
        for n in (2, 3, 4)
        for c in ("SRCC", "PLCC")
    }
    assert counts == {
        (2, "SRCC"): 13,
        (2, "PLCC"): 13,
        (3, "SRCC"): 0,
        (3, "PLCC"): 3,
        (4, "SRCC"): 5,
        (4, "PLCC"): 5,
    }
    assert list(dict.fromkeys(row.group for row in TABLES.rows)) == [
        "Handcrafted",
        "Discriminative Deep-Learning-based",
        "VLM-based",
    ]


def test_each_printed_average_is_the_mean_of_its_row():
    assert mismatches(TABLES.rows) == []
    # One is printed with two digits, and would be 0.001 off with three.
    short = [
        (row.table, row.coefficient, row.method)
        for row in TABLES.rows
        if row.average.as_tuple().exponent != -3
    ]
    assert short == [(2, "SRCC", "BRISQUE")]
    as_three = [replace(row, average=row.average.quantize(Decimal("0.001"))) for row in TABLES.rows]
    assert [(row.method, str(row.average)) for row in mismatches(as_three)] == [
        ("BRISQUE", "0.430")
    ]


@pytest.mark.parametrize("place", range(8))
def test_a_slip_of_the_pen_is_found(place):
    row = TABLES.rows[0]
    cells = dict(row.cells)
    cells[list(cells)[place]] += Decimal("0.01")
    wrong = replace(row, cells=cells)
    assert mismatches([row, wrong]) == [wrong]


def test_rows_that_two_tables_share_agree():
    def row(table, coefficient, method):
        (found,) = [
            r
            for r in TABLES.rows
            if (r.table, r.coefficient, r.method) == (table, coefficient, method)
        ]
        return found.cells, found.average

    shared = set(TABLES.methods(2)) & set(TABLES.methods(4))
    assert shared == {"Q-Insight", "VisualQuality-R1"}
    for method in shared:
        for coefficient in ("SRCC", "PLCC"):
            assert row(2, coefficient, method) == row(4, coefficient, method)
    assert row(3, "PLCC", "K = 6") == row(2, "PLCC", "VisualQuality-R1")  # K = 6 is the default


def test_published_rows_are_had_by_name():
    assert str(TABLES.published("VisualQuality-R1†")["PLCC"].average) == "0.831"
    assert set(TABLES.published("Binary Reward")) == {"SRCC", "PLCC"}
    with pytest.raises(KeyError):
        TABLES.published("K = 4")
