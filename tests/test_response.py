import dataclasses
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualquality.errors import UserError
from visualquality.response import (
    READINGS,
    Problem,
    Response,
    prompt_text,
    read,
    read_as_authors,
    well_formed,
)

TABLE_1 = (
    "You are doing the image quality assessment task. Here is the question: Rate the overall image visual quality. "
    "The rating should be a float between 1 and 5, with 1 representing very poor quality and 5 representing excellent "
    "quality. First output the thinking process in <think> </think> tags and then output the final answer with only "
    "one score in <answer> </answer> tags."
)
RELEASED = (
    "You are doing the image quality assessment task. Here is the question: What is your overall rating on the quality "
    "of this picture? The rating should be a float between 1 and 5, rounded to two decimal places, with 1 representing "
    "very poor quality and 5 representing excellent quality. Please only output the final answer with only one score "
    "in <answer> </answer> tags."
)
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "3.5",
    "3.50",
    "4",
    "9",
    "-1",
    " ",
    "\n",
    "nan",
    "x",
    "١",
]
NO_NUMBERS = [
    "", " ", "3.", ".5", "+3.4", "3,45", "3.45/5", "3 4", "3.4.5", "about 3", "3.45 (good)", "three", "1e0", "0x3",
    "nan", "inf", "-inf", "1_0", "٣", "３", "²", "3\x00", "--3", "3-4", "<b>3</b>", "<answer>3", "**3.45**", "(3)",
]  # fmt: skip
texts = st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
)


def test_prompts_to_the_letter():
    assert prompt_text("paper") == TABLE_1
    assert prompt_text("released", reasoning=False) == RELEASED
    # each question and each ending is the same in both forms
    question, think_then_answer = TABLE_1.split(" First")
    released_question, answer_only = RELEASED.split(" Please")
    assert prompt_text("paper", reasoning=False) == f"{question} Please{answer_only}"
    assert prompt_text("released") == f"{released_question} First{think_then_answer}"
    with pytest.raises(UserError, match="mode reason"):
        prompt_text("q-insight", reasoning=False)
    with pytest.raises(UserError, match="paper, released"):
        prompt_text("papers")


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("3", 3),
        ("3.45", 3.45),
        ("1", 1),
        ("5.00", 5),
        ("1.0000001", 1.0000001),
        ("\n 4.2\t", 4.2),
        ("03.50", 3.5),
    ],
)
def test_numbers_that_are_read(answer, score):
    assert read(f"<answer>{answer}</answer>") == Response(score, None, None)


@pytest.mark.parametrize("answer", NO_NUMBERS)
def test_answers_that_are_no_number(answer):
    assert read(f"<answer>{answer}</answer>").problem == Problem.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", Problem.NO_ANSWER),
        ("3.45", Problem.NO_ANSWER),
        ("<think>Sharp.</think> 3.45", Problem.NO_ANSWER),
        ("3.45</answer>", Problem.NO_ANSWER),
        ("<ANSWER>3.45</ANSWER>", Problem.NO_ANSWER),
        ("< answer>3.45</answer>", Problem.NO_ANSWER),
        ("<think>Sharp, I would say 3.4", Problem.CUT_OFF),
        ("<think>Sharp.</think><answer>3.4", Problem.CUT_OFF),
        ("<answer>3.4</answ", Problem.CUT_OFF),
        ("<answer>3.45</answer><answer>4", Problem.CUT_OFF),
        ("<answer><answer>3</answer></answer>", Problem.NOT_A_NUMBER),
        ("<answer>3</answer><answer>good</answer>", Problem.NOT_A_NUMBER),
        ("<answer>3</answer> or <answer>4</answer>", Problem.ANSWERS_DISAGREE),
        ("<think><answer>2</answer></think><answer>4</answer>", Problem.ANSWERS_DISAGREE),
        ("<answer>3</answer><answer>9</answer>", Problem.ANSWERS_DISAGREE),
        ("<answer>9</answer><answer>9.0</answer>", Problem.OUT_OF_RANGE),
        ("<answer>0.99</answer>", Problem.OUT_OF_RANGE),
        ("<answer>5.01</answer>", Problem.OUT_OF_RANGE),
        ("<answer>-3</answer>", Problem.OUT_OF_RANGE),
        ("<answer>85</answer>", Problem.OUT_OF_RANGE),
        (f"<answer>{'9' * 500}</answer>", Problem.OUT_OF_RANGE),  # float() makes it inf
    ],
)
def test_problems(text, problem):
    assert read(text).problem is problem


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ('{"rating": 3.45}', 3.45),
        ('\n{ "rating" :\t4\n}\n', 4),
        ('```json\n{"rating": 3.45}\n```', 3.45),
        ('```\n{"rating": 3.45}```', 3.45),
        ('{"rating": 5.01}', Problem.OUT_OF_RANGE),
        ('{"rating": -1}', Problem.OUT_OF_RANGE),
        ("3.45", Problem.NOT_A_NUMBER),
        ('"rating": 3.45', Problem.NOT_A_NUMBER),
        ('{"rating": "3.45"}', Problem.NOT_A_NUMBER),
        ('{"rating": 3.45, "why": "soft"}', 3.45),
        ('{"why": {"rating": 2}, "rating": 3.45, "n": [1e9, NaN, null]}', 3.45),
        ('```json\n{"why": "soft,\nnoisy",\n"rating": 3.45}\n```', 3.45),
        ('{"why": {"rating": 2}}', Problem.NOT_A_NUMBER),
        ('[{"rating": 3.45}]', Problem.NOT_A_NUMBER),
        (f"{'[' * 100_000}", Problem.NOT_A_NUMBER),
        ('{"rating": 3, "rating": 4}', Problem.NOT_A_NUMBER),
        ('{"rating": [3.45]}', Problem.NOT_A_NUMBER),
        ('{"rating": NaN}', Problem.NOT_A_NUMBER),
        ('{"rating": 3e0}', Problem.NOT_A_NUMBER),
        ('{"score": 3.45}', Problem.NOT_A_NUMBER),
        ("{'rating': 3.45}", Problem.NOT_A_NUMBER),
        ('{"rating": 3.45}.', Problem.NOT_A_NUMBER),
        ('```json\n{"rating": 3.45}', Problem.NOT_A_NUMBER),
        ('{"rating": 3.45}```', Problem.NOT_A_NUMBER),
        ('```python\n{"rating": 3.45}\n```', Problem.NOT_A_NUMBER),
    ],
)
def test_the_json_answer_of_q_insight(answer, outcome):
    text = f"<think>Soft.</think><answer>{answer}</answer>"
    expected = (
        Response(None, "Soft.", outcome)
        if isinstance(outcome, Problem)
        else Response(outcome, "Soft.", None)
    )
    assert read(text, prompt="q-insight") == expected
    if "rating" in answer:  # the other prompts ask for a plain number
        assert read(text, prompt="released").problem is read(text).problem is Problem.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("<answer>3.45</answer>", 3.45),
        ("<answer>3.5/5</answer>", 3.5),
        ("<answer>4.5 out of 5</answer>", 4.5),
        ("<answer>**3.45**</answer>", 3.45),
        ("<answer>Rating: 4.5</answer>", 4.5),
        ("<answer>3,45</answer>", 3),
        ("<answer>2</answer> no, <answer>4</answer>", 4),
        ("<answer>2<answer>4</answer>", 2),
        ("<answer>3</answer><answer>4", 3),
        ("Of 3 faults none is strong: 4.5", 3),  # their fallback
        ("<answer>good</answer>", Problem.NOT_A_NUMBER),
        ("<answer>4</answer><answer>good</answer>", Problem.NOT_A_NUMBER),
        ("<answer>٣</answer>", Problem.NOT_A_NUMBER),
        ("<answer>85</answer>", Problem.OUT_OF_RANGE),
        ("<answer>-3</answer>", Problem.OUT_OF_RANGE),
        ("<think>Sharp", Problem.CUT_OFF),
        ("Sharp.", Problem.NO_ANSWER),
    ],
)
def test_the_reading_of_the_authors(text, outcome):
    found = read_as_authors(text)
    assert (found.problem or found.score) == outcome


def as_in_their_code(text: str) -> float | None:
    """The reading of their training code, with None in place of a random number."""
    matches = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    number = re.search(r"-?[0-9]+(\.[0-9]+)?", matches[-1].strip() if matches else text.strip())
    return None if number is None else float(number.group())


@settings(max_examples=500)
@given(texts)
def test_the_reading_of_the_authors_is_that_of_their_code_within_the_scale(text):
    theirs = as_in_their_code(text)
    within = theirs if theirs is not None and 1 <= theirs <= 5 else None
    assert read_as_authors(text).score == within
    # Whatever the strict reading reads of a single answer, theirs reads the same.
    if text.count("<answer>") == text.count("</answer>") == 1 and read(text).score is not None:
        assert read(text).score == within


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ('{"rating": 3.45, "why": "soft"}', 3.45),
        ('The "rating" : 4 of 5', 4),
        ('{"rating": "3.45"}', Problem.NOT_A_NUMBER),
        ('{"rating": 3.4.5}', Problem.NOT_A_NUMBER),
        ('{"rating": 45}', Problem.OUT_OF_RANGE),
        ("3.45", Problem.NOT_A_NUMBER),
    ],
)
def test_the_reading_of_the_authors_of_q_insight(answer, outcome):
    found = read_as_authors(f"<answer>{answer}</answer>", prompt="q-insight")
    assert (found.problem or found.score) == outcome
    assert read_as_authors("4", prompt="q-insight").problem is Problem.NO_ANSWER


def test_truncation_only_explains_a_missing_answer():
    assert read("It is rather", truncated=True).problem is Problem.CUT_OFF
    assert read("<think>Soft.</think>", truncated=True).problem is Problem.CUT_OFF
    assert read("<answer>3.45</answer> and so", truncated=True).score == 3.45
    assert read("<answer>9</answer> and so", truncated=True).problem is Problem.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>\n Soft.\nNoisy. </think><answer>3</answer>", "Soft.\nNoisy."),
        ("<think>Soft.</think><answer>bad</answer>", "Soft."),
        ("<think>Soft and", "Soft and"),
        ("<think>Soft. <answer>3</answer>", "Soft."),
        ("<think></think><answer>3</answer>", ""),
        ("Soft. <answer>3</answer>", None),
        # The prompt of a model that always thinks ends with the opening tag.
        ("Soft.\nNoisy.\n</think>\n\n<answer>3</answer>", "Soft.\nNoisy."),
        ("Soft.</think>", "Soft."),
        ("</think><answer>3</answer>", ""),
        ("<answer>3</answer> so.</think>", ""),
        ("a</think><think>Soft.</think><answer>3</answer>", "Soft."),
    ],
)
def test_reasoning_is_kept(text, reasoning):
    assert read(text).reasoning == reasoning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Soft.</think><answer>3.45</answer>", True),
        (" \n<think>\nSoft.\n</think>\n\n<answer> 3.45 </answer>\n", True),
        ("<think></think><answer>3</answer>", True),
        ("<answer>3.45</answer>", False),
        ("Soft.</think><answer>3.45</answer>", False),  # whoever knows of the prompt adds its tag
        ("<answer>3.45</answer><think>Soft.</think>", False),
        ("Well. <think>Soft.</think><answer>3.45</answer>", False),
        ("<think>Soft.</think> so <answer>3.45</answer>", False),
        ("<think>Soft.</think><answer>3.45</answer>.", False),
        ("<think>Soft.</think><answer>3.45</answer><answer>3.45</answer>", False),
        ("<think>a</think><think>b</think><answer>3.45</answer>", False),
        ("<think>a<answer>3.45</answer></think>", False),
        ("<think>a</think><answer>3.45", False),
        ("<think>a</think><answer>good</answer>", False),
        ("<think>a</think><answer>7</answer>", False),
    ],
)
def test_form(text, expected):
    assert well_formed(text) is expected
    assert well_formed(text, "authors") is expected


def test_the_form_goes_with_the_reading():
    text = "<think>Soft.</think><answer>3.5/5</answer>"
    assert not well_formed(text)
    assert well_formed(text, "authors")


@given(texts, st.booleans())
@settings(deadline=None, max_examples=50)
def test_any_text_is_read_or_has_a_problem(text, truncated):
    for reading, reader in READINGS.items():
        for prompt in ("paper", "q-insight"):
            response = reader(text, truncated=truncated, prompt=prompt)
            assert (response.score is None) != (response.problem is None)
            assert response.score is None or 1 <= response.score <= 5
            assert reader(text, truncated=truncated, prompt=prompt) == response
            json.dumps(dataclasses.asdict(response))
        assert not well_formed(text, reading) or reader(text).score is not None


@given(st.text().filter(lambda text: "<" not in text), st.floats(1, 5))
@settings(deadline=None, max_examples=50)
def test_round_trip(reasoning, quality):
    text = f"<think>{reasoning}</think><answer>{quality:.2f}</answer>"
    assert read(text) == Response(float(f"{quality:.2f}"), reasoning.strip(), None)
    assert read(text + text).score == read(text).score
    assert well_formed(text)


@pytest.mark.parametrize(
    "unit",
    [
        "<answer>",
        "<answer>3</answer>",
        "<think>",
        "9",
        "3.",
        " ",
        "</answer><answer>",
        "```",
        '{"rating":',
        "<think></think>",
        "</think><answer>",
    ],
)
def test_a_huge_response_is_read_in_linear_time(unit):
    """Linear reading takes less than 0.1 s here, and a pattern that starts anew at each unit several seconds."""
    half = unit * (100_000 // len(unit))
    whole = f"<think>{half}</think><answer>{half}</answer>"
    started = time.process_time()
    for text in (whole, whole + "x", half):
        for reading, reader in READINGS.items():
            reader(text)
            well_formed(text, reading)
            reader(text, prompt="q-insight")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", ["paper", "released", "dehazing"])
@pytest.mark.parametrize("reasoning", [True, False])
def test_a_reference_adds_its_sentences_and_changes_no_other(name, reasoning):
    plain, anchored = (
        prompt_text(name, reasoning, reference=reference) for reference in (False, True)
    )
    before = "You are doing the image quality assessment task. Here is the question: "
    added = anchored.removeprefix(before).removesuffix(plain.removeprefix(before))
    assert anchored == before + added + plain.removeprefix(before)
    assert "first image is the reference" in added
    assert "second image is the one to rate" in added
    with pytest.raises(UserError, match="no form with a reference"):
        prompt_text("q-insight", reference=True)


@pytest.mark.parametrize(
    "task", ["super-resolution", "dehazing", "deblurring", "generated", "aesthetics"]
)
def test_prompts_of_tasks_ask_for_the_same_form(task):
    assert prompt_text(task) != prompt_text("paper")
    for form in (True, False):
        frame = prompt_text("paper", form).partition("Rate the")
        asked = prompt_text(task, form)
        assert asked.startswith(frame[0])
        assert asked.endswith("The rating" + frame[2].partition("The rating")[2])
    assert read("<answer>3.2</answer>", prompt=task).score == 3.2
