"""What a model said of the same images at successive steps of its training (Fig. 4 of the paper), from `samples.jsonl`.

That file has the scores of every image of a step, and the words of the first one only. An image is known by its data
set, file name and MOS; where two images agree in all three, neither is followed.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from .. import response
from ..errors import UserError
from ..io import read_jsonl
from .page import evenly, spread

PROBES = 6  # images that are followed
SAYINGS = 6  # steps whose words are shown, whatever image they are about


class ImageKey(NamedTuple):
    """What `samples.jsonl` tells of an image. `mos` is rounded to 6 decimals, as there."""

    dataset: str
    name: str
    mos: float


@dataclass(frozen=True)
class Visit:
    """The answers to one image at one step.

    score, std: mean and unbiased standard deviation of the readable answers; None for fewer than 1 and 2.
    words: the reasoning of the readable answer nearest to the mean (of the first answer where none is readable), or
    None where the file has no words of this image at this step.
    """

    step: int
    score: float | None
    std: float | None
    words: str | None


@dataclass(frozen=True)
class Probe:
    """An image and its visits, in the order of the steps."""

    image: ImageKey
    visits: tuple[Visit, ...]

    @property
    def worded(self) -> list[Visit]:
        return [visit for visit in self.visits if visit.words is not None]


Step = dict[ImageKey, Visit]


def read_steps(path: Path) -> list[Step]:
    """The steps of a run's `samples.jsonl`, in order, each with its images in theirs; a torn last line is left out.

    Images that come twice in a step under one key are left out of all steps. Raises UserError naming the line that is
    not as a run writes it.
    """
    steps, unclear = list[Step](), set[ImageKey]()
    for line in read_jsonl(path):
        try:
            step, twice = _step(line.record)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line.number} is not a step of a run ({error!r}): remove it"
            ) from error
        steps.append(step)
        unclear |= twice
    return [{key: visit for key, visit in step.items() if key not in unclear} for step in steps]


def _step(record: dict[str, Any]) -> tuple[Step, set[ImageKey]]:
    named = zip(record["images"], record["mos"], strict=True)
    keys = [ImageKey(record["dataset"], name, round(mos, 6)) for name, mos in named]
    texts: list[list[str]] = [record["texts"], *([] for _ in keys[1:])]
    if len(texts[0]) != len(record["scores"][0]):
        raise ValueError(f"{len(texts[0])} texts for {len(record['scores'][0])} scores")
    answers = zip(keys, record["scores"], texts, strict=True)
    step = {key: _visit(record["step"], scores, said) for key, scores, said in answers}
    return step, {key for key, count in Counter(keys).items() if count > 1}


def _visit(step: int, scores: Sequence[float | None], texts: Sequence[str]) -> Visit:
    read = [score for score in scores if score is not None]
    mean = fmean(read) if read else None
    std = stdev(read) if len(read) > 1 else None
    if not texts:
        return Visit(step, mean, std, None)
    said = zip(scores, texts, strict=True)
    # The smallest distance from the mean; what cannot be read comes last.
    _, text = min(said, key=lambda pair: (pair[0] is None, abs((pair[0] or 0) - (mean or 0))))
    return Visit(step, mean, std, response.read(text).reasoning or text.strip())


def probes(steps: Sequence[Step], pictures: Mapping[ImageKey, Path] | None) -> list[Probe]:
    """At most `PROBES` images whose answers can be compared over steps, by data set and MOS.

    They came at two steps or more and have words at one or more; those with words at most steps, then those that came
    most often, are preferred, and among equals they are spread over the MOS. Where `pictures` is given, only its images
    are taken.
    """
    visits: dict[ImageKey, list[Visit]] = defaultdict(list)
    for step in steps:
        for key, visit in step.items():
            if pictures is None or key in pictures:
                visits[key].append(visit)
    found = [Probe(key, tuple(those)) for key, those in visits.items() if len(those) > 1]
    ranked = sorted(found, key=lambda p: (_rank(p), p.image))
    ranked = [probe for probe in ranked if probe.worded]
    if len(ranked) > PROBES:
        last = _rank(ranked[PROBES - 1])
        better = [probe for probe in ranked if _rank(probe) < last]
        equal = sorted(
            (probe for probe in ranked if _rank(probe) == last), key=lambda p: p.image.mos
        )
        ranked = better + spread(equal, lambda p: p.image.mos, PROBES - len(better))
    return sorted(ranked, key=lambda p: (p.image.dataset, p.image.mos))


def _rank(probe: Probe) -> tuple[int, int]:
    return -len(probe.worded), -len(probe.visits)


def sayings(
    steps: Sequence[Step], pictures: Mapping[ImageKey, Path] | None
) -> list[tuple[ImageKey, Visit]]:
    """The words of at most `SAYINGS` steps, evenly from the first to the last."""
    visits = [
        (key, visit)
        for step in steps
        for key, visit in step.items()
        if pictures is None or key in pictures
    ]
    return evenly([(key, visit) for key, visit in visits if visit.words is not None], SAYINGS)
