"""The paper's tables: what was typed in agrees with itself and with the paper's own marks."""

from dataclasses import replace
from decimal import Decimal

import pytest

from visualquality.evaluate.paper import mismatches, paper_tables

TABLES = paper_tables()


def test_every_row_has_eight_numbers_and_the_tables_their_rows():
    assert len(TABLES.columns) == 8
    assert all(
        len(row.cells) == 8 and all(-1 < cell < 1 for cell in row.cells) for row in TABLES.rows
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
    wrong = replace(
        row, cells=tuple(c + Decimal("0.01") * (i == place) for i, c in enumerate(row.cells))
    )
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
