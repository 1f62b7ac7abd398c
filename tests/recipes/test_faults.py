"""Lessons: images whose faults are known, from which nano learns to name faults."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from conftest import picture
from recipes.nano import faults
from recipes.nano.faults import (
    GLOBAL,
    LOCAL,
    NONE,
    SEVERAL,
    SIDES,
    TWO,
    draw_faults,
    lesson,
    make_lessons,
    random_part,
    read_lessons,
    with_fault,
)
from recipes.nano.words import FAULTS, PLACES, Named
from visualquality.data.distort import LEVELS
from visualquality.models.nano.tower import STRIDE

DRAWN = [draw_faults(np.random.default_rng(i)) for i in range(3000)]


def image_of(size: tuple[int, int] = (131, 98)) -> Image.Image:
    return picture(5, size)


def changed(family: str, level: int, place: tuple[int, int] | None) -> np.ndarray:
    """Which pixels a fault changes."""
    if family == "hevc":
        pytest.importorskip("av")
    image = image_of()
    found = with_fault(image, Named(family, level, place), seed=3)
    assert found.size == image.size
    return (np.asarray(found) != np.asarray(image)).any(2)


@pytest.mark.parametrize("family", sorted(FAULTS.keys() - GLOBAL - SEVERAL))
def test_a_local_fault_changes_its_quarter_and_nothing_else(family):
    height, width = (side // 2 for side in image_of().size[::-1])
    for row, column in PLACES:
        found = changed(family, 4, (row, column))
        rows = slice(row * height, (row + 1) * height)
        columns = slice(column * width, (column + 1) * width)
        assert found[rows, columns].any()
        found[rows, columns] = False
        assert not found.any()


@pytest.mark.parametrize("family", FAULTS)
def test_every_fault_that_is_named_can_be_made_everywhere(family):
    found = changed(family, 5, None)
    quarters = [part for half in np.array_split(found, 2) for part in np.array_split(half, 2, 1)]
    assert all(quarter.any() for quarter in quarters) or family in SEVERAL


def test_the_stronger_of_two_faults_comes_first():
    two = [drawn for drawn in DRAWN if len(drawn) == 2]
    assert all(first.level >= second.level for first, second in two)
    assert any(first.level > second.level for first, second in two)
    assert all(first.family != second.family for first, second in two)
    assert all(fault.place is None for drawn in two for fault in drawn)


def test_shares_of_lessons_and_their_levels():
    numbers = Counter(len(drawn) for drawn in DRAWN)
    assert set(numbers) == {0, 1, 2}
    assert numbers[0] / len(DRAWN) == pytest.approx(NONE, abs=0.02)
    assert numbers[2] / len(DRAWN) == pytest.approx(TWO, abs=0.02)
    local = [drawn[0] for drawn in DRAWN if drawn and drawn[0].place is not None]
    # Some draws are of a family that has no place.
    assert 0.6 * LOCAL < len(local) / len(DRAWN) < LOCAL + 0.02
    assert {fault.place for fault in local} == set(PLACES)
    assert min(fault.level for fault in local) == 3  # a faint one in a quarter would not be seen
    assert not {fault.family for fault in local} & (GLOBAL | SEVERAL)
    everything = [fault for drawn in DRAWN for fault in drawn]
    assert {fault.family for fault in everything} == FAULTS.keys()
    assert {fault.level for fault in everything} == set(LEVELS)


@pytest.mark.parametrize("size", [(900, 600), (512, 300), (260, 257)])
def test_a_part_is_a_multiple_of_the_stride_and_the_photo_is_not_enlarged(size):
    photo = picture(0, size)
    for seed in range(20):
        part = random_part(photo, np.random.default_rng(seed))
        for side, own in zip(part.size, photo.size, strict=True):
            assert side % STRIDE == 0
            assert SIDES[0] * STRIDE <= side <= min(SIDES[1] * STRIDE, own)


def test_a_photo_smaller_than_the_smallest_part_is_taken_as_far_as_it_goes():
    part = random_part(picture(0, (300, 130)), np.random.default_rng(0))
    assert all(side % STRIDE == 0 and side > 0 for side in part.size)


@pytest.fixture
def pools(tmp_path):
    found = []
    for kind in ("clean", "rated"):
        (tmp_path / kind).mkdir()
        paths = [tmp_path / kind / f"{i}.png" for i in range(2)]
        for seed, path in enumerate(paths):
            picture(seed, (280, 260)).save(path)
        found.append(paths)
    return found


@pytest.fixture
def faults_without_video(monkeypatch):
    monkeypatch.setattr(faults, "FAULTS", {k: v for k, v in FAULTS.items() if k != "hevc"})


def test_a_lesson_depends_on_its_number_alone(pools, tmp_path, faults_without_video):
    folders = [tmp_path / name for name in ("forward", "backward")]
    for folder in folders:
        folder.mkdir()
    first = {n: lesson(pools, folders[0], n) for n in range(6)}
    again = {n: lesson(pools, folders[1], n) for n in reversed(range(6))}
    for number, one in first.items():
        assert one.faults == again[number].faults
        assert one.image.read_bytes() == again[number].image.read_bytes()
    assert len({one.image.read_bytes() for one in first.values()}) == 6


def test_of_two_faults_the_weaker_is_made_first(pools, tmp_path, monkeypatch):
    made = []
    two = (Named("white_noise", 5), Named("gaussian_blur", 2))
    monkeypatch.setattr(faults, "draw_faults", lambda rng: two)
    real = with_fault
    monkeypatch.setattr(
        faults,
        "with_fault",
        lambda image, fault, seed: made.append(fault) or real(image, fault, seed),
    )
    assert lesson(pools, tmp_path, 0).faults == two
    assert made == [two[1], two[0]]


def test_lessons_are_read_as_they_were_made(pools, tmp_path, monkeypatch, faults_without_video):
    monkeypatch.setattr(faults, "LESSONS", 12)
    console = Console(quiet=True)
    table = make_lessons(*pools, tmp_path / "lessons", console, workers=1)
    found = read_lessons(table)
    (tmp_path / "again").mkdir()
    made = [lesson(pools, tmp_path / "again", number) for number in range(12)]
    assert [one.faults for one in found] == [one.faults for one in made]
    assert any(one.faults for one in found)
    assert all(one.image.exists() for one in found)
    before = table.read_bytes()
    assert make_lessons(*pools, tmp_path / "lessons", console, workers=1) == table
    assert table.read_bytes() == before
