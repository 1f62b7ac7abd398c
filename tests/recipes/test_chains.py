"""Chains of damage: four pictures of one content, each worse than the one before."""

import numpy as np
import pytest
from PIL import Image

from conftest import picture
from recipes.nano import chains
from recipes.nano.chains import (
    KINDS,
    LADDERS,
    LENGTH,
    MAKERS,
    MILD,
    MILD_QUALITIES,
    UPSCALERS,
    chain,
    ladder,
    read_chains,
)
from visualquality.data.distort import LEVELS


@pytest.fixture(autouse=True)
def plain_upscalers(monkeypatch):
    """In place of the neural ones, which take seconds and packages of their own."""
    used = []

    def enlarge(index):
        def process(image):
            used.append(index)
            return image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)

        return process

    plain = tuple(enlarge(index) for index in range(UPSCALERS))
    monkeypatch.setattr(chains, "upscalers", lambda: plain)
    return used


@pytest.fixture
def pools(tmp_path):
    """Paths of clean photos and of rated ones."""
    found = []
    for kind, sizes in (("clean", [(150, 130), (128, 160)]), ("rated", [(200, 180), (140, 150)])):
        (tmp_path / kind).mkdir()
        paths = [tmp_path / kind / f"{i}.png" for i in range(len(sizes))]
        for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
            picture(seed, size).save(path)
        found.append(paths)
    return found


@pytest.fixture
def folder(tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def pixels(folder, pictures):
    return [np.asarray(Image.open(folder / one.image)) for one in pictures]


def test_a_chain_depends_on_its_number_alone(pools, folder):
    pytest.importorskip("av")  # a chain may draw a video codec
    forward, backward = folder("forward"), folder("backward")
    numbers = range(len(KINDS))
    first = {n: chain(pools, forward, n) for n in numbers}
    again = {n: chain(pools, backward, n) for n in reversed(numbers)}
    for number in numbers:
        assert first[number] == again[number]
        for one, other in zip(
            pixels(forward, first[number]), pixels(backward, again[number]), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_kinds_come_in_turn_and_places_are_0_to_3(pools, folder):
    pytest.importorskip("av")
    where = folder("chains")
    assert set(KINDS) == set(MAKERS)
    for number in range(len(KINDS)):
        pictures = chain(pools, where, number)
        assert [one.place for one in pictures] == list(range(LENGTH))
        assert {one.kind for one in pictures} == {KINDS[number]}
        assert {one.chain for one in pictures} == {number}
        assert len({one.image for one in pictures}) == LENGTH
        images = pixels(where, pictures)
        assert not np.array_equal(images[0], images[1])
        assert not np.array_equal(images[1], images[3])  # it goes on
        assert not np.array_equal(images[0], images[3])
        if KINDS[number] == "smaller":
            sides = [image.shape[0] for image in images]
            assert sides == sorted(sides, reverse=True)
            assert len(set(sides)) == LENGTH
        else:
            assert len({image.shape for image in images}) == 1


def test_chains_further_on_begin_the_turn_anew(pools, folder):
    pytest.importorskip("av")
    number = 3 * len(KINDS) + KINDS.index("smaller")
    assert chain(pools, folder("chains"), number)[0].kind == "smaller"


def test_the_kind_learned_enlarges_what_was_made_smaller(pools, folder, plain_upscalers):
    where = folder("chains")
    number = KINDS.index("learned")
    pictures = chain(pools, where, number)
    assert len(plain_upscalers) == LENGTH - 1
    assert len(set(plain_upscalers)) == 1  # one upscaler a chain, so that places can be compared
    images = [image.astype(int) for image in pixels(where, pictures)]
    distances = [np.abs(image - images[0]).mean() for image in images]
    assert distances == sorted(distances)


def test_what_an_interrupted_run_left_is_kept(pools, folder, monkeypatch):
    where = folder("chains")
    number = KINDS.index("learned")
    before = chain(pools, where, number)
    files = {one.image: (where / one.image).read_bytes() for one in before}

    def never():
        raise AssertionError("the pictures are there already")

    monkeypatch.setattr(chains, "upscalers", never)
    assert chain(pools, where, number) == before
    # A chain that is not whole is made again.
    (where / before[2].image).unlink()
    monkeypatch.undo()
    monkeypatch.setattr(
        chains, "upscalers", lambda: (lambda image: image.resize((9, 9)),) * UPSCALERS
    )
    chain(pools, where, number)
    assert (where / before[2].image).exists()
    assert files[before[0].image] == (where / before[0].image).read_bytes()


def test_the_list_is_read_with_whole_paths(tmp_path):
    (tmp_path / "chains.csv").write_text(
        'image,chain,place,kind,how\n00007_2.png,7,2,smaller,"[""jpeg""]"\n'
    )
    (one,) = read_chains(tmp_path / "chains.csv")
    assert one.image == str(tmp_path / "images" / "00007_2.png")
    assert (one.chain, one.place, one.kind, one.how) == (7, 2, "smaller", '["jpeg"]')


def test_a_ladder_has_one_family_at_every_level(pools, folder):
    where, again = folder("ladders"), folder("again")
    for name in ("gaussian_blur", "white_noise", MILD):
        number = LADDERS.index(name)
        pictures = ladder(pools, where, number)
        assert {one.how for one in pictures} == {f'["{name}"]'}
        steps = len(MILD_QUALITIES) if name == MILD else len(LEVELS)
        assert [one.place for one in pictures] == list(range(steps + 1))
        assert ladder(pools, where, number + len(LADDERS))[0].how == pictures[0].how
        images = [image.astype(float) for image in pixels(where, pictures)]
        distances = [np.abs(image - images[0]).mean() for image in images]
        assert distances == sorted(set(distances)), name
        assert ladder(pools, again, number) == pictures
        for one, other in zip(images, pixels(again, pictures), strict=True):
            np.testing.assert_array_equal(one, other)
