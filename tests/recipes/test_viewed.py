"""The faults that a viewer saw: both tables can be read, and mean something."""

from pathlib import Path

import pytest

from recipes.nano.viewed import MEANS, read_viewed
from recipes.nano.words import FAULTS

ROOT = Path(__file__).parents[2]
TABLES = ("recipes/nano/viewed_faults.csv", "benchmarks/viewed.csv")


@pytest.mark.parametrize("table", TABLES)
def test_every_fault_of_a_table_is_one_that_is_known(table):
    viewed = read_viewed(ROOT / table, Path("photos"))
    assert len(viewed) >= 160
    for one in viewed:
        assert {one.fault, *one.also} <= MEANS.keys(), one
        assert one.fault not in one.also, one
        assert one.families() <= one.possible() <= FAULTS.keys()


def test_no_photo_is_in_both_tables():
    """What nano learns from is not what its words are tested on."""
    images = [{one.image for one in read_viewed(ROOT / table, Path("photos"))} for table in TABLES]
    assert not images[0] & images[1]


def test_every_meaning_is_a_fault_that_nano_can_name():
    for families in MEANS.values():
        assert families <= FAULTS.keys()


def test_rows(tmp_path):
    (tmp_path / "t.csv").write_text(
        "image,fault,also\na (1).jpg,blur,noise; none\nb.jpg,none,\nc.jpg,underexposure, \n"
    )
    first, second, third = read_viewed(tmp_path / "t.csv", Path("x"))
    assert first.image == Path("x/a (1).jpg")
    assert first.also == ("noise", "none")
    assert first.families() == MEANS["blur"]
    assert first.possible() == MEANS["blur"] | MEANS["noise"]
    assert first.none_is_true()
    assert (second.families(), second.possible()) == (set(), set())
    assert second.none_is_true()
    assert third.also == ()
    assert not third.none_is_true()
