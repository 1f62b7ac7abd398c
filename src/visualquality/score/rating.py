"""The rating of one image: a score, its uncertainty and its reasoning, or why there is no score."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist, fmean, stdev
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UserError, shortened
from ..response import READINGS

if TYPE_CHECKING:
    from ..response import Response

# The fields of a `Rating` that a calibration gives: all of them or none.
INTERVAL = ("low", "high", "coverage", "expected_mos")
# `compare` takes no standard deviation for smaller. On a scale from 1 to 5 a MOS itself is no surer: raters differ by
# about 0.6 to 1, and 30 to 100 of them make a MOS with a standard error of 0.06 to 0.18.
STD_FLOOR = 0.1
# `compare` is never surer than this, whatever the scores: data sets of some hundred images, on which calibrations are
# made, cannot show that an error is rarer.
SUREST = 0.999


@dataclass(frozen=True)
class Rating:
    """The rating of one image.

    Attributes:
        image: the name of the image, as the user gave it.
        score: mean of the readable samples, rounded to 4 decimals, in [1, 5]; None if and only if there is a `problem`.
        std: unbiased standard deviation of drawn answers, in the unit of the score. Of samples that were drawn it is
            that of the readable ones, None for fewer than 2. Of expected samples, see `from_samples`.
        samples: (K,) scores in the order they were drawn, None for an answer that could not be read. With reading
            "expected" each is the expectation over the digits of its answer, rounded to 4 decimals.
        reasoning: the words of the readable sample nearest to the mean, or None.
        problem: why there is no score, or None.
        model, mode, seed: the settings that the rating was made with.
        seconds: the time it took, or its share of the time of a batch.
        prompt: the name of the prompt, or None where there is none, as for NIQE.
        low, high: the interval of the human rating (MOS), on the scale from 1 to 5 that the MOS of the calibration's
            data set were put on.
        coverage: the share of images whose human rating lies in such an interval, such as 0.9.
        expected_mos: the human rating on 1 to 5 that this score stands for in that data set, in [low, high].
        warnings: what there is to know of how the file was read, a sentence each, such as a bit depth that its header
            leaves open; mostly none.
        readable: how many of the answers each reading finds a score in, {"strict": 5, "authors": 6}; None where both
            read all of them, and where no text was read.

    Those of the interval are None where no calibration fits the settings (score/calibration.py), or there is no score.

    Raises ValueError for a number that is not finite, for both or neither of a score and a problem, and for an
    interval that is not whole or not in order.
    """

    image: str
    score: float | None
    std: float | None
    samples: tuple[float | None, ...]
    reasoning: str | None
    problem: str | None
    model: str
    mode: str
    seed: int
    seconds: float
    prompt: str | None = None
    low: float | None = None
    high: float | None = None
    coverage: float | None = None
    expected_mos: float | None = None
    warnings: tuple[str, ...] = ()
    readable: dict[str, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        # NaN is not JSON, and one that gets into a mean or a correlation makes all of it NaN.
        interval = tuple(getattr(self, name) for name in INTERVAL)
        numbers = (self.score, self.std, self.seconds, *self.samples, *interval)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.image}: a rating holds finite numbers or None, not {numbers}")
        if (self.score is None) == (self.problem is None):
            raise ValueError(
                f"{self.image}: a rating has a score or a problem, not {self.score} and {self.problem}"
            )
        if interval == (None,) * len(INTERVAL):
            return
        given = [number for number in interval if number is not None]
        if self.score is None or len(given) < len(interval):
            raise ValueError(f"{self.image}: {', '.join(INTERVAL)} come together, with a score")
        low, high, coverage, expected_mos = given
        if not (1 <= low <= expected_mos <= high <= 5 and 0 < coverage < 1):
            raise ValueError(
                f"{self.image}: an interval is 1 <= low <= expected_mos <= high <= 5 with a coverage between 0 and 1, "
                f"not {low}, {expected_mos}, {high} with {coverage}"
            )

    @classmethod
    def from_samples(
        cls,
        image: str,
        responses: "Sequence[Response]",
        *,
        variances: Sequence[float] = (),
        **origin: Any,
    ) -> "Rating":
        """The rating that K `responses` to one image give together; those without a score are not readable.

        variances: where scores are expectations over digits, the variance of these digits for each readable response.
            `std` is then that of an answer whose words and digits are drawn, by the law of total variance: the
            unbiased variance of the scores (0 for a single one) plus the mean of `variances`.
        origin: the fields model, mode, seed, seconds and prompt.
        """
        origin["readable"] = _count_readable(responses, origin.get("prompt") or "paper")
        samples = tuple(response.score for response in responses)
        scores = [score for score in samples if score is not None]
        if not scores:
            # The samples may fail in different ways; the most common one says most.
            problems = Counter(str(response.problem) for response in responses)
            most_common = problems.most_common(1)[0][0]
            problem = f"no readable answer in {len(samples)} samples: {most_common}"
            return cls(image, None, None, samples, None, problem, **origin)
        mean = fmean(scores)
        # Rounded, since distances that are equal in decimals may differ in binary: the first of them is taken.
        nearest = min(scores, key=lambda score: round(abs(score - mean), 9))
        reasoning = _printable(responses[samples.index(nearest)].reasoning)
        # Division by K - 1, so that one sample has no deviation rather than 0.
        std = stdev(scores) if len(scores) > 1 else None
        if variances:
            std = math.hypot(std or 0.0, math.sqrt(fmean(variances)))
        return cls(image, round(mean, 4), std, samples, reasoning, None, **origin)

    @classmethod
    def failed(cls, image: str, problem: str, *, seconds: float = 0.0, **origin: Any) -> "Rating":
        """The rating of an image that nothing answered for, such as a file that is not an image.

        `origin`: the fields model, mode, seed and prompt.
        """
        why = _printable(problem)
        return cls(image, None, None, (), None, why, seconds=seconds, **origin)

    @property
    def answered(self) -> bool:
        """Whether the rater gave an answer for the image, readable or not.

        If not, its file could not be read or no server replied, which may be fixed by now: a run that resumes tries
        the image again.
        """
        # A score may come without samples, as the expected score does.
        return self.score is not None or len(self.samples) > 0

    @property
    def mos_std(self) -> float | None:
        """Standard deviation of the human rating about `expected_mos`, as the interval states it; None without one.

        The interval is taken for that of a normal distribution. Of its two sides the longer one counts, since the
        other may have been cut at an end of the scale.
        """
        if self.low is None or self.high is None or self.expected_mos is None or not self.coverage:
            return None
        side = max(self.high - self.expected_mos, self.expected_mos - self.low)
        return side / NormalDist().inv_cdf((1 + self.coverage) / 2)

    def without_interval(self, **changes: Any) -> "Rating":
        """The rating without its interval, and with other `changes` of fields."""
        return replace(self, **{**dict.fromkeys(INTERVAL), **changes})

    def with_warnings(self, warnings: tuple[str, ...]) -> "Rating":
        """The rating with `warnings`; itself where there are none."""
        return replace(self, warnings=warnings) if warnings else self

    def to_dict(self) -> dict[str, Any]:
        """The fields in their order, ready for JSON: lists for tuples; `warnings` and `readable` where there are."""
        # `vars` keeps the order of the fields, which is that of the columns of an export.
        row = {**vars(self), "samples": list(self.samples), "warnings": list(self.warnings)}
        for name in ("warnings", "readable"):
            if not row[name]:
                del row[name]
        return row

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Rating":
        """The inverse of `to_dict`. Raises UserError that names missing or unknown fields, or a wrong value."""
        names = {field.name for field in fields(cls)}
        # Files of version 0.1 have no prompt and no interval, and most rows no warnings.
        wrong = sorted((names ^ row.keys()) - {"prompt", "warnings", "readable", *INTERVAL})
        if wrong:
            raise UserError(
                f"a rating has the fields {', '.join(sorted(names))}; missing or unknown: {', '.join(wrong)}"
            )
        # The constructor refuses NaN, and a score beside a problem.
        try:
            _check_kinds(row)
            lists = {"samples": tuple(row["samples"]), "warnings": tuple(row.get("warnings", ()))}
            return cls(**{**row, **lists})
        # A whole number of 400 digits is larger than any float.
        except (TypeError, ValueError, OverflowError) as error:
            name = shortened(repr(row["image"]))
            raise UserError(
                f"the rating of {name} holds a wrong value: {shortened(str(error), 300)}"
            ) from error


def _check_kinds(row: dict[str, Any]) -> None:
    """Raises TypeError where a field of a row from a file is not of its kind."""
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("image", "model", "mode"), (str,)),
        **dict.fromkeys(("reasoning", "problem", "prompt"), (str, NoneType)),
        **dict.fromkeys(("score", "std", *INTERVAL), (int, float, NoneType)),
        "seed": (int,),
        "seconds": (int, float),
        "samples": (list,),
        "readable": (dict, NoneType),
    }
    # Not isinstance: True and False are numbers to Python, and to no one else.
    wrong = [name for name in kinds if name in row and type(row[name]) not in kinds[name]]
    if not wrong and any(type(sample) not in (int, float, NoneType) for sample in row["samples"]):
        wrong = ["samples"]
    readable = row.get("readable")
    if not wrong and readable is not None:
        counted = readable.keys() == READINGS.keys()
        if not counted or any(type(count) is not int for count in readable.values()):
            wrong = ["readable"]
    if wrong:
        raise TypeError(f"{wrong[0]} is {shortened(repr(row[wrong[0]]))}")


def _count_readable(responses: "Sequence[Response]", prompt: Any) -> dict[str, int] | None:
    """The field `readable` of a rating."""
    texts = [each.text for each in responses if each.text is not None]
    if len(texts) < len(responses):
        return None
    counts: dict[str, int] = {}
    for reading, read in READINGS.items():
        counts[reading] = sum(read(text, prompt=prompt).score is not None for text in texts)
    return None if set(counts.values()) == {len(texts)} else counts


def _printable(text: str | None) -> str | None:
    # A server that stops at a token may cut a character in two. Half a character is not UTF-8: it becomes "?".
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def warning_lines(ratings: Iterable[Rating]) -> list[str]:
    """Each warning of the ratings once, in the order in which it first comes, with its images."""
    images: dict[str, list[str]] = {}
    for rating in ratings:
        for sentence in rating.warnings:
            images.setdefault(sentence, []).append(rating.image)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if names[1:] else ''}: {sentence}"
        for sentence, names in images.items()
    ]


def seconds_since(start: float, images: int = 1) -> float:
    """Seconds since `start` (of `time.perf_counter`) for each of so many images, rounded as ratings have them."""
    return round((time.perf_counter() - start) / images, 4)


def compare(a: Rating, b: Rating) -> float:
    """Probability that image `a` is of better quality than `b`, under Thurstone's model (Eq. 1, rl2r.thurstone).

    Where both have the interval of a calibration, it is the probability that people rate `a` higher: means are
    `expected_mos`, standard deviations those of the intervals (`mos_std`). Otherwise it is the model's own view,
    which nobody has checked against people: means are the scores, standard deviations those of the answers.

    A standard deviation counts as at least `STD_FLOOR`, also where there is none (a single answer), and the
    probability is at least 1 - `SUREST` and at most `SUREST`.

    Raises `UserError` where one of the two has no score, or is no rating, and for a classic such as NIQE without a
    calibration: it has no uncertainty, and its scale is its own.
    """
    # Here, because PyTorch takes seconds to import and most users of ratings never compare two.
    import torch

    from ..rl2r import thurstone

    if not (isinstance(a, Rating) and isinstance(b, Rating)):
        raise UserError(
            'compare takes two ratings: give those of a scorer, such as scorer("a.jpg")'
        )
    if a.score is None or b.score is None:
        without = a if a.score is None else b
        raise UserError(f"{without.image} has no score to compare: {without.problem}")
    means: tuple[float | None, ...] = (a.score, b.score)
    stds = (a.std, b.std)
    if a.mos_std is not None and b.mos_std is not None:
        means, stds = (a.expected_mos, b.expected_mos), (a.mos_std, b.mos_std)
    elif not (has_uncertainty(a) and has_uncertainty(b)):
        classic = b if has_uncertainty(a) else a
        raise UserError(
            f"{classic.model} gives {classic.image} a score without an uncertainty: make it known with "
            "visualquality calibrate, or compare the scores themselves"
        )
    mean_a, mean_b = torch.tensor(means, dtype=torch.float64)
    squares = [max(std or 0.0, STD_FLOOR) ** 2 for std in stds]
    var_a, var_b = torch.tensor(squares, dtype=torch.float64)
    probability = thurstone(mean_a, var_a, mean_b, var_b).item()
    return min(max(probability, 1 - SUREST), SUREST)


def has_uncertainty(rating: Rating) -> bool:
    """Whether a rating says how sure it is, or comes from a model whose answers vary on a scale from 1 to 5.

    A classic, which has no prompt, gives one number on a scale of its own: only a calibration makes it comparable.
    """
    return rating.mos_std is not None or rating.std is not None or rating.prompt is not None


def is_precise(responses: Sequence["Response"], tolerance: float) -> bool:
    """Whether the standard error of the mean score is below `tolerance`; it takes two readable answers or more."""
    scores = [r.score for r in responses if r.score is not None]
    return len(scores) > 1 and stdev(scores) / math.sqrt(len(scores)) < tolerance


class Rater(Protocol):
    """Anything that rates images, such as `Scorer`; `raters.make_rater` makes one from a name.

    A higher score is a better image.

    `settings` gives everything that a score depends on besides the image, for the header of a journal; the key
    "model" is in it. `rate` gives one rating for each image (a `Source`), in order, as they are made; what is wrong
    with an image is in the `problem` of its rating.
    """

    def settings(self) -> dict[str, Any]: ...

    def rate(self, images: Iterable[Any]) -> Iterator[Rating]: ...
