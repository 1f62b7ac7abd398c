"""The responses that the decoder learns: stage 10 (from images with known faults) and stage 12 (from rated photos too).

The score is what the readers say, with the error to expect as its spread, so that the decoder is as unsure as they are.
The faults of a lesson are known. Those of a rated photo are predicted by the heads of stage 8; a fault is named only
where it is likely, and "no distortion is visible" is said only where the score is high.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from visualquality.data.distort import LEVELS
from visualquality.data.manifest import Row
from visualquality.models.nano.readers import Readers
from visualquality.models.nano.tones import Tones
from visualquality.models.nano.vision import TONES
from visualquality.seeds import choice

from .faults import Lesson
from .reading import FAMILIES, ProjectorsWithHeads
from .words import CRISP, UNSURE, Named, fault_sentence, reasoning

Parts = Sequence[Tensor]

SURE = 0.5  # probability of a fault above which it is named; chosen on the viewed photos
SECOND = 0.6  # the same for a second fault
GOOD = 3.5  # a photo with a lower score is not called crisp, even if no fault was found
PATTERNS = 6  # as many as `fault_sentence` and `reasoning` have together


@torch.no_grad()
def predicted_faults(heads: ProjectorsWithHeads, parts: Parts) -> list[tuple[Named, ...]]:
    """Of each image: none, one or two faults, the likelier one first."""
    _, logits, levels = heads(parts[:TONES])
    probabilities, order = logits.sigmoid().sort(1, descending=True)
    found = []
    for likely, families, level in zip(
        probabilities.tolist(), order.tolist(), levels.tolist(), strict=True
    ):
        named = []
        for rank, least in enumerate((SURE, SECOND)):
            if likely[rank] > least and len(named) == rank:
                family = families[rank]
                strength = min(max(round(level[family] * max(LEVELS)), 1), max(LEVELS))
                named.append(Named(FAMILIES[family], strength))
        found.append(tuple(named))
    return found


def responses(
    images: Sequence[Path],
    faults: Sequence[tuple[Named, ...]],
    parts: Parts,
    scores: Tensor,
    errors: Tensor,
    *,
    undamaged: bool,
) -> list[Row]:
    """A row for each image with the response to learn: `mos` is the score, `std` the error to expect.

    undamaged: an image without a fault is known to have none, whatever its score.
    """
    rows = []
    for i, image in enumerate(images):
        score, std = float(scores[i]), float(errors[i])
        pattern = choice(image.name, PATTERNS)
        if faults[i]:
            said = fault_sentence(faults[i], pattern)
        else:
            crisp = undamaged or score > GOOD
            said = (CRISP if crisp else UNSURE)[pattern % 2]
        words = reasoning(said, Tones(*parts[TONES][i].tolist()), score, pattern)
        rows.append(Row(image, score, dataset="responses", std=std, reasoning=words))
    return rows


def lesson_responses(lessons: Sequence[Lesson], parts: Parts, readers: Readers) -> list[Row]:
    with torch.no_grad():
        quality, errors = readers(parts).unbind(1)
    images = [one.image for one in lessons]
    faults = [one.faults for one in lessons]
    return responses(images, faults, parts, quality, errors, undamaged=True)
