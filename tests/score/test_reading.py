"""Reading in workers changes nothing but the time."""

import itertools
import multiprocessing
import os
import time

import torch

from conftest import picture
from visualquality.models.load import load
from visualquality.score import reading
from visualquality.score.reading import WORKERS, Prepared, Question, Reader, read_images


def reader(model_folder) -> Reader:
    processor = load(str(model_folder("nano")), device="cpu").processor
    return Reader(processor, (Question("Rate it."), Question("Again.", opening=(5, 6, 7))))


def test_order_content_and_faults_are_those_of_a_plain_loop(model_folder, tmp_path):
    paths = []
    for index in range(9):
        paths.append(tmp_path / f"{index}.png")
        picture(index, (64 + 32 * (index % 3), 64)).save(paths[-1])
    paths.insert(6, tmp_path / "none.png")
    made = reader(model_folder)
    here, there = (
        list(map(made, paths)),
        list(read_images(made, paths, first=3, shares_processor=False)),
    )
    assert [p.name for p in there] == [str(p) for p in paths]
    assert "none.png" in there[6].problem
    assert there[6].prompts == ()
    for a, b in zip(here, there, strict=True):
        assert (a.digest, a.problem) == (b.digest, b.problem)
        for mine, theirs in zip(a.prompts, b.prompts, strict=True):
            for part, other in ((mine.tokens, theirs.tokens), (mine.images, theirs.images)):
                assert part.keys() == other.keys()
                assert all(torch.equal(part[key], other[key]) for key in part)
    first, second = here[0].prompts
    assert second.tokens["input_ids"].tolist()[-3:] == [5, 6, 7]
    assert first.tokens["input_ids"].tolist()[-3:] != [5, 6, 7]
    assert multiprocessing.active_children() == []


def test_sources_may_be_endless_and_are_not_read_far_ahead(model_folder):
    read = []

    def endless():
        for index in itertools.count():
            read.append(index)
            yield picture(0, (40, 40))

    prepared = read_images(reader(model_folder), endless(), first=2, shares_processor=False)
    assert [next(prepared).problem for _ in range(5)] == [None] * 5
    assert len(read) <= 5 + 2 * WORKERS + 1
    prepared.close()
    assert multiprocessing.active_children() == []  # stopping early leaves nobody behind


def who_prepares(seconds: float) -> Prepared:
    time.sleep(seconds)
    return Prepared(str(os.getpid()), "", ())


def test_workers_start_at_the_first_image_that_is_slow(monkeypatch):
    monkeypatch.setattr(reading, "QUICK_SECONDS", 0.1)
    sleeps = [0.0, 0.0, 0.0, 0.2, 0.0, 0.0]
    by = list(read_images(who_prepares, sleeps, first=1, shares_processor=True))
    assert [p.name == str(os.getpid()) for p in by] == [True] * 4 + [False] * 2
    elsewhere = list(read_images(who_prepares, sleeps, first=1, shares_processor=False))
    assert [p.name == str(os.getpid()) for p in elsewhere] == [True] + [False] * 5


def test_an_image_that_the_processor_refuses_is_a_problem_of_its_own(model_folder):
    made = Reader(
        load(str(model_folder("qwen2_5_vl")), device="cpu").processor, (Question("Rate it."),)
    )
    thin, fine = made(picture(0, (6000, 20))), made(picture(0, (60, 60)))
    assert "the model cannot take it (absolute aspect ratio" in thin.problem
    assert fine.problem is None
