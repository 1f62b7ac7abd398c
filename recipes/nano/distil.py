"""Stages 11 and 12 of build.py: restore the sentences of `nano` after RL2R.

RL2R rewards the score alone. A model this small loses its sentences over it: some break off, and fewer of the named
faults are true. So it learns, supervised, the best response for each image: the fault that was applied (on rated
photos the predicted one, where it is more probable than not), tones computed from the pixels, and a score. The score
is the mean of two: the model's own expected score after RL2R, and a linear regression on the tower's later stages,
which is better on images of another kind (ridge.py).
"""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import load
from visualquality.response import HIGHEST, LOWEST
from visualquality.score.scorer import Scorer
from visualquality.train.examples import PromptEncoder

from .features import CACHE, image_statistics, rate_rows
from .reading import predicted_faults
from .ridge import fit
from .tower import level_of
from .words import UNSURE, fault_sentence, reasoning

SURE = 0.5  # probability of a fault above which it is named
GOOD = 3.5  # a photo with a lower score is not called crisp, even if no fault was found


def distil_manifest(
    read: Path, start: Path, rated: Path, lessons: Path, output: Path, console: Console
) -> Path:
    """Write the manifest that stage 12 learns from: the rated photos and the lessons, `mos` from `target_scores`.

    `read` is the folder of stage 7, `start` that of the model after stage 11.
    """
    if output.exists():
        return output
    photos, taught = (Manifest.read(path, check_images=False).rows for path in (rated, lessons))
    console.print(f"making sentences for {len(photos)} photos and {len(taught)} lessons")
    scores = target_scores(start, rated, lessons).tolist()
    faults = predicted_faults(read, rated) + [
        (row.distortion, level_of(row), 1.0) for row in taught
    ]
    rows = []
    for row, score, (family, level, probability) in zip(
        [*photos, *taught], scores, faults, strict=True
    ):
        # Whether a lesson is distorted is known. Of a photo, "no distortion" is only believed if its score is high.
        credible = family is not None or row.dataset == "lessons" or score > GOOD
        fault = fault_sentence(family, level) if probability > SURE and credible else UNSURE
        words = reasoning(open_image(row.image), fault, score)
        rows.append(Row(row.image, score, dataset="distilled", reasoning=words))
    Manifest(tuple(rows)).write(output)
    return output


def target_scores(start: Path, rated: Path, lessons: Path) -> Tensor:
    """(N,) scores from 1 to 5 of the rated photos and then the lessons.

    Each is the mean of the expected score of the model `start` and of its linear regression, which is first brought to
    the mean and standard deviation of the expected scores.
    """
    expecting = Scorer(load(str(start), device="cpu"), mode="expect", batch=32)
    encode = PromptEncoder(expecting.vlm, CACHE)
    vision = expecting.vlm.model.model.vision
    photos, taught = (image_statistics(path, encode, vision.widths) for path in (rated, lessons))
    # Both predictions use the same features, so the tower sees each image once.
    ratings = rate_rows(expecting, encode, [*photos.rows, *taught.rows])
    # The mode `expect` draws nothing, so no score is None.
    first = torch.tensor([rating.score for rating in ratings])
    second = torch.cat([vision.quality.read(images.statistics) for images in (photos, taught)])
    second = first.mean() + (second - second.mean()) / second.std() * first.std()
    return ((first + second) / 2).clamp(LOWEST, HIGHEST)


def add_linear_quality(final: Path, rated: Path, synthetic: Path, folder: Path) -> Path:
    """The folder of the model `final` with the linear regression added, which its decoder ignores until stage 12."""
    if not (folder / "model.safetensors").exists():
        vlm = load(str(final), device="cpu")
        vision, encode = vlm.model.model.vision, PromptEncoder(vlm, CACHE)
        sets = [image_statistics(path, encode, vision.widths) for path in (rated, synthetic)]
        vision.quality = fit(sets, vlm.model.config.text_config.hidden_size)
        vlm.model.config.linear_quality = True
        vlm.processor.save_pretrained(folder)
        vlm.model.save_pretrained(folder)
    return folder
