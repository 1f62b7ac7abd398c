"""benchmarks/viewed.py: what counts as right, close or wrong, and which words about tones are true."""

from pathlib import Path

import numpy as np
import pytest
import viewed
from PIL import Image

from recipes.nano.words import BRIGHT, EXPOSURE, tone_sentence, tones_in


def photo(fault: str, *also: str, path: Path = Path("photo.jpg")) -> viewed.Photo:
    return viewed.Photo("set", path, fault, frozenset(also))


@pytest.mark.parametrize(
    ("fault", "also", "named", "expected"),
    [
        ("blur", (), ["lens_blur"], "right"),
        ("blur", (), ["white_noise"], "wrong"),
        ("blur", ("noise",), ["white_noise"], "close"),
        ("blur", ("noise",), ["white_noise", "lens_blur"], "close"),  # the first one counts
        ("blur", (), [], "wrong"),
        ("blur", ("none",), [], "close"),
        ("none", (), [], "right"),
        ("none", (), ["darken"], "wrong"),
        ("none", ("underexposure",), ["darken"], "close"),
    ],
)
def test_a_named_fault_is_right_close_or_wrong(fault, also, named, expected):
    assert viewed.verdict(photo(fault, *also), named) == expected


def test_near_a_border_between_two_words_both_are_true():
    (border, below), (_, above) = EXPOSURE[0], EXPOSURE[1]
    assert viewed.true_words(border * 1.05, EXPOSURE, BRIGHT) == {below, above}
    assert viewed.true_words(border * 0.95, EXPOSURE, BRIGHT) == {below, above}
    assert viewed.true_words(border * 0.8, EXPOSURE, BRIGHT) == {below}
    assert viewed.true_words(250, EXPOSURE, BRIGHT) == {BRIGHT}


def test_false_words_about_tones_are_found_in_every_pattern(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((64, 64, 3), 230, dtype=np.uint8)).save(path)
    grey = photo("none", path=path)
    for pattern in (0, 1):
        said = tone_sentence(tones_in(Image.open(path)), pattern)
        assert viewed.false_tones(grey, said) == []
        assert viewed.false_tones(grey, said.replace("bright", "dark")) == ["exposure"]
        assert viewed.false_tones(grey, said.replace("low", "high")) == ["contrast"]
        assert viewed.false_tones(grey, said.replace("nearly grey", "vivid")) == ["colours"]
    assert viewed.false_tones(grey, "") == ["exposure", "contrast", "colours"]


def test_every_photo_of_the_table_is_found_in_its_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    with viewed.VIEWED.open(encoding="utf-8") as file:
        lines = file.read().splitlines()[1:]
    names = [line.split(",")[1] for line in lines if line.startswith("PCUID,")]
    for name in names:
        (tmp_path / "deep" / name).touch()
    found = viewed.photos({"PCUID": tmp_path})
    assert [one.path.name for one in found] == names
    assert len(found) == 20
    (tmp_path / "deep" / names[3]).unlink()
    with pytest.raises(viewed.UserError, match="get the whole set"):
        viewed.photos({"PCUID": tmp_path})


def test_the_summary_counts_shares_by_set():
    rows = [
        {"set": "a", "verdict": "right", "false tones": []},
        {"set": "a", "verdict": "wrong", "false tones": ["contrast"]},
        {"set": "b", "verdict": "close", "false tones": []},
    ]
    found = viewed.summary(rows)
    assert found["a"] == {"n": 2, "right": 0.5, "right or close": 0.5, "tones all true": 0.5}
    assert found["all"]["right or close"] == pytest.approx(2 / 3)
