"""Stage 6 of build.py: the "lessons", images with known faults from which `nano` learns to name faults.

They are random parts of clean photos and of the best-rated ones, some of them shrunk, most of them distorted: with one
fault, with two, or with one in a quarter of the image only. Nothing is said here of how good they are.
"""

import csv
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from visualquality.data.distort import LEVELS, distort
from visualquality.data.distortions import FAMILIES as SYNTHETIC
from visualquality.data.images import open_image
from visualquality.io import progress_bar, tracked, write_whole
from visualquality.models.nano.tower import STRIDE

from .batches import LEVEL_SHARES
from .damages import damaged
from .words import FAULTS, PLACES, Named

LESSONS = 6000
# Shares of lessons without a fault, with two faults, and with one in a part of the image.
NONE, TWO, LOCAL = 0.13, 0.17, 0.12
SHRUNK_SHARE = 0.6
SHRUNK = (0.55, 1.0)  # factor; shrinking removes the photo's own noise and JPEG blocks
SIDES = (8, 16)  # smallest and largest side of a lesson, in strides of the tower (32 pixels)
# Families that change colours or tones as a whole: in a quarter of the image they would look like something else.
GLOBAL = {"brighten", "darken", "mean_shift", "contrast_change", "haze", "cast"}
SEVERAL = {"non_eccentricity_patch", "color_block"}  # they are in a few places anyway


@dataclass(frozen=True)
class Lesson:
    """An image and its faults, the stronger one first; none where it is undamaged."""

    image: Path
    faults: tuple[Named, ...]


def make_lessons(
    clean: Sequence[Path], rated: Sequence[Path], folder: Path, console: Console, workers: int
) -> Path:
    """Write LESSONS images and `lessons.csv`, their list; return its path. What an interrupted run left is kept.

    clean: photos without damage. rated: photos to which people gave high ratings. They come in turn.
    """
    table = folder / "lessons.csv"
    if table.exists():
        return table
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(lesson, (sorted(clean), rated), folder / "images")
    with ProcessPoolExecutor(workers) as pool, progress_bar(console) as bar:
        made = pool.map(make, range(LESSONS), chunksize=20)
        lessons = list(tracked(bar, made, "making lessons", LESSONS))
    with write_whole(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "faults"])
        for one in lessons:
            writer.writerow([one.image.name, json.dumps([asdict(fault) for fault in one.faults])])
    return table


def read_lessons(table: Path) -> list[Lesson]:
    """The lessons that `make_lessons` listed."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lessons = []
    for row in rows:
        faults = []
        for fault in json.loads(row["faults"]):
            place = None if fault["place"] is None else (fault["place"][0], fault["place"][1])
            faults.append(Named(fault["family"], fault["level"], place))
        lessons.append(Lesson(table.parent / "images" / row["image"], tuple(faults)))
    return lessons


def lesson(pools: tuple[Sequence[Path], Sequence[Path]], folder: Path, number: int) -> Lesson:
    """Lesson number `number`. It depends on the number and the photos alone, so any process may make it."""
    # 5 keeps these draws apart from those of other stages with the same number.
    rng = np.random.default_rng([5, number])
    photos = pools[number % len(pools)]
    photo = photos[rng.integers(len(photos))]
    path = folder / f"{number:05}.png"
    faults = draw_faults(rng)
    if not path.exists():
        image = random_part(open_image(photo), rng)
        # The weaker one first: a strong blur would hide the noise below it, and strong noise stays visible.
        for fault in reversed(faults):
            image = with_fault(image, fault, seed=number)
        with write_whole(path) as part:
            # PNG: JPEG would add a fault of its own.
            image.save(part, "PNG", compress_level=1)
    return Lesson(path, faults)


def draw_faults(rng: np.random.Generator) -> tuple[Named, ...]:
    """None, one or two faults, the stronger one first."""
    kind = rng.random()
    if kind < NONE:
        return ()
    families = rng.choice(list(FAULTS), 2, replace=False)
    levels = rng.choice(LEVELS, 2, p=LEVEL_SHARES)
    first = Named(str(families[0]), int(levels[0]))
    if kind < NONE + TWO:
        second = Named(str(families[1]), int(levels[1]))
        return (first, second) if first.level >= second.level else (second, first)
    local = kind < NONE + TWO + LOCAL and first.family not in GLOBAL | SEVERAL
    if local:
        places = list(PLACES)
        return (Named(first.family, max(3, first.level), places[rng.integers(len(places))]),)
    return (first,)


def with_fault(image: Image.Image, fault: Named, seed: int) -> Image.Image:
    """The image with a fault, in the quarter that the fault names or everywhere."""
    if fault.family in SYNTHETIC:
        changed = distort(image, fault.family, fault.level, seed=seed)
    else:
        strength = fault.level / max(LEVELS)
        changed = Image.fromarray(damaged(np.array(image), fault.family, strength, seed))
    if fault.place is None:
        return changed
    width, height = image.width // 2, image.height // 2
    corner = (fault.place[1] * width, fault.place[0] * height)
    box = (*corner, corner[0] + width, corner[1] + height)
    result = image.copy()
    result.paste(changed.crop(box), corner)
    return result


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
