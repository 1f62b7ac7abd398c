"""Stage 5 of build.py: the "lessons", images with a known fault from which `nano` learns to name faults.

They are random parts of clean photos and of the best-rated ones, some of them shrunk, most of them distorted. There
are many more of them than of images with a pseudo-MOS. The score of a lesson is only the average pseudo-MOS of its
family and level in the synthetic set, since no metric is run on it.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from visualquality.data.distort import LEVELS, distort
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.models.nano.tower import STRIDE

from .tower import LEVEL_SHARES, level_of, photos_to_distort
from .words import FAULTS, fault_sentence, reasoning

LESSONS = 9000
UNDISTORTED = 0.12  # share of the lessons that stay as they are
SHRUNK_SHARE = 0.6
SHRUNK = (0.55, 1.0)  # factor; shrinking removes the photo's own noise and JPEG blocks
SIDES = (8, 16)  # smallest and largest side of a lesson, in strides of the tower (32 pixels)


def make_lessons(clean: Path, rated: Path, folder: Path, workers: int) -> Path:
    """Write LESSONS images and their manifest: `mos` is typical of family and level, reasonings name the true fault."""
    manifest = folder / "lessons.csv"
    if manifest.exists():
        return manifest
    synthetic, photos = (Manifest.read(path).rows for path in (clean, rated))
    # (family, level) -> the pseudo-MOS of the synthetic images that have it
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
    pools = photos_to_distort(photos, synthetic)
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
    """Lesson number `index`. It depends on the number and the photos alone, so any process may make it."""
    # 5 keeps these draws apart from those of other stages with the same number.
    rng = np.random.default_rng([5, index])
    photos = pools[index % len(pools)]
    image = random_part(open_image(photos[rng.integers(len(photos))]), rng)
    family, level = None, 0
    if rng.random() >= UNDISTORTED:
        family = str(rng.choice(list(FAULTS)))
        level = int(rng.choice(LEVELS, p=LEVEL_SHARES))
        image = distort(image, family, level, seed=int(rng.integers(2**31)))
    path = folder / f"{index:05}.png"
    # PNG: JPEG would add a fault of its own.
    image.save(path, compress_level=1)
    mos = typical[family, level]
    words = reasoning(image, fault_sentence(family, level), mos)
    return Row(
        path,
        mos,
        dataset="lessons",
        distortion=family,
        reasoning=words,
        extra={"level": str(level)},
    )


def random_part(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 256 to 512 pixels a side (or the photo's own, if smaller), in most cases of a shrunk copy."""
    # A photo is never shrunk so far that the smallest part would not fit.
    smallest = SIDES[0] * STRIDE / min(photo.size)
    scale = max(smallest, rng.uniform(*SHRUNK)) if rng.random() < SHRUNK_SHARE else 1.0
    if scale < 1:
        photo = photo.resize(
            (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS
        )
    most = [min(side // STRIDE, SIDES[1]) for side in photo.size]
    width, height = (int(rng.integers(min(SIDES[0], side), side + 1)) * STRIDE for side in most)
    left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
    return photo.crop((left, top, left + width, top + height))
