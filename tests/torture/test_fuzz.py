"""The short form of fuzz.py: each target with its seeds, their mutations and random bytes, the same ones every time."""

import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from torture import fuzz, targets
from torture.targets import SEEDS, TARGETS, mutated

QUICK = settings(
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
)


def examples(name: str) -> st.SearchStrategy[bytes]:
    seed = st.integers(0, 2**32 - 1).map(random.Random)
    changed = st.builds(mutated, st.sampled_from(SEEDS[name]), seed)
    return st.one_of(changed, st.binary(max_size=300))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "FOLDER", tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold(name):
    for data in SEEDS[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_read_raises_nothing_but_user_error(name):
    @settings(QUICK, max_examples=25 if name in ("exports", "recipes", "sheets") else 60)
    @given(examples(name))
    @example(b"")
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@settings(QUICK, max_examples=200)
@given(st.text(alphabet="<>/answerthink0123456789.-+ \n", max_size=80))
def test_responses_of_the_tags_letters(text):
    targets.reading_of_responses(text.encode())


@settings(QUICK, max_examples=200)
@given(st.text(max_size=20), st.sampled_from(["", "=", "+", "-", "@", "'", "./", "\t", "＝"]))
def test_cells_of_any_text(text, start):
    targets.cells_of_csv((start + text).encode("utf-8", "replace"))


def test_a_target_that_fails_is_told(monkeypatch):
    """The fuzzer itself must be able to fail."""

    def broken(data: bytes) -> None:
        raise KeyError("here")

    monkeypatch.setitem(TARGETS, "cells", broken)
    with pytest.raises(KeyError):
        test_what_is_read_raises_nothing_but_user_error("cells")


def test_every_target_has_seeds_and_is_run():
    assert tuple(TARGETS) == tuple(SEEDS) == fuzz.NAMES
