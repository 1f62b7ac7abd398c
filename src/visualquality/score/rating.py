"""What is said of one image: a score, its uncertainty and its reason, or why there is none."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Protocol

from visualquality.errors import UserError

if TYPE_CHECKING:
    from visualquality.response import Response


@dataclass(frozen=True)
class Rating:
    """The rating of one image.

    Attributes:
        image: the key of the image, as the user named it.
        score: mean of the readable samples, rounded to 4 decimals, in [1, 5]; None just where `problem` says why.
        std: unbiased standard deviation of the readable samples, in the unit of the score; None for fewer than 2.
        samples: (K,) scores in the order they were drawn, None for an answer that could not be read.
        reasoning: the words of the readable sample nearest to the mean, or None.
        problem: why there is no score, or None.
        model, mode, seed: what made it.
        seconds: the time it took, or its share of the time of a batch.
        prompt: the name of what was asked, or None where nothing was, as by NIQE.

    NaN and infinity are refused (`ValueError`): no rating holds a number that was not read.
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

    def __post_init__(self) -> None:
        numbers = (self.score, self.std, self.seconds, *self.samples)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.image}: a rating holds finite numbers or None, not {numbers}")
        if (self.score is None) == (self.problem is None):
            raise ValueError(
                f"{self.image}: a rating has a score or a problem, not {self.score} and {self.problem}"
            )

    @classmethod
    def from_samples(
        cls,
        image: str,
        responses: "Sequence[Response]",
        *,
        model: str,
        mode: str,
        seed: int,
        seconds: float,
        prompt: str | None = None,
    ) -> "Rating":
        """The rating that K `responses` (score or None, reasoning, problem) make together."""
        samples = tuple(response.score for response in responses)
        readable = [
            (response.score, response) for response in responses if response.score is not None
        ]
        made_by: dict[str, Any] = {
            "model": model,
            "mode": mode,
            "seed": seed,
            "seconds": seconds,
            "prompt": prompt,
        }
        if not readable:
            common = Counter(str(response.problem) for response in responses).most_common(1)
            problem = f"no readable answer in {len(samples)} samples"
            problem += f": {common[0][0]}" if common else ""
            return cls(image, None, None, samples, None, _printable(problem), **made_by)
        scores = [score for score, _ in readable]
        mean = fmean(scores)
        # Rounded, so that equal distances tie in spite of binary fractions: min then takes the first.
        _, nearest = min(readable, key=lambda pair: round(abs(pair[0] - mean), 9))
        std = stdev(scores) if len(scores) > 1 else None
        return cls(
            image, round(mean, 4), std, samples, _printable(nearest.reasoning), None, **made_by
        )

    @classmethod
    def failed(cls, image: str, problem: str, **made_by: Any) -> "Rating":
        """The rating of an image that could not be scored at all, such as a file that is not an image.

        `made_by`: model, mode, seed, and what else there is of the last fields.
        """
        return cls(image, None, None, (), None, _printable(problem), **{"seconds": 0.0, **made_by})

    @property
    def asked(self) -> bool:
        """Whether anything was asked about the image. If not, its file could not be read or no server answered, which
        may be mended: a run that goes on tries it again.
        """
        return self.score is not None or bool(self.samples)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, in the order of the fields; `samples` is a list."""
        return {**vars(self), "samples": list(self.samples)}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Rating":
        """The inverse of `to_dict`. Raises `UserError` naming an absent or unknown field, or wrong value."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted(
            (names ^ row.keys()) - {"prompt"}
        ):  # files of version 0.1 have no prompt
            raise UserError(
                f"a rating has the fields {', '.join(sorted(names))}; missing or unknown: {', '.join(wrong)}"
            )
        try:
            return cls(**{**row, "samples": tuple(row["samples"])})
        except (TypeError, ValueError) as fault:
            raise UserError(
                f"the rating of {row['image']!r} holds a wrong value: {fault}"
            ) from fault


def _printable(text: str | None) -> str | None:
    """Text that every file can hold: a server may cut a character in two, leaving half a surrogate pair."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def compare(a: Rating, b: Rating) -> float:
    """Probability in [0, 1] that image `a` is of better quality than `b`, under Thurstone's model.

    Eq. 1 (rl2r.thurstone) on the means of both images and the variances of their samples. One sample alone
    (std None) counts as variance 0, so the result is then near 0, ½ or 1. Raises `UserError` where one of the
    two has no score.
    """
    # Here, because PyTorch takes seconds to import and most users of ratings never compare two.
    import torch

    from ..rl2r import thurstone

    if a.score is None or b.score is None:
        without = a if a.score is None else b
        raise UserError(f"{without.image} has no score to compare: {without.problem}")
    mean_a, mean_b = torch.tensor([a.score, b.score], dtype=torch.float64)
    var_a, var_b = torch.tensor([a.std or 0.0, b.std or 0.0], dtype=torch.float64).square()
    return thurstone(mean_a, var_a, mean_b, var_b).item()


class Rater(Protocol):
    """Whatever rates images: `Scorer`, NIQE, BRISQUE, a metric of pyiqa.

    `settings` holds everything that a score depends on besides the image, as the header of a results file; "model" is
    in it. `rate` gives a rating for each image, in order, one batch at a time; what is wrong with an image is in its
    rating's `problem`. A higher score is a better image, whatever the range.
    """

    def settings(self) -> dict[str, Any]: ...

    def rate(self, images: Iterable[Any]) -> Iterator[Rating]: ...
