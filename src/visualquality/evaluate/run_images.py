"""What a model said of its training images at successive steps (Fig. 4 of the paper).

A run writes this to `samples.jsonl` (the scores of every image of a step, and the texts about the first one only) and,
for the probe images of its recipe, to `probes.jsonl` (an image a line, with all texts).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .. import response
from ..errors import UserError
from ..io import read_jsonl
from .page import pick_evenly

# Images that are followed over the steps.
FOLLOWED = 6
# Steps whose words are shown, whatever image they are about.
STEPS_WITH_WORDS = 6


@dataclass(frozen=True, order=True)
class RunImage:
    """An image as the files of a run name it; `mos` is rounded to 6 decimals there.

    `key` (`Example.key`) and `path` are "" in the files of older versions. Two images that agree in data set, name and
    MOS cannot be told apart then. An image whose file is elsewhere is the same image.
    """

    dataset: str
    name: str
    mos: float
    key: str = ""
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class Answers:
    """The answers about one image at one step.

    score, std: mean and unbiased standard deviation of the readable answers; None for fewer than 1 and 2.
    words: the reasoning of the readable answer nearest to the mean (of the first answer where none is readable), or
    None where the file has no texts about this image at this step.
    """

    image: RunImage
    step: int
    score: float | None
    std: float | None
    words: str | None


def read_answers(path: Path) -> list[Answers]:
    """The answers in a run's `samples.jsonl` or `probes.jsonl`, in order.

    A torn last line is left out. In files without keys, an image that comes twice in a step under one data set, name
    and MOS is two images that cannot be told apart: they are left out of all steps. Raises UserError naming the line
    that is not as a run writes it.
    """
    found: list[Answers] = []
    ambiguous: set[RunImage] = set()
    for line in read_jsonl(path):
        try:
            answers = _answers_of_step(line.record)
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line.number} is not a step of a run ({error!r}): remove it"
            ) from error
        in_step: set[RunImage] = set()
        for each in answers:
            if each.image not in in_step:
                found.append(each)
            elif not each.image.key:
                ambiguous.add(each.image)
            # An image with a key that comes again keeps its first answers, which may have texts.
            in_step.add(each.image)
    return _with_keys([each for each in found if each.image not in ambiguous])


def _with_keys(answers: list[Answers]) -> list[Answers]:
    """Answers without a key get that of the only image that they can be about, if there is one.

    A run that an older version began and this one continued has lines of both kinds.
    """
    keyed: dict[tuple[str, str, float], set[RunImage]] = defaultdict(set)
    for each in answers:
        image = each.image
        if image.key:
            keyed[image.dataset, image.name, image.mos].add(image)
    found = []
    for each in answers:
        image = each.image
        candidates = keyed[image.dataset, image.name, image.mos]
        if not image.key and len(candidates) == 1:
            each = replace(each, image=next(iter(candidates)))
        found.append(each)
    return found


def _answers_of_step(record: dict[str, Any]) -> list[Answers]:
    names, scores, texts = record["images"], record["scores"], record["texts"]
    if len(texts) != len(scores[0]):
        raise ValueError(f"{len(texts)} texts for {len(scores[0])} scores")
    # Version 0.1 wrote neither keys nor paths.
    unknown = [""] * len(names)
    keys, paths = record.get("keys", unknown), record.get("paths", unknown)
    found: list[Answers] = []
    for name, mos, key, path, drawn in zip(names, record["mos"], keys, paths, scores, strict=True):
        image = RunImage(record["dataset"], name, round(mos, 6), key, path)
        readable = [score for score in drawn if score is not None]
        mean = fmean(readable) if readable else None
        std = stdev(readable) if len(readable) > 1 else None
        # A run keeps the texts about the first image of a step only.
        words = None if found else _words(drawn, texts, mean)
        found.append(Answers(image, record["step"], mean, std, words))
    return found


def _words(scores: Sequence[float | None], texts: Sequence[str], mean: float | None) -> str:
    """The words of the answer nearest to the mean."""

    # Whatever cannot be read is farthest; of equal distances, the first answer is taken.
    def distance(answer: tuple[float | None, str]) -> float:
        score, _ = answer
        return np.inf if score is None or mean is None else abs(score - mean)

    _, text = min(zip(scores, texts, strict=True), key=distance)
    return response.read(text).reasoning or text.strip()


def followed_images(answers: Iterable[Answers]) -> dict[RunImage, list[Answers]]:
    """At most `FOLLOWED` images whose answers can be compared over steps, by data set and MOS, with these answers.

    They came at two steps or more and have words at one or more. Images with words at most steps are preferred, then
    those that came most often; among equals, those whose MOS span the range.
    """
    found: dict[RunImage, list[Answers]] = defaultdict(list)
    for each in answers:
        found[each.image].append(each)
    # (steps with words, steps) -> images: a group is taken whole before the next one.
    groups: dict[tuple[int, int], list[RunImage]] = defaultdict(list)
    for image, over_steps in found.items():
        words = len(with_words(over_steps))
        if words and len(over_steps) > 1:
            groups[words, len(over_steps)].append(image)
    chosen: list[RunImage] = []
    for rank in sorted(groups, reverse=True):
        chosen += _over_range_of_mos(groups[rank], FOLLOWED - len(chosen))
    chosen.sort(key=lambda image: (image.dataset, image.mos, image))
    return {image: found[image] for image in chosen}


def with_words(answers: Iterable[Answers]) -> list[Answers]:
    """The answers that have words."""
    return [each for each in answers if each.words is not None]


def _over_range_of_mos(images: Sequence[RunImage], count: int) -> list[RunImage]:
    """At most `count` of the images: those nearest to `count` values of MOS at equal distances."""
    left = sorted(images, key=lambda image: (image.mos, image))
    if len(left) <= count or not count:
        return left[:count]
    chosen = []
    for target in np.linspace(left[0].mos, left[-1].mos, count):
        # Each image once, so a target whose nearest image is taken gets the next one.
        nearest = min(left, key=lambda image: abs(image.mos - target))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


def words_along(answers: Iterable[Answers]) -> list[Answers]:
    """The words of at most `STEPS_WITH_WORDS` steps at equal distances, the first and the last among them."""
    return pick_evenly(with_words(answers), STEPS_WITH_WORDS)
