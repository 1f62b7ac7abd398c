"""A data set of one's own: one function of under 30 lines and one entry, for Python and the command line."""

import inspect
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from source_forms import draw, put
from visualquality.cli.data import app
from visualquality.data.manifest import Manifest
from visualquality.data.row import Row
from visualquality.data.sources import SOURCES, Source, import_dataset
from visualquality.data.sources.distribution import Distribution
from visualquality.data.sources.records import read_records
from visualquality.errors import UserError


def street2030(data: Distribution) -> Iterator[Row]:
    """`opinions.csv` (photo, grade, sd) and `photos/`: grades from 1 (best) to 6, as in German schools."""
    table = data.file("opinions.csv")
    folder = data.image_folder("photos", beside=table.parent)
    for record in read_records(data, table, "photo", "grade", "sd"):
        # The MOS is turned round, so that higher is better.
        mos = 7 - record.number("grade", 1, 6)
        split = "test" if data.split == "night" and record.text("photo")[0] == "n" else "train"
        name = folder / record.text("photo")
        yield Row(name, mos, data.name, record.number("sd", 0), split=split)


@pytest.fixture
def street(tmp_path, monkeypatch):
    source = Source(street2030, "Street 2030 from https://street.example", splits=("night",))
    monkeypatch.setitem(SOURCES, "street2030", source)
    put(tmp_path / "opinions.csv", "photo,grade,sd\nday.png,1,0.5\nnight.png,5.5,1\n")
    draw(tmp_path / "photos", "day.png", "night.png")
    return tmp_path


def test_it_takes_one_short_function():
    assert len(inspect.getsource(street2030).splitlines()) < 30


def test_from_python(street):
    rows = import_dataset("street2030", street, split="night").manifest.rows
    photos = (street / "photos").resolve()
    assert rows == (
        Row(photos / "day.png", 6, "street2030", 0.5, split="train"),
        Row(photos / "night.png", 1.5, "street2030", 1, split="test"),
    )


def test_from_the_command_line(street):
    output = street / "manifest.csv"
    arguments = ["import", "street2030", str(street), "-o", str(output), "--split", "night"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert Manifest.read(output) == import_dataset("street2030", street, split="night").manifest


def test_its_errors_are_those_of_every_source(street):
    with pytest.raises(UserError, match="unknown split 'day' of street2030: choose night"):
        import_dataset("street2030", street, split="day")
    put(street / "opinions.csv", "photo,grade,sd\nday.png,9,0.5\n")
    with pytest.raises(
        UserError, match=r"opinions\.csv: row 2, column 'grade': 9 is not from 1 to 6"
    ):
        import_dataset("street2030", street)
    (street / "opinions.csv").unlink()
    with pytest.raises(UserError, match=r"'opinions\.csv' is neither in .*: get Street 2030 from"):
        import_dataset("street2030", street)
