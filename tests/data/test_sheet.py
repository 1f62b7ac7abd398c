"""A contact sheet shows the images that it should, from the worst to the best."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualquality.data.manifest import Manifest, Row
from visualquality.data.sheet import by_mos, contact_sheet
from visualquality.errors import UserError

COLOURS = ["#c00000", "#00a000", "#0000c0", "#a0a000", "#a000a0", "#00a0a0", "#402010"]


@pytest.fixture
def swatches(tmp_path) -> Callable[..., list[Row]]:
    """Rows of images of one colour each, in the order of their MOS."""

    def make(dataset: str, colours: list[str], size: tuple[int, int] = (60, 40)) -> list[Row]:
        rows = []
        for mos, colour in enumerate(colours):
            path = tmp_path / f"{dataset}{colour}.png"
            Image.new("RGB", size, colour).save(path)
            rows.append(Row(path, float(mos), dataset))
        return rows

    return make


def shown(sheet: Path) -> list[str]:
    """The swatches' colours on a sheet, in the order of reading."""
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    places = []
    for colour in COLOURS:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        ys, xs = np.nonzero(np.abs(pixels - wanted).max(axis=2) <= 2)
        if len(ys) > 100:
            places.append((ys.min(), xs.min(), colour))
    return [colour for _, _, colour in sorted(places)]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_section_for_each_data_set_in_order_of_mos(swatches, tmp_path, suffix):
    rows = [*swatches("one", COLOURS[:4]), *swatches("two", COLOURS[4:])]
    sheet, again = tmp_path / f"new/sheet.{suffix}", tmp_path / f"again.{suffix}"
    contact_sheet(Manifest(tuple(rows)), sheet, columns=3)
    assert shown(sheet) == COLOURS
    contact_sheet(Manifest(tuple(rows[3::-1] + rows[:3:-1])), again, columns=3)
    assert again.read_bytes() == sheet.read_bytes()
    contact_sheet(Manifest(tuple(rows)), sheet, count=2, columns=3)
    assert shown(sheet) == [COLOURS[0], COLOURS[3], COLOURS[4], COLOURS[6]]
    contact_sheet(Manifest(tuple(rows)), again, count=2, columns=2)
    assert again.read_bytes() == sheet.read_bytes()  # no empty column


def test_captions_tell_mos_and_name_and_long_ones_are_cut(swatches, tmp_path):
    (row, other) = swatches("set", COLOURS[:2])
    texts = [
        row,
        Row(row.image, 0.5, "set"),
        Row(row.image, 0.0, "a set of quite another name " * 9),
    ]
    longer = tmp_path / f"{'long ' * 20}.png"
    row.image.rename(longer)
    texts = [Row(longer, own.mos, own.dataset) for own in texts] + [Row(other.image, 0.0, "set")]
    sheets = []
    for number, own in enumerate(texts):
        path = tmp_path / f"{number}.png"
        contact_sheet(Manifest((own,)), path)
        sheets.append(np.asarray(Image.open(path)))
    assert len({sheet.shape for sheet in sheets}) == 1  # no text makes the page wider
    first, *others = sheets
    for different in others:
        assert (first != different).any()
    assert all((sheet[:, -4:] == sheet[0, 0]).all() for sheet in sheets)  # nor runs over its edge


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000)])
def test_extreme_sizes(swatches, tmp_path, size):
    contact_sheet(Manifest(tuple(swatches("set", COLOURS[:1], size))), tmp_path / "sheet.png")
    assert shown(tmp_path / "sheet.png") == COLOURS[:1]


def test_refusals(swatches, tmp_path):
    rows = swatches("set", COLOURS)
    for output, options, message in [
        ("sheet.gif", {}, "neither .png nor .jpg"),
        ("sheet.png", {"count": 0}, "at least 1"),
        ("sheet.png", {"columns": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            contact_sheet(Manifest(tuple(rows)), tmp_path / output, **options)
    with pytest.raises(UserError, match="smaller count"):
        contact_sheet(Manifest(tuple(rows * 60)), tmp_path / "sheet.jpg", count=999, columns=1)
    rows[3].image.write_bytes(rows[3].image.read_bytes()[:60])
    with pytest.raises(UserError, match=rows[3].image.name):
        contact_sheet(Manifest(tuple(rows)), tmp_path / "sheet.png")
    assert not list(tmp_path.glob("sheet.*"))


@settings(deadline=None, max_examples=50)
@given(
    mos=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    count=st.integers(1, 40),
    order=st.randoms(),
)
def test_by_mos_spans_the_range_evenly(mos, count, order):
    rows = [Row(Path(f"{number}.png"), float(value), "set") for number, value in enumerate(mos)]
    chosen = by_mos(rows, count)
    assert by_mos(order.sample(rows, len(rows)), count) == chosen
    assert len(chosen) == len(set(chosen)) == min(count, len(rows))
    values = [row.mos for row in chosen]
    assert values == sorted(values)
    ranked = sorted(rows, key=lambda row: (row.mos, str(row.image)))
    ranks = [ranked.index(row) for row in chosen]
    if count > 1:
        assert (ranks[0], ranks[-1]) == (0, len(rows) - 1)
        assert max(np.diff(ranks), default=0) - min(np.diff(ranks), default=0) <= 1
    else:
        assert abs(ranks[0] - (len(rows) - 1) / 2) <= 0.5
