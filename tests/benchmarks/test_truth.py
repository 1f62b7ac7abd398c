"""Which faults a reasoning names: the share of true ones is counted from it."""

import itertools

import pytest
from truth import all_named, named, named_faults

from recipes.nano.words import (
    CRISP,
    FAULTS,
    PLACES,
    UNSURE,
    Named,
    Tones,
    fault_sentence,
    reasoning,
)
from visualquality.data.distort import LEVELS

TONES = Tones(120, 40, 30)
PATTERNS = range(6)


@pytest.mark.parametrize("family", FAULTS)
def test_the_fault_is_found_whatever_the_pattern_its_level_and_its_place(family):
    for level, pattern, place in itertools.product(LEVELS, PATTERNS, (None, *PLACES)):
        said = fault_sentence([Named(family, level, place)], pattern)
        text = reasoning(said, TONES, 2.5, pattern)
        assert named(text) == family, text
        assert named_faults(text) == [(family, level)], text


def test_two_faults_are_found_in_their_order():
    for first, second in itertools.permutations(FAULTS, 2):
        for pattern in PATTERNS:
            faults = [Named(first, 4), Named(second, 2, (0, 1))]
            text = reasoning(fault_sentence(faults, pattern), TONES, 2.5, pattern)
            assert named_faults(text) == [(first, 4), (second, 2)], text
            assert all_named(text) == [first, second]
            assert named(text) == first


@pytest.mark.parametrize("words", [*UNSURE, *CRISP])
def test_where_no_fault_is_named_none_is_found(words):
    for pattern in PATTERNS:
        assert named(reasoning(words, TONES, 4.5, pattern)) is None
        assert all_named(reasoning(words, TONES, 4.5, pattern)) == []


def test_words_that_only_look_like_faults_are_none():
    assert named("Colours look unnaturally strong. There is no noise and no blur.") is None
    assert named("It has severe blurriness.") is None
    assert named("") is None
