"""The standard deviation of ratings belongs to the scale of their mean."""

from pathlib import Path

import pytest

from visualquality.data.row import Row, std_notes


@pytest.mark.parametrize(
    ("mos", "std", "mos_range", "noted"),
    [
        ([95, 5], [0.8, 0.7], None, True),  # of 1 to 5 beside MOS of 0 to 100
        ([4.1, 1.2, 3], [12, 20, 9], None, True),  # the other way round
        ([4.1, 1.2, 3], [0.7, 0.4, 1.1], None, False),
        ([80, 20], [18, 25], None, False),
        ([0.9, 0.1], [0.2, 0.1], None, False),
        ([4.1, 4.2], [None, None], None, False),
        ([3, 3], [1, 1], None, False),  # no range to compare with
        ([4, 2], [0, 0], None, False),  # single ratings
        ([4.0, 3.6], [0.8, 0.7], (1, 5), False),  # all MOS alike, which the scale tells
        ([4.0, 2.0], [0.8, 3.1], (1, 5), True),  # no ratings of 1 to 5 are so far apart
        ([4.0, 2.0], [0.8, 2.8], (1, 5), False),  # one 1 and one 5
        ([60, 40], [0.8, 0.7], (0, 100), True),
    ],
)
def test_a_std_on_another_scale_is_noted(mos, std, mos_range, noted):
    rows = [Row(Path("a.png"), *pair) for pair in zip(mos, ["set"] * len(mos), std, strict=True)]
    found = std_notes(rows, mos_range)
    assert len(found) == noted
    assert all("set: std is from" in note and "scale of mos" in note for note in found)
