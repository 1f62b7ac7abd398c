"""Stages 11 and 12 of build.py: give `nano` its words back.

RL2R rewards the score alone, and a model this small loses words over it: sentences break off, and faults are named less
truly than before. So it learns, supervised, what it would best have said of each image: the fault that was applied, or
on rated photos the one that is read off them, where one is likelier than not; tones as the pixels have them; and, in
the verdict too, the mean of the score that it expects itself after RL2R and of a linear reading of the tower's later
stages, which holds better on images of another kind (ridge.py).
"""

import sys
from pathlib import Path

import torch
from reading import look, named_faults
from rich.console import Console
from ridge import fit
from torch import Tensor
from tower import level_of
from words import UNSURE, fault, reasoning

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from remembered import rate

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import load
from visualquality.response import HIGHEST, LOWEST
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder

SURE = 0.5
GOOD = 3.5  # below it a photo on which no fault is read is not called crisp


def best_words(
    read: Path, start: Path, rated: Path, lessons: Path, output: Path, console: Console
) -> Path:
    """The manifest to learn from, of the rated photos and the lessons; `mos` is what `scores` gives, on 1 to 5."""
    if output.exists():
        return output
    photos, taught = (Manifest.read(path, check_images=False).rows for path in (rated, lessons))
    console.print(f"what to say of {len(photos)} photos and {len(taught)} lessons")
    found = scores(start, rated, lessons)
    faults = named_faults(read, rated) + [(row.distortion, level_of(row), 1.0) for row in taught]
    learnt = []
    for row, score, (family, level, share) in zip(
        [*photos, *taught], found.tolist(), faults, strict=True
    ):
        sure = share > SURE and (family is not None or row.dataset == "lessons" or score > GOOD)
        words = reasoning(open_image(row.image), fault(family, level) if sure else UNSURE, score)
        learnt.append(Row(row.image, score, dataset="distilled", reasoning=words))
    Manifest(tuple(learnt)).write(output)
    return output


def scores(start: Path, rated: Path, lessons: Path) -> Tensor:
    """For the rated photos and the lessons, the mean of what the model `start` expects and of its linear reading of
    quality, brought to the same mean and standard deviation."""
    expecting = Scorer(load(str(start), device="cpu"), mode="expect", batch=32)
    encode = PromptEncoder(expecting.vlm, remember=True)
    vision = expecting.vlm.model.model.vision
    photos, taught = (look(path, encode, vision.widths) for path in (rated, lessons))
    ratings = rate(expecting, encode, [*photos.rows, *taught.rows])
    first = torch.tensor(
        [rating.score for rating in ratings]
    )  # there always is one: nothing is drawn
    second = torch.cat([vision.quality.read(seen.statistics) for seen in (photos, taught)])
    second = first.mean() + (second - second.mean()) / second.std() * first.std()
    return ((first + second) / 2).clamp(LOWEST, HIGHEST)


def with_quality(final: Path, rated: Path, synthetic: Path, folder: Path) -> Path:
    """The model `final` with a linear reading of quality, of which its decoder knows nothing yet."""
    if not (folder / "model.safetensors").exists():
        vlm = load(str(final), device="cpu")
        vision, encode = vlm.model.model.vision, PromptEncoder(vlm, remember=True)
        seen = [look(path, encode, vision.widths) for path in (rated, synthetic)]
        vision.quality = fit(seen, vlm.model.config.text_config.hidden_size)
        vlm.model.config.linear_quality = True
        vlm.processor.save_pretrained(folder)
        vlm.model.save_pretrained(folder)
    return folder
