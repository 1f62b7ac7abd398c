"""Stage 11 of build.py: give `nano` its words back.

RL2R rewards the score alone, and a model this small loses words over it: sentences break off, and faults are named less
truly than before. So it learns, supervised, what it would best have said of each image: the fault that was applied, or
on rated photos the one that is read off them, where one is likelier than not; tones as the pixels have them; and the
score that it expects itself after RL2R, in the verdict too. No MOS is looked at here.
"""

import sys
from pathlib import Path

from reading import named_faults
from rich.console import Console
from tower import level_of
from words import UNSURE, fault, reasoning

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from remembered import rate

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import load
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder

SURE = 0.5
GOOD = 3.5  # below it a photo on which no fault is read is not called crisp


def best_words(read: Path, final: Path, rated: Path, lessons: Path, output: Path, console: Console) -> Path:
    """The manifest to learn from: `mos` is the score that the model `final` expects, on 1 to 5."""
    if output.exists():
        return output
    photos, taught = (Manifest.read(path, check_images=False).rows for path in (rated, lessons))
    console.print(f"what to say of {len(photos)} photos and {len(taught)} lessons")
    rows = [*photos, *taught]
    expecting = Scorer(load(str(final), device="cpu"), mode="expect", batch=32)
    scores = rate(expecting, PromptEncoder(expecting.vlm, remember=True), rows)
    faults = named_faults(read, rated) + [(row.distortion, level_of(row), 1.0) for row in taught]
    learnt = []
    for row, rating, (family, level, share) in zip(rows, scores, faults, strict=True):
        if rating.score is None:
            continue
        sure = share > SURE and (family is not None or row.dataset == "lessons" or rating.score > GOOD)
        words = reasoning(open_image(row.image), fault(family, level) if sure else UNSURE, rating.score)
        learnt.append(Row(row.image, rating.score, dataset="distilled", reasoning=words))
    Manifest(tuple(learnt)).write(output)
    return output
