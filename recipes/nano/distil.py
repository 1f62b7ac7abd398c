"""Stage 9 of build.py: give `nano` its words back.

RL2R rewards the score alone, and a model this small loses words over it: sentences break off, and faults are named less
truly than after the warm-up. So it learns, supervised, what it would best have said of each image: the fault that was
applied, or on rated photos the one that the warm-up's model names; tones as the pixels have them; and the score that it
expects itself after RL2R, in the verdict too. No MOS is looked at here.
"""

import sys
from pathlib import Path

from rich.console import Console
from words import overall, tones

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from remembered import rate

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import load
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder

RATED = 5000  # photos: the first of the manifest, which are in no order of quality


def lessons(warm: Path, final: Path, rated: Path, described: Path, output: Path, console: Console) -> Path:
    """The manifest to learn from: `mos` is the score that the model expects, on 1 to 5."""
    if output.exists():
        return output
    photos = Manifest.read(rated, check_images=False).rows
    photos = photos[:RATED]
    synthetic = Manifest.read(described, check_images=False).rows
    console.print(f"what to say of {len(photos)} photos and {len(synthetic)} synthetic images")
    rows = [*photos, *synthetic]
    expecting = Scorer(load(str(final), device="cpu"), mode="expect", batch=32)
    likeliest = Scorer(load(str(warm), device="cpu"), samples=1, temperature=0, batch=32)
    encode = PromptEncoder(expecting.vlm, remember=True)  # all models here have one tower
    scores = rate(expecting, encode, rows)
    said = [r.reasoning for r in rate(likeliest, encode, photos)] + [row.reasoning for row in synthetic]
    learnt = []
    for row, rating, reasoning in zip(rows, scores, said, strict=True):
        if reasoning is None or rating.score is None:
            continue
        fault = reasoning.split(". ")[0]
        words = f"{fault}. {tones(open_image(row.image))} The quality is {overall(rating.score)}."
        learnt.append(Row(row.image, rating.score, dataset="distilled", reasoning=words))
    Manifest(tuple(learnt)).write(output)
    return output
