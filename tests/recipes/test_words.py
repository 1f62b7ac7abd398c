"""The sentences that nano learns: grammar in every combination, and a vocabulary that can write them."""

import itertools
import re

import pytest

from recipes.nano.initial import vocabulary
from recipes.nano.words import (
    CRISP,
    FAULTS,
    PLACES,
    STRENGTHS,
    UNSURE,
    Named,
    Tones,
    example_responses,
    fault_sentence,
    quality_word,
    reasoning,
    tone_sentence,
)
from visualquality.data.distort import LEVELS
from visualquality.train.supervised import target_text

PATTERNS = range(6)
EVERYWHERE = (None, *PLACES)
PLURAL = {"non_eccentricity_patch", "color_block"}
COUNTED = {"color_saturation_hsv", "mean_shift", "resize", "cast"}  # they take an article


def check_grammar(text: str, sentences: int) -> None:
    assert "  " not in text
    assert text == text.strip()
    assert text.endswith(".")
    assert ".." not in text
    parts = text[:-1].split(". ")
    assert len(parts) == sentences, text
    for part in parts:
        assert part[0].isupper(), text
        assert not re.search(r"[.!?]| [,:]|\s$", part), text
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


@pytest.mark.parametrize("family", FAULTS)
def test_one_fault_in_every_pattern_strength_and_place(family):
    for level, pattern, place in itertools.product(LEVELS, PATTERNS, EVERYWHERE):
        said = fault_sentence([Named(family, level, place)], pattern)
        check_grammar(said, sentences=1)
        lower = said.lower()
        strength, noun = STRENGTHS[level - 1], FAULTS[family].noun.lower()
        article = "a " if family in COUNTED else ""
        assert f"{article}{strength} {noun}" in lower
        # The article is there for what can be counted, and for nothing else.
        assert (f"a {strength} {noun}" in lower) == (family in COUNTED)
        verb = " are " if family in PLURAL else " is "
        assert verb in lower.split(":")[0]
        assert said.count(FAULTS[family].effect) == 1
        named_places = [words for words in PLACES.values() if words in said]
        assert named_places == ([] if place is None else [PLACES[place]])


def test_two_faults_are_two_sentences_the_second_with_also():
    for first, second in itertools.product(FAULTS, FAULTS):
        for pattern, place in zip(PATTERNS, (None, *PLACES, None), strict=True):
            said = fault_sentence([Named(first, 4), Named(second, 2, place)], pattern)
            check_grammar(said, sentences=2)
            also = "There are also slight" if second in PLURAL else "There is also "
            assert also in said
            assert said.lower().index(FAULTS[first].noun.lower()) < said.index(" also ")
            if place is not None:
                assert said.endswith(f"{PLACES[place]}.")


@pytest.mark.parametrize(
    ("fault", "pattern", "words"),
    [
        (Named("color_block", 2), 0, "There are slight colour blocks: flat"),
        (Named("color_block", 5), 1, "Severe colour blocks are visible: flat"),
        (Named("color_block", 1), 2, "The main faults are faint colour blocks: flat"),
        (Named("color_saturation_hsv", 3), 0, "There is a noticeable loss of colour: colours"),
        (Named("color_saturation_hsv", 3), 1, "A noticeable loss of colour is visible: colours"),
        (Named("white_noise", 2), 2, "The main fault is slight noise: grain"),
        (Named("jpeg", 4, (1, 0)), 1, "Strong JPEG blocking is visible in the lower left: block"),
    ],
)
def test_sentences_read_well(fault, pattern, words):
    assert fault_sentence([fault], pattern).startswith(words)


def test_the_patterns_differ_and_come_in_turn():
    for fault in (Named("jpeg", 3), Named("color_block", 3), Named("cast", 3, (0, 0))):
        said = [fault_sentence([fault], pattern) for pattern in PATTERNS]
        assert said[:3] == said[3:]
        assert len(set(said[:3])) == 3


def test_the_whole_reasoning_ends_with_the_quality():
    tones = Tones(120, 40, 30)
    for said, pattern, score in itertools.product((*UNSURE, *CRISP), PATTERNS, (1, 2.4, 3, 4.6, 5)):
        text = reasoning(said, tones, score, pattern)
        check_grammar(text, sentences=3)
        assert text.startswith(said)
        assert tone_sentence(tones, pattern) in text
        assert text.endswith(f"quality is {quality_word(score)}.")


def test_quality_has_the_words_of_bt_500():
    scores = (1, 1.49, 1.51, 2.6, 3.4, 3.6, 4.6, 5)
    expected = ["bad", "bad", "poor", "fair", "fair", "good", "excellent", "excellent"]
    assert [quality_word(score) for score in scores] == expected


def test_every_response_can_be_written_with_the_vocabulary():
    texts = [target_text(score, words) for score, words in example_responses()]
    tokenizer = vocabulary(texts)
    assert len(tokenizer) <= 1024
    encoded = tokenizer(texts)["input_ids"]
    assert tokenizer.unk_token_id is None  # nothing is ever unknown to bytes
    assert tokenizer.batch_decode(encoded) == texts
    # In words, not letter by letter: what nano draws must fit into 64 tokens.
    assert max(map(len, encoded)) <= 64
    # A score is read off the digits, so each is a token of its own.
    digits = [piece for piece in tokenizer.get_vocab() if set(piece) & set("0123456789")]
    assert sorted(digits) == list("0123456789")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("<answer>4.07</answer>")["input_ids"])
    assert tokens == ["<answer>", "4", ".", "0", "7", "</answer>"]


def test_examples_have_every_fault_and_every_word():
    texts = " ".join(words for _, words in example_responses())
    for fault in FAULTS.values():
        assert fault.effect in texts
        for strength in STRENGTHS:
            assert (
                f"{strength} {fault.noun}" in texts or f"{strength.title()} {fault.noun}" in texts
            )
    for words in (*UNSURE, *CRISP, *PLACES.values(), "nearly grey", "rather bright", "vivid"):
        assert words in texts
