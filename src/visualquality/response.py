"""What a model is asked, and what it answered: the prompts, and the strict reading of a response.

A response is read or it is not: nothing is repaired, guessed or drawn at random.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from visualquality.errors import UserError

LOWEST, HIGHEST = 1.0, 5.0  # the scale that every prompt asks for, both ends included

PromptName = Literal[
    "paper",
    "released",
    "q-insight",
    "super-resolution",
    "dehazing",
    "deblurring",
    "generated",
    "aesthetics",
]
PROMPTS: tuple[PromptName, ...] = (
    "paper",
    "released",
)  # of no task in particular, and with either form

# What the inference code of Q-Insight (github.com/bytedance/Q-Insight, demo_score.py) gives its weights. The other
# prompts have no system message of their own: a model's chat template may bring one.
SYSTEM: dict[PromptName, str] = {
    "q-insight": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think><answer> answer here </answer>"
    )
}
IMAGE_LAST: frozenset[PromptName] = frozenset(
    {"q-insight"}
)  # elsewhere the image comes before the text

_QUESTIONS: dict[str, str] = {
    "paper": (
        "Rate the overall image visual quality. The rating should be a float between 1 and 5, "
        "with 1 representing very poor quality and 5 representing excellent quality."
    ),
    "released": (
        "What is your overall rating on the quality of this picture? The rating should be a float between 1 "
        "and 5, rounded to two decimal places, with 1 representing very poor quality and 5 representing "
        "excellent quality."
    ),
}
# What an application asks, in the paper's words but for what is rated (its section 5 names one fixed prompt as a
# limit). Its artefacts are named, so that a model looks for them.
_TASKS = {
    "super-resolution": (
        "visual quality of this image, which was enlarged by super-resolution. Look at sharpness, at invented or "
        "smeared texture, and at halos"
    ),
    "dehazing": (
        "visual quality of this image, from which haze was removed. Look at what haze is left, at colour and contrast, "
        "and at halos"
    ),
    "deblurring": (
        "visual quality of this image, from which blur was removed. Look at what blur is left, at ringing, and at "
        "invented texture"
    ),
    "generated": (
        "visual quality of this image, which a computer generated. Look at sharpness, at broken shapes and texture, "
        "and at how natural it looks, not at what it shows"
    ),
    "aesthetics": "aesthetic quality of this image. Look at composition, light, colour and how well it is done",
}
_QUESTIONS |= {
    name: (
        f"Rate the {what}. The rating should be a float between 1 and 5, with 1 representing very poor quality and 5 "
        "representing excellent quality."
    )
    for name, what in _TASKS.items()
}
_QUESTIONS["q-insight"] = (
    _QUESTIONS["released"]
    + ' Return the final answer in JSON format with the following keys: "rating": The score.'
)
_TASK = "You are doing the image quality assessment task. Here is the question:"
# The paper's section 5: the reference "(possibly corrupted)" is an anchor, of another size or range if need be.
_ANCHOR = (
    "The first image is the reference, which may itself be imperfect. The second image is the one to rate, against the "
    "reference. "
)
_THINK_THEN_ANSWER = (
    "First output the thinking process in <think> </think> tags and then output the final answer "
    "with only one score in <answer> </answer> tags."
)
_ANSWER_ONLY = "Please only output the final answer with only one score in <answer> </answer> tags."


def prompt_text(name: PromptName, reasoning: bool = True, *, reference: bool = False) -> str:
    """The text that goes with an image, or with a reference image and the image to rate, in this order.

    Args:
        name: "paper" is Table 1 of the paper; "released" is the question that the published weights were
            trained with; "q-insight" is that of Q-Insight's weights, which needs its `SYSTEM` message too; the others
            ask about an application, and are only as good as the model that is asked (nano knows none of them).
        reasoning: ask for the thinking process before the answer; if False, for the answer alone.
        reference: there are two images, and the second is rated against the first; the scale is the same.

    Raises:
        UserError: no prompt has this name, or "q-insight" is asked for the answer alone or against a reference, forms
            that it never had.

    >>> prompt_text("paper").startswith("You are doing the image quality assessment task.")
    True
    """
    if name not in _QUESTIONS:
        raise UserError(
            f"There is no prompt named {name!r}: choose one of {', '.join(_QUESTIONS)}."
        )
    if name == "q-insight":
        if reference:
            raise UserError(
                "The prompt q-insight has no form with a reference image: leave it out, or use another prompt."
            )
        if not reasoning:
            raise UserError(
                "The prompt q-insight always asks for reasoning: use the mode reason, or another prompt."
            )
        return _QUESTIONS[name]
    question = (_ANCHOR if reference else "") + _QUESTIONS[name]
    return f"{_TASK} {question} {_THINK_THEN_ANSWER if reasoning else _ANSWER_ONLY}"


class Problem(StrEnum):
    """Why a response has no score. The values are stable and go into result files."""

    NO_ANSWER = "no_answer"
    """No `<answer>` tag, in a response that ended by itself."""
    CUT_OFF = "cut_off"
    """The text ends before the answer does: a tag is still open, or the model ran out of tokens."""
    NOT_A_NUMBER = "not_a_number"
    """An answer that is not one plain decimal number, or not in the JSON form where the prompt asks for that."""
    ANSWERS_DISAGREE = "answers_disagree"
    """Several answers with different numbers."""
    OUT_OF_RANGE = "out_of_range"
    """A number outside [1, 5]."""


@dataclass(frozen=True)
class Response:
    """One response of a model, read. Exactly one of `score` and `problem` is None."""

    score: float | None
    """Quality in [1, 5], higher is better."""
    reasoning: str | None
    """The text within <think>, or after it if the tag was never closed; None without the tag."""
    problem: Problem | None
    """Why there is no score."""


def read(text: str, *, truncated: bool = False, prompt: PromptName = "paper") -> Response:
    """Read the score and the reasoning of a response. Never raises, in time linear in the text.

    Every `<answer>…</answer>` counts, wherever it is, and several must agree as numbers. The number must be
    all there is between the tags but for white space, in ASCII digits with at most one point and digits on
    both sides of it: "3", "3.45" and "03.50" are read; "3.", ".5", "+3", "3,45", "3/5", "3e0", "nan" and
    "three" are not. Tags are those of the prompt, in lower case.

    Args:
        text: the response, without special tokens.
        truncated: the model ran out of tokens. A complete answer is read all the same; without one the
            problem is "cut_off" instead of "no_answer".
        prompt: what the model was asked with. After "q-insight" an answer is such a number as the only key of a JSON
            object, `{"rating": 3.45}`, bare or in a ```json fence, and nothing else; after the others never.

    >>> read("<think>A little soft.</think><answer>3.45</answer>")
    Response(score=3.45, reasoning='A little soft.', problem=None)
    >>> read("<think>A little soft.</think><answer>about 3</answer>").problem
    <Problem.NOT_A_NUMBER: 'not_a_number'>
    """
    outcome = _score(text, truncated, _JSON_RATING if prompt == "q-insight" else _NUMBER)
    if isinstance(outcome, Problem):
        return Response(None, _reasoning(text), outcome)
    return Response(outcome, _reasoning(text), None)


def well_formed(text: str) -> bool:
    """Whether a response earns the format reward.

    It must be `<think>…</think><answer>…</answer>` with each tag once and only white space before, between
    and after the two, and `read` must find a score in it: an answer that cannot be read earns nothing for its
    form either.

    >>> well_formed("<think>Sharp.</think> <answer>4.50</answer>"), well_formed("<answer>4.50</answer>")
    (True, False)
    """
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    return once and _FORM.fullmatch(text) is not None and read(text).score is not None


# Linear, because it is only tried on a text that has each tag once.
_FORM = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
# The sign is there only so that -1 is reported as out of range; \d would take the digits of every script.
_NUMBER = re.compile(r"(?P<number>-?[0-9]+(\.[0-9]+)?)")
_JSON_RATING = re.compile(
    rf'(?P<fence>```(json)?\s)?\s*\{{\s*"rating"\s*:\s*{_NUMBER.pattern}\s*\}}\s*(?(fence)```)'
)


def _score(text: str, truncated: bool, form: re.Pattern[str]) -> float | Problem:
    pieces = text.split("<answer>")[1:]
    if not pieces:
        still_thinking = "<think>" in text and "</think>" not in text
        return Problem.CUT_OFF if truncated or still_thinking else Problem.NO_ANSWER
    if "</answer>" not in pieces[-1]:
        return Problem.CUT_OFF
    numbers = set()
    for piece in pieces:
        content, closed, _ = piece.partition("</answer>")
        answer = form.fullmatch(content.strip())
        # Not closed before the next <answer> opens: the answer holds a tag.
        if not closed or not answer:
            return Problem.NOT_A_NUMBER
        numbers.add(float(answer["number"]))
    if len(numbers) > 1:
        return Problem.ANSWERS_DISAGREE
    score = numbers.pop()
    return score if LOWEST <= score <= HIGHEST else Problem.OUT_OF_RANGE


def _reasoning(text: str) -> str | None:
    _, opened, after = text.partition("<think>")
    if not opened:
        return None
    inside, closed, _ = after.partition("</think>")
    return (inside if closed else after.partition("<answer>")[0]).strip()
