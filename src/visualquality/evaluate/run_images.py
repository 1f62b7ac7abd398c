"""What a model said of its training images at successive steps (Fig. 4 of the paper).

A run writes this to `samples.jsonl` (the scores of every image of a step, and the texts about the first one only) and,
for the probe images of its recipe, to `probes.jsonl` (an image a line, with all texts).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from .. import response
from ..errors import UserError
from ..io import read_jsonl
from .page import pick_evenly

# Images that are followed over the steps.
FOLLOWED = 6
# Steps whose words are shown, whatever image they are about.
STEPS_WITH_WORDS = 6


class RunImage(NamedTuple):
    """An image as the files of a run name it; `mos` is rounded to 6 decimals there.

    `key` (`Example.key`) and `path` are "" in the files of older versions. Two images that agree in data set, name and
    MOS cannot be told apart then.
    """

    dataset: str
    name: str
    mos: float
    key: str = ""
    path: str = ""


@dataclass(frozen=True)
class Answers:
    """The answers about one image at one step.

    score, std: mean and unbiased standard deviation of the readable answers; None for fewer than 1 and 2.
    words: the reasoning of the readable answer nearest to the mean (of the first answer where none is readable), or
    None where the file has no texts about this image at this step.
    """

    step: int
    score: float | None
    std: float | None
    words: str | None


Step = dict[RunImage, Answers]


def read_steps(path: Path) -> list[Step]:
    """The lines of a run's `samples.jsonl` or `probes.jsonl` in order, each with its images in their order.

    A torn last line is left out. In files without keys, an image that comes twice in a step under one data set, name
    and MOS is two images that cannot be told apart: they are left out of all steps. Raises UserError naming the line
    that is not as a run writes it.
    """
    steps: list[Step] = []
    ambiguous: set[RunImage] = set()
    for line in read_jsonl(path):
        try:
            images = _images(line.record)
            steps.append(_step(line.record, images))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line.number} is not a step of a run ({error!r}): remove it"
            ) from error
        counts = Counter(images)
        ambiguous |= {image for image in images if counts[image] > 1 and not image.key}
    return [
        {image: answers for image, answers in step.items() if image not in ambiguous}
        for step in steps
    ]


def _images(record: Mapping[str, Any]) -> list[RunImage]:
    names = record["images"]
    unknown = [""] * len(names)
    keys, paths = record.get("keys", unknown), record.get("paths", unknown)
    return [
        RunImage(record["dataset"], name, round(mos, 6), key, path)
        for name, mos, key, path in zip(names, record["mos"], keys, paths, strict=True)
    ]


def _step(record: Mapping[str, Any], images: Sequence[RunImage]) -> Step:
    # A run keeps the texts about the first image of a step only.
    texts = record["texts"]
    if len(texts) != len(record["scores"][0]):
        raise ValueError(f"{len(texts)} texts for {len(record['scores'][0])} scores")
    step: Step = {}
    for place, (image, scores) in enumerate(zip(images, record["scores"], strict=True)):
        # An image with a key that comes again keeps its first answers, which may have texts.
        step.setdefault(image, _answers(record["step"], scores, [] if place else texts))
    return step


def _answers(step: int, scores: Sequence[float | None], texts: Sequence[str]) -> Answers:
    readable = [score for score in scores if score is not None]
    mean = fmean(readable) if readable else None
    std = stdev(readable) if len(readable) > 1 else None
    if not texts:
        return Answers(step, mean, std, None)

    # Whatever cannot be read is farthest; of equal distances, the first answer is taken.
    def distance(answer: tuple[float | None, str]) -> float:
        score, _ = answer
        return np.inf if score is None or mean is None else abs(score - mean)

    _, text = min(zip(scores, texts, strict=True), key=distance)
    return Answers(step, mean, std, response.read(text).reasoning or text.strip())


def followed_images(steps: Sequence[Step]) -> dict[RunImage, list[Answers]]:
    """At most `FOLLOWED` images whose answers can be compared over steps, by data set and MOS, with these answers.

    They came at two steps or more and have words at one or more. Images with words at most steps are preferred, then
    those that came most often; among equals, those whose MOS span the range.
    """
    found: dict[RunImage, list[Answers]] = defaultdict(list)
    for step in steps:
        for image, answers in step.items():
            found[image].append(answers)
    # (steps with words, steps) -> images: a group is taken whole before the next one.
    groups: dict[tuple[int, int], list[RunImage]] = defaultdict(list)
    for image, over_steps in found.items():
        if len(over_steps) > 1 and with_words(over_steps):
            groups[len(with_words(over_steps)), len(over_steps)].append(image)
    chosen: list[RunImage] = []
    for rank in sorted(groups, reverse=True):
        chosen += _over_range_of_mos(groups[rank], FOLLOWED - len(chosen))
    chosen.sort(key=lambda image: (image.dataset, image.mos, image))
    return {image: found[image] for image in chosen}


def with_words(answers: Sequence[Answers]) -> list[Answers]:
    """The answers that have words."""
    return [each for each in answers if each.words is not None]


def _over_range_of_mos(images: Sequence[RunImage], count: int) -> list[RunImage]:
    """At most `count` of the images: those nearest to `count` values of MOS at equal distances."""
    left = sorted(images, key=lambda image: (image.mos, image))
    if len(left) <= count or not count:
        return left[:count]
    chosen = []
    for target in np.linspace(left[0].mos, left[-1].mos, count):
        nearest = min(left, key=lambda image: abs(image.mos - target))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


def words_along(steps: Sequence[Step]) -> list[tuple[RunImage, Answers]]:
    """The words of at most `STEPS_WITH_WORDS` steps at equal distances, the first and the last among them."""
    said = [(image, answers) for step in steps for image, answers in step.items()]
    return pick_evenly([each for each in said if each[1].words is not None], STEPS_WITH_WORDS)
