"""Reading in workers changes nothing but the time."""

import itertools
import multiprocessing
import os
import time

import torch

from conftest import picture
from visualquality.models.load import load
from visualquality.score.prepare import AHEAD, WORKERS, Preparation, Prepared, Question, prepare_all


def preparation(model_folder) -> Preparation:
    processor = load(str(model_folder("nano")), device="cpu").processor
    return Preparation(processor, (Question("Rate it."), Question("Again.", opening=(5, 6, 7))))


def test_order_content_and_faults_are_those_of_a_plain_loop(model_folder, tmp_path):
    paths = []
    for index in range(9):
        paths.append(tmp_path / f"{index}.png")
        picture(index, (64 + 32 * (index % 3), 64)).save(paths[-1])
    paths.insert(6, tmp_path / "none.png")
    made = preparation(model_folder)
    here, there = list(map(made, paths)), list(prepare_all(made, paths, inline=3))
    assert [p.name for p in there] == [str(p) for p in paths]
    assert "none.png" in there[6].problem
    assert there[6].prompts == ()
    for a, b in zip(here, there, strict=True):
        assert (a.digest, a.problem) == (b.digest, b.problem)
        for mine, theirs in zip(a.prompts, b.prompts, strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    first, second = here[0].prompts
    assert second["input_ids"].tolist()[-3:] == [5, 6, 7]
    assert first["input_ids"].tolist()[-3:] != [5, 6, 7]
    assert multiprocessing.active_children() == []


def test_sources_may_be_endless_and_are_not_read_far_ahead(model_folder):
    read = []

    def endless():
        for index in itertools.count():
            read.append(index)
            yield picture(0, (40, 40))

    prepared = prepare_all(preparation(model_folder), endless(), inline=2)
    assert [next(prepared).problem for _ in range(5)] == [None] * 5
    assert len(read) <= 5 + AHEAD * WORKERS + 1
    prepared.close()
    assert multiprocessing.active_children() == []  # stopping early leaves nobody behind


def who_prepares(seconds: float) -> Prepared:
    time.sleep(seconds)
    return Prepared(str(os.getpid()), "", ())


def test_workers_start_at_the_first_image_that_is_slow():
    sleeps = [0.0, 0.0, 0.0, 0.2, 0.0, 0.0]
    by = list(prepare_all(who_prepares, sleeps, inline=1, quick=0.1))
    assert [p.name == str(os.getpid()) for p in by] == [True] * 4 + [False] * 2
    assert all(
        p.name != str(os.getpid()) for p in list(prepare_all(who_prepares, sleeps, inline=1))[1:]
    )


def test_an_image_that_the_processor_refuses_is_a_problem_of_its_own(model_folder):
    made = Preparation(
        load(str(model_folder("qwen2_5_vl")), device="cpu").processor, (Question("Rate it."),)
    )
    thin, fine = made(picture(0, (6000, 20))), made(picture(0, (60, 60)))
    assert "the model cannot take it (absolute aspect ratio" in thin.problem
    assert fine.problem is None
