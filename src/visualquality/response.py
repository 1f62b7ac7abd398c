"""What a model is asked, and what it answered: the prompts, and the two readings of a response.

A response has a score or a problem. Nothing is drawn at random, and the strict reading repairs and guesses nothing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, get_args

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
# How a text is read: only an answer in the form that was asked for, or as the authors of the weights read it.
TextReading = Literal["strict", "authors"]
# The score of an answer: the number that was drawn, by one of the two readings of its text, or where the strict one
# finds a number, the expectation over the digits that could stand in its place.
Reading = Literal["strict", "authors", "expected"]
# The prompts of general image quality, which exist with and without reasoning.
PROMPTS: tuple[PromptName, ...] = ("paper", "released")

# The system message of Q-Insight's inference code (github.com/bytedance/Q-Insight, demo_score.py). The other prompts
# have none of their own; a model's chat template may add one.
SYSTEM: dict[PromptName, str] = {
    "q-insight": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think><answer> answer here </answer>"
    )
}
# Prompts with the image after the text; in all others the image comes first.
IMAGE_LAST: frozenset[PromptName] = frozenset({"q-insight"})

_SCALE = "with 1 representing very poor quality and 5 representing excellent quality."
_RELEASED = (
    "What is your overall rating on the quality of this picture? The rating should be a float between 1 and 5, "
    f"rounded to two decimal places, {_SCALE}"
)
# What to rate, in the paper's words. Its section 5 names a single fixed prompt as a limitation, so each application
# has one of its own, which lists the artefacts that a model should look for.
_SUBJECTS = {
    "paper": "overall image visual quality",
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
_QUESTIONS: dict[str, str] = {
    name: f"Rate the {subject}. The rating should be a float between 1 and 5, {_SCALE}"
    for name, subject in _SUBJECTS.items()
}
_QUESTIONS["released"] = _RELEASED
_QUESTIONS["q-insight"] = (
    f'{_RELEASED} Return the final answer in JSON format with the following keys: "rating": The score.'
)
_TASK = "You are doing the image quality assessment task. Here is the question:"
# Section 5 of the paper suggests a "(possibly corrupted)" reference image as an anchor.
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
    """The text that goes with an image, or with a reference image followed by the image to rate.

    Args:
        name: "paper" is Table 1 of the paper. "released" is the question that the published weights were
            trained with. "q-insight" is that of Q-Insight's weights, which needs its `SYSTEM` message too. The
            others ask about one application each; the model nano was trained on none of them.
        reasoning: ask for the thinking process before the answer; if False, for the answer alone.
        reference: there are two images, and the second is rated against the first, on the same scale.

    Raises:
        UserError: no prompt has this name; or "q-insight" is asked without reasoning or with a reference, which
            Q-Insight has no words for.

    >>> prompt_text("paper").startswith("You are doing the image quality assessment task.")
    True
    """
    if name not in _QUESTIONS:
        choices = ", ".join(get_args(PromptName))
        raise UserError(f"There is no prompt named {name!r}: choose one of {choices}.")
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
    form = _THINK_THEN_ANSWER if reasoning else _ANSWER_ONLY
    return f"{_TASK} {question} {form}"


class Problem(StrEnum):
    """Why a response has no score. The values are stable and go into result files.

    no_answer: the response ended by itself and has no `<answer>` tag.
    cut_off: the text ends before the answer does: a tag is still open, or the model ran out of tokens.
    not_a_number: the answer is not one plain decimal number, or not in the JSON form that the prompt asks for.
    answers_disagree: several answers with different numbers.
    out_of_range: a number outside [1, 5].
    """

    NO_ANSWER = "no_answer"
    CUT_OFF = "cut_off"
    NOT_A_NUMBER = "not_a_number"
    ANSWERS_DISAGREE = "answers_disagree"
    OUT_OF_RANGE = "out_of_range"


@dataclass(frozen=True)
class Response:
    """What was read in one response of a model. Exactly one of `score` and `problem` is None.

    score: quality in [1, 5], higher is better.
    reasoning: the text within <think>, or after it if the tag was never closed; before a </think> that nothing opened,
        since chat templates of models that always think put the opening tag into the prompt; None without both tags.
    problem: why there is no score.
    text: what was read, if it is known.
    """

    score: float | None
    reasoning: str | None
    problem: Problem | None
    text: str | None = field(default=None, repr=False, compare=False)


def read(text: str, *, truncated: bool = False, prompt: PromptName = "paper") -> Response:
    """Read the score and the reasoning of a response strictly. Never raises, in time linear in the text.

    Every `<answer>…</answer>` counts, wherever it is, and several must agree as numbers. Between the tags there
    may be only white space and one number, in ASCII digits with at most one point and digits on both sides of
    it: "3", "3.45" and "03.50" are read; "3.", ".5", "+3", "3,45", "3/5", "3e0", "nan" and "three" are not. Tags
    are in lower case, as in the prompt.

    Args:
        text: the response, without special tokens.
        truncated: the model ran out of tokens. A complete answer is read all the same; without one the
            problem is "cut_off" instead of "no_answer".
        prompt: what the model was asked with. After "q-insight" an answer must be a JSON object such as
            `{"rating": 3.45}` with such a number, bare or in a ```json fence, and other keys do not matter; after the
            others never.

    >>> read("<think>A little soft.</think><answer>3.45</answer>")
    Response(score=3.45, reasoning='A little soft.', problem=None)
    >>> read("<think>A little soft.</think><answer>about 3</answer>").problem
    <Problem.NOT_A_NUMBER: 'not_a_number'>
    """
    number_in = _json_rating if prompt == "q-insight" else str.strip
    return _response(text, _strict_score(text, truncated, number_in))


def read_as_authors(
    text: str, *, truncated: bool = False, prompt: PromptName = "paper"
) -> Response:
    """Read a response as the authors of the weights do, but draw no number where there is none. Never raises.

    Of the last `<answer>…</answer>`, or of the whole response where there is none, the first number counts, whatever
    stands around it: "3.5/5", "4.5 out of 5", "**3.45**" and "Rating: 4.5" are read. So it may take a number that is
    not meant as the rating, such as one of the reasoning, where the strict reading finds none. After "q-insight" it is
    the number behind `"rating":` in the first answer. (github.com/TianheWu/VisualQuality-R1 at a16dcdb, grpo_jsonl.py
    and the README's scripts; github.com/bytedance/Q-Insight at 08308fd, qinsight_multi_task.py.)

    Two things are not theirs. Where no number is found they draw one from 1 to 5: here the response has a problem. And
    they take a number outside [1, 5] as it is: here it is out of range, since every score of this package is in
    [1, 5], and an 85 of 100 among them would move a mean or a rank by more than any image does.

    The arguments are those of `read`.

    >>> read_as_authors("<answer>Rating: 4.5/5</answer>").score, read("<answer>Rating: 4.5/5</answer>").score
    (4.5, None)
    """
    answers = _answers(text)
    if prompt == "q-insight":
        found = _RATING_KEY.search(answers[0]) if answers else None
        # Of "3.4.5" they make no number either.
        number = _NUMBER.fullmatch(found["number"]) if found else None
    else:
        number = _NUMBER.search(answers[-1] if answers else text)
    if number is not None:
        return _response(text, _in_range(float(number["number"])))
    return _response(text, Problem.NOT_A_NUMBER if answers else _no_answer(text, truncated))


READINGS: dict[TextReading, Callable[..., Response]] = {"strict": read, "authors": read_as_authors}


def well_formed(text: str, reading: TextReading = "strict") -> bool:
    """Whether a response earns the format reward.

    It must be `<think>…</think><answer>…</answer>` with each tag once and only white space before, between
    and after the two, and `reading` must find a score in it. Where the prompt ends with the opening tag, the tag is put
    before the response first (`models.prompt.prompt_opening`); it is never assumed.

    >>> well_formed("<think>Sharp.</think> <answer>4.50</answer>"), well_formed("<answer>4.50</answer>")
    (True, False)
    """
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        if text.count(tag) != 1:
            return False
    return _FORM.fullmatch(text) is not None and READINGS[reading](text).score is not None


# Takes linear time only because it is tried on texts that have each tag once.
_FORM = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
# The sign is allowed so that -1 is reported as out of range. Not \d, which takes the digits of every script.
_NUMBER = re.compile(r"(?P<number>-?[0-9]+(\.[0-9]+)?)")
_FENCED = re.compile(r"```(?:json)?\s(?P<inside>.*)```", re.DOTALL)
_RATING_KEY = re.compile(r'"rating"\s*:\s*(?P<number>-?[0-9.]+)')


def _response(text: str, outcome: float | Problem) -> Response:
    if isinstance(outcome, Problem):
        return Response(None, _reasoning(text), outcome, text)
    return Response(outcome, _reasoning(text), None, text)


def _strict_score(
    text: str, truncated: bool, number_in: Callable[[str], str | None]
) -> float | Problem:
    """`number_in`: the text in an answer that must be a number; None where the answer is not in its form."""
    pieces = text.split("<answer>")[1:]
    if not pieces:
        return _no_answer(text, truncated)
    if "</answer>" not in pieces[-1]:
        return Problem.CUT_OFF
    numbers = set()
    for piece in pieces:
        content, closed, _ = piece.partition("</answer>")
        number = number_in(content)
        # Without a closing tag before the next <answer>, the answer itself contains a tag.
        if not closed or number is None or _NUMBER.fullmatch(number) is None:
            return Problem.NOT_A_NUMBER
        numbers.add(float(number))
    if len(numbers) > 1:
        return Problem.ANSWERS_DISAGREE
    return _in_range(numbers.pop())


def _answers(text: str) -> list[str]:
    """What `re.findall("<answer>(.*?)</answer>", text, re.DOTALL)` gives, in linear time however many tags are open."""
    found: list[str] = []
    rest = text
    while True:
        _, opened, rest = rest.partition("<answer>")
        answer, closed, rest = rest.partition("</answer>")
        if not (opened and closed):
            return found
        found.append(answer)


def _no_answer(text: str, truncated: bool) -> Problem:
    still_thinking = "<think>" in text and "</think>" not in text
    return Problem.CUT_OFF if truncated or still_thinking else Problem.NO_ANSWER


def _in_range(score: float) -> float | Problem:
    return score if LOWEST <= score <= HIGHEST else Problem.OUT_OF_RANGE


class _Number(str):
    """A number of a JSON text as it is written there, which tells it from a string."""


def _json_rating(content: str) -> str | None:
    """The number under the one key "rating" of a JSON object, as it is written; None for anything else."""
    stripped = content.strip()
    fenced = _FENCED.fullmatch(stripped)
    try:
        pairs = json.loads(
            fenced["inside"] if fenced else stripped,
            strict=False,  # line breaks within the texts of other keys
            parse_int=_Number,
            parse_float=_Number,
            # Pairs instead of a dictionary, in which the last of two equal keys would win.
            object_pairs_hook=tuple,
        )
    except (ValueError, RecursionError):  # no JSON, or an object within an object within …
        return None
    # Of the JSON values only an object is a tuple here.
    ratings = [value for key, value in pairs if key == "rating"] if type(pairs) is tuple else []
    return ratings[0] if len(ratings) == 1 and isinstance(ratings[0], _Number) else None


def _reasoning(text: str) -> str | None:
    before, opened, after = text.partition("<think>")
    if not opened:
        before, closed, _ = text.partition("</think>")
        return before.partition("<answer>")[0].strip() if closed else None
    inside, closed, _ = after.partition("</think>")
    return (inside if closed else after.partition("<answer>")[0]).strip()
