"""Stage 5 of build.py: images whose fault is known, many more than have a pseudo-MOS, for `nano` to learn to name.

Clean photos and the best-rated ones are cut to pieces, made smaller or not, and distorted, most often visibly. The
score that goes with one is what the metric gives its family and level on average over the synthetic set: a lesson in
words is no rating.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image
from tower import SHARES, level_of, to_distort
from words import FAULTS, fault, reasoning

from visualquality.data.distort import LEVELS, distort
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.models.nano.tower import STRIDE

LESSONS = 9000
UNTOUCHED = 0.12
SHRUNK = (0.55, 1.0)  # a smaller copy has neither blocks nor noise of its own
SIDES = (8, 16)  # strides


def make_lessons(clean: Path, rated: Path, folder: Path, workers: int) -> Path:
    """The manifest of the LESSONS images: its `mos` are typical ones, its reasonings true of what was applied."""
    manifest = folder / "lessons.csv"
    if manifest.exists():
        return manifest
    synthetic, photos = (Manifest.read(path).rows for path in (clean, rated))
    scores: dict[tuple[str | None, int], list[float]] = defaultdict(list)
    for row in synthetic:
        scores[row.distortion, level_of(row)].append(row.mos)
    if missing := [
        f"{family} {level}"
        for family in FAULTS
        for level in LEVELS
        if (family, level) not in scores
    ]:
        raise UserError(
            f"{clean} has no image of {', '.join(missing[:3])}: give more clean photos to distort"
        )
    pools = to_distort(photos, synthetic)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(
        lesson, pools, {case: fmean(found) for case, found in scores.items()}, folder / "images"
    )
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(make, range(LESSONS), chunksize=20))
    Manifest(tuple(rows)).write(manifest)
    return manifest


def lesson(
    pools: Sequence[Sequence[Path]],
    typical: dict[tuple[str | None, int], float],
    folder: Path,
    index: int,
) -> Row:
    """The image of this number, a function of it and of the photos alone."""
    rng = np.random.default_rng([5, index])
    photos = pools[index % len(pools)]
    image = piece(open_image(photos[rng.integers(len(photos))]), rng)
    family, level = None, 0
    if rng.random() >= UNTOUCHED:
        family = str(rng.choice(list(FAULTS)))
        level = int(rng.choice(LEVELS, p=SHARES))
        image = distort(image, family, level, seed=int(rng.integers(2**31)))
    path = folder / f"{index:05}.png"
    image.save(path, compress_level=1)
    mos = typical[family, level]
    words = reasoning(image, fault(family, level), mos)
    return Row(
        path,
        mos,
        dataset="lessons",
        distortion=family,
        reasoning=words,
        extra={"level": str(level)},
    )


def piece(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 256 to 512 px a side, where the photo has as much; from a smaller copy of it in most cases."""
    smallest = SIDES[0] * STRIDE / min(photo.size)
    scale = max(smallest, rng.uniform(*SHRUNK)) if rng.random() < 0.6 else 1.0
    if scale < 1:
        photo = photo.resize(
            (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS
        )
    most = [min(side // STRIDE, SIDES[1]) for side in photo.size]
    width, height = (int(rng.integers(min(SIDES[0], side), side + 1)) * STRIDE for side in most)
    left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
    return photo.crop((left, top, left + width, top + height))
