"""Ratings: what was read, and nothing else."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from visualquality.errors import UserError
from visualquality.response import READINGS
from visualquality.score.rating import Rating, compare

BY = {"model": "nano", "mode": "reasoning", "seed": 0, "seconds": 0.5}


def response(score, reasoning=None, problem=None):
    return SimpleNamespace(score=score, reasoning=reasoning, problem=problem, text=None)


def rated(image: str, *scores: float) -> Rating:
    return Rating.from_samples(image, [response(score) for score in scores], **BY)


def test_a_rating_is_the_mean_std_and_nearest_words_of_what_could_be_read():
    rating = Rating.from_samples(
        "a.png",
        [
            response(4.7, "best"),
            response(None, "lost", "no_answer"),
            response(3.1, "first"),
            response(3.2, "last"),
        ],
        **BY,
    )
    assert rating.score == 3.6667
    assert rating.std == pytest.approx(
        math.sqrt(sum((x - 11 / 3) ** 2 for x in (4.7, 3.1, 3.2)) / 2)
    )
    assert rating.samples == (4.7, None, 3.1, 3.2)
    assert (rating.reasoning, rating.problem) == ("last", None)
    for one, other in (
        (3.1, 3.2),
        (3.2, 3.1),
        (1.1, 1.4),
        (2.3, 2.2),
    ):  # equally far, but not in binary
        answers = [response(one, "first"), response(other, "second")]
        assert Rating.from_samples("a", answers, **BY).reasoning == "first"
    assert rated("a", 3.0).std is None


def test_of_expected_scores_the_std_is_that_of_drawn_answers():
    """The law of total variance: draw words, then digits about the score that these words expect."""
    scores, spreads = (2.0, 2.5, 3.5), (0.2, 0.4, 0.1)
    answers = [response(score) for score in scores]
    answers.insert(1, response(None, problem="cut_off"))
    variances = [spread**2 for spread in spreads]
    rating = Rating.from_samples("a", answers, variances=variances, **BY)
    assert (rating.score, rating.samples) == (2.6667, (2.0, None, 2.5, 3.5))
    # Unbiased between, and the mean within; a simulation with as many words as samples, many times over.
    rng = np.random.default_rng(0)
    words = rng.normal(3, 0.5, (200_000, 3))
    digits = words + rng.normal(0, 1, words.shape) * spreads
    between = words.var(axis=1, ddof=1).mean()
    assert digits.var(axis=1, ddof=1).mean() == pytest.approx(
        between + np.mean(variances), rel=0.01
    )
    assert rating.std**2 == pytest.approx(np.var(scores, ddof=1) + np.mean(variances))
    # One answer has the deviation of its digits, and equal ones have one as well.
    one = Rating.from_samples("a", [response(1.02)], variances=[0.01], **BY)
    assert one.std == pytest.approx(0.1)
    same = Rating.from_samples("a", [response(1.02)] * 2, variances=[0.01, 0.03], **BY)
    assert same.std == pytest.approx(math.sqrt(0.02))
    none = Rating.from_samples("a", [response(None, problem="cut_off")], variances=[], **BY)
    assert none.std is None


def test_no_readable_answer_is_no_score_and_says_why():
    rating = Rating.from_samples(
        "a", [response(None, "x", p) for p in ("cut_off", "no_answer", "no_answer")], **BY
    )
    assert (rating.score, rating.std, rating.samples, rating.reasoning) == (
        None,
        None,
        (None,) * 3,
        None,
    )
    assert rating.problem == "no readable answer in 3 samples: no_answer"
    assert Rating.failed("a", "not an image", **BY).problem == "not an image"


@pytest.mark.parametrize(
    "change",
    [
        {"score": math.nan},
        {"std": math.inf},
        {"samples": (1.0, math.nan)},
        {"seconds": math.nan},
        {"score": None},
    ],
)
def test_a_rating_cannot_hold_a_made_up_number(change):
    with pytest.raises(ValueError, match="a rating h"):
        replace(rated("a", 3.0, 4.0), **change)
    with pytest.raises(UserError, match="wrong value"):
        Rating.from_dict(json.loads(json.dumps({**rated("a", 3.0, 4.0).to_dict(), **change})))


READABLE, BY_AUTHORS, BY_NONE = (f"<answer>{text}</answer>" for text in ("3.5", "3.5/5", "good"))


@pytest.mark.parametrize(
    ("texts", "readable"),
    [
        ([READABLE, READABLE], None),  # both readings read all of them
        ([READABLE, BY_AUTHORS, BY_NONE], {"strict": 1, "authors": 2}),
        ([BY_NONE], {"strict": 0, "authors": 0}),
        ([""], {"strict": 0, "authors": 0}),
    ],
)
@pytest.mark.parametrize("reading", READINGS)
def test_a_rating_tells_how_many_answers_each_reading_reads(texts, readable, reading):
    rating = Rating.from_samples("a", [READINGS[reading](text) for text in texts], **BY)
    assert rating.readable == readable
    row = json.loads(json.dumps(rating.to_dict()))
    assert ("readable" in row) == (readable is not None)
    assert Rating.from_dict(row) == rating
    hash(rating)
    for wrong in ([], {}, {"strict": 1}, {"strict": 1, "authors": "2"}):
        with pytest.raises(UserError, match="readable"):
            Rating.from_dict({**row, "readable": wrong})


def test_the_answers_of_q_insight_are_counted_by_its_form():
    texts = ['<answer>{"rating": 3}</answer>', "<answer>3</answer>"]
    answers = [READINGS["strict"](text, prompt="q-insight") for text in texts]
    rating = Rating.from_samples("a", answers, prompt="q-insight", **BY)
    assert rating.readable == {"strict": 1, "authors": 1}


def test_comparing_is_thurstones_probability():
    a, b = rated("a", 4.0, 3.0), rated("b", 2.0, 3.0, 4.0)  # variances ½ and 1, no calibration
    assert compare(a, b) == pytest.approx(0.6584543, abs=1e-6)  # Φ(0.5 / √1.5)
    assert compare(a, b) + compare(b, a) == pytest.approx(1)
    assert compare(a, a) == 0.5
    with pytest.raises(UserError, match=r"x.png has no score.*not an image"):
        compare(a, Rating.failed("x.png", "not an image", **BY))


@pytest.mark.parametrize("std", [None, 0.0])
def test_comparing_without_a_known_deviation_is_never_certain(std):
    def one(image: str, score: float) -> Rating:
        return Rating(image, score, std, (score,), None, None, **BY, prompt="paper")

    slightly, greatly = (compare(one("c", score), one("d", 1.0)) for score in (1.01, 5.0))
    # A hundredth of a point says next to nothing: Φ(0.01 / √(2 · 0.1²)).
    assert slightly == pytest.approx(0.5282, abs=1e-4)
    assert greatly == 0.999
    assert compare(one("d", 1.0), one("c", 5.0)) == pytest.approx(0.001)


def with_interval(image: str, low: float, mos: float, high: float, **change) -> Rating:
    rating = Rating(image, 3.0, 0.01, (), None, None, **BY, prompt="paper")
    return replace(rating, low=low, high=high, coverage=0.9, expected_mos=mos, **change)


def test_comparing_calibrated_ratings_is_about_the_human_rating():
    z = 1.6448536  # 90 % of a normal distribution are within so many standard deviations
    a, b = with_interval("a", 3.0, 3.5, 4.0), with_interval("b", 2.0, 3.0, 4.0)
    assert a.mos_std == pytest.approx(0.5 / z)
    # Φ(0.5 / √(0.5² + 1²) · z), though both scores are the same and their std is tiny.
    assert compare(a, b) == pytest.approx(0.7690, abs=1e-4)
    assert compare(a, b) + compare(b, a) == pytest.approx(1)
    # A side that was cut at the end of the scale does not make an image surer.
    assert with_interval("c", 3.5, 4.5, 5.0).mos_std == pytest.approx(1 / z)
    best, worst = with_interval("d", 4.9, 4.9, 4.9), with_interval("e", 1.1, 1.1, 1.1)
    assert compare(best, worst) == 0.999
    # One without an interval: both by their scores.
    assert compare(a, replace(rated("f", 3.0, 3.0), prompt="paper")) == 0.5


def test_a_classic_has_no_probability_without_a_calibration():
    a, b = (
        Rating(name, s, None, (s,), None, None, "niqe", "direct", 0, 0.1)
        for name, s in (("a", -3.0), ("b", -9.0))
    )
    with pytest.raises(UserError, match=r"niqe gives a .*without an uncertainty.*calibrate"):
        compare(a, b)
    known = {"low": 3.0, "high": 4.0, "coverage": 0.9, "expected_mos": 3.5}
    assert compare(replace(a, **known), replace(b, **known)) == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"low": None},
        {"coverage": None},
        {"expected_mos": None},
        {"low": 3.9},
        {"high": 5.1},
        {"low": 0.9},
        {"coverage": 1.0},
        {"high": math.nan},
        {"score": None, "problem": "lost"},
    ],
)
def test_an_interval_is_whole_and_in_order(change):
    good = with_interval("a", 3.0, 3.5, 4.0)
    assert Rating.from_dict(json.loads(json.dumps(good.to_dict()))) == good
    with pytest.raises(ValueError, match=r"come together|an interval is|finite"):
        replace(good, **change)


def test_files_of_older_versions_are_read():
    row = rated("a", 3.0, 4.0).to_dict()
    for name in ("prompt", "low", "high", "coverage", "expected_mos"):
        del row[name]
    assert Rating.from_dict(row) == rated("a", 3.0, 4.0)


def test_half_a_character_from_a_server_does_not_reach_a_file():
    rating = Rating.from_samples("a", [response(3.0, "soft \ud83d")], **BY)
    assert rating.reasoning == "soft ?"
    assert Rating.from_dict(json.loads(json.dumps(rating.to_dict()))) == rating


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("image", wrong) for wrong in (None, [], {}, ["x"], 3)],
        *[("reasoning", wrong) for wrong in (3, [], {"a": 1})],
        *[("score", wrong) for wrong in ("3", True, [], 10**400)],
        *[("std", wrong) for wrong in ("x", 10**400)],
        *[("seconds", wrong) for wrong in (None, 10**400, "1")],
        *[("samples", wrong) for wrong in (None, 3, "34", {}, [[1]], ["3"], [True], [10**400])],
        *[("seed", wrong) for wrong in (None, 1.5, "1")],
        *[("model", None), ("mode", []), ("low", 10**400), ("coverage", "x")],
    ],
)
def test_a_row_of_a_file_with_a_value_of_another_kind_is_one_sentence(field, value):
    row = Rating("a.png", 3.0, None, (3.0,), None, None, "m", "reason", 0, 0.1).to_dict()
    with pytest.raises(UserError, match="holds a wrong value") as found:
        Rating.from_dict({**row, field: value})
    assert len(str(found.value)) < 500
