"""Synthetic ranking sets: distorted copies of reference photos, labelled with a pseudo-MOS.

A pseudo-MOS is computed from the score that a full-reference metric gives a distorted image and its reference.
No person has rated the image: never report it as a human score.
"""

import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from scipy.special import expit

from ..errors import UserError
from ..io import write_whole
from ..seeds import generator, seed_number
from .distortions import FAMILIES
from .images import image_digest, open_image
from .manifest import Manifest, Row

LEVELS = (1, 2, 3, 4, 5)

# The logistic of `pseudo_mos`, in units of SSIMULACRA 2.
_MIDDLE, _WIDTH = 55.06, 20.3
# Pixels; below it SSIMULACRA 2 drops its coarsest scales and mixes up the weights of the others.
_SHORTEST = 256


def distort(image: Image.Image, family: str, level: int, seed: int) -> Image.Image:
    """A distorted copy of `image`: RGB, of the same size (other modes are converted as `open_image` does).

    family: a key of `FAMILIES`; level: 1 (just noticeable) to 5 (very strong). The same arguments give the
    same pixels in every process; levels of one family and seed share their random draw and differ in
    strength alone.
    Raises UserError for an unknown family or level.
    """
    _check_families([family])
    if level not in LEVELS:
        raise UserError(
            f"unknown distortion level {level!r}: choose one of {', '.join(map(str, LEVELS))}"
        )
    rng = generator(f"{family}:{seed}")
    return Image.fromarray(FAMILIES[family](np.array(open_image(image)), level, rng))


def pseudo_mos(reference: Image.Image, distorted: Image.Image) -> float:
    """A pseudo-MOS in [1, 5], 5 for the reference itself, from SSIMULACRA 2 (Sneyers, Cloudinary, 2023).

    The metric's score s (100 identical, 90 visually lossless, 70 high, 50 medium, 30 low quality, unbounded
    below) goes through 1 + 4 L(s) / L(100), L(s) = 1 / (1 + exp(-(s - 55.06) / 20.3)). That is the logistic
    which takes 100 to 5, 70 to 4 ("good") and 30 to 2 ("poor" in the five-point scale of ITU-R BT.500); 50
    becomes 2.9. Images with a side below 256 pixels are extended to 256 by mirroring.
    Raises UserError if the sizes differ or the optional package `ssimulacra2` is missing.
    """
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ModuleNotFoundError as error:
        raise UserError(
            "a pseudo-MOS needs an extra: pip install visualquality[synthetic]"
        ) from error
    pair = open_image(reference), open_image(distorted)
    if pair[0].size != pair[1].size:
        sizes = " and ".join("{} × {}".format(*image.size) for image in pair)
        raise UserError(
            f"reference and distorted image have {sizes} pixels: make their sizes equal"
        )
    score, identical = compute_ssimulacra2(*map(_in_memory, pair)), 100.0
    share = expit((score - _MIDDLE) / _WIDTH) / expit((identical - _MIDDLE) / _WIDTH)
    return 1.0 + 4.0 * float(share)


def build_set(
    references: Sequence[Path],
    output: Path,
    *,
    per_reference: int,
    seed: int,
    families: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Path:
    """Write a ranking set and return the path of its manifest, `output/manifest.csv`.

    Each reference, and `per_reference` distorted copies of it, become PNG files in `output/images/<stem>/`.
    The manifest has the columns image, mos (the pseudo-MOS; 5 for a reference), reference, distortion and
    level, with paths relative to itself. Which distortions a reference gets depends on `seed` and its stem
    only: each of `families` (by default all) comes equally often, give or take one, and no pair of family
    and level comes twice.

    An image that an interrupted run has left is kept, with its pseudo-MOS, if it has the same origin. The
    manifest is written at the end. After each reference, `progress(done, total)` is called with numbers of
    images. `workers` above 1 start that many processes.
    Raises UserError for an unknown family, an unreadable image, stems that come twice, and a
    `per_reference` that is not between 1 and five times the number of families.
    """
    # All arguments are checked before any image is written.
    families = list(dict.fromkeys(families or FAMILIES))
    _check_families(families)
    if not references:
        raise UserError("no reference image is given: name at least one")
    by_stem: dict[str, Path] = {}
    for path in references:
        # Some file systems do not tell A.png from a.png.
        before = by_stem.setdefault(path.stem.casefold(), path)
        if before is not path:
            raise UserError(f"{before} and {path} have the same stem: rename one")
    most = len(families) * len(LEVELS)
    if not 1 <= per_reference <= most:
        text = f"{len(families)} families at {len(LEVELS)} levels give at most {most}"
        raise UserError(f"per_reference is {per_reference}, but {text}: choose from 1 to that")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a folder for the set")
    task = partial(_build_reference, output / "images", families, per_reference, seed)
    # Spawned, since a fork of a process with threads (torch has some) may hang.
    spawn = multiprocessing.get_context("spawn")
    rows: list[Row] = []
    with ProcessPoolExecutor(workers, mp_context=spawn) if workers > 1 else nullcontext() as pool:
        for done in pool.map(task, references) if pool else map(task, references):
            rows += done
            # After every reference, since its images are safe now.
            if progress:
                progress(len(rows), len(references) * (per_reference + 1))
    # At the end: an interrupted run has no manifest that could be mistaken for a whole one.
    manifest = output / "manifest.csv"
    Manifest(tuple(rows)).write(manifest)
    return manifest


def _build_reference(
    folder: Path, families: Sequence[str], per_reference: int, seed: int, path: Path
) -> list[Row]:
    """One reference and its copies: files written where missing, and their rows."""
    reference = open_image(path)
    origin, folder = image_digest(reference), folder / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    original = folder / "reference.png"
    name = f"images/{path.stem}/{original.name}"
    if _stored_mos(original, origin) is None:
        _store(original, reference, origin, 5.0)
    rows = [Row(original, 5.0, dataset="", reference=name, extra={"level": None})]
    # By its stem, so that references do not share one noise pattern.
    own_seed = seed_number(f"{seed}:{path.stem}")
    for family, level in _draw(families, per_reference, own_seed):
        target = folder / f"{family}_{level}.png"
        # An image of another run counts only if all of this is the same.
        made_from = f"{origin} {family} {level} {own_seed}"
        mos = _stored_mos(target, made_from)
        if mos is None:
            copy = distort(reference, family, level, own_seed)
            # Rounded, since the last digits may differ from machine to machine.
            mos = round(pseudo_mos(reference, copy), 6)
            _store(target, copy, made_from, mos)
        rows.append(
            Row(target, mos, dataset="", reference=name, distortion=family, extra={"level": level})
        )
    return rows


def _draw(families: Sequence[str], count: int, seed: int) -> list[tuple[str, int]]:
    """`count` distinct pairs of family and level: rounds through all families, each at a new level."""
    rng = generator(f"draw:{seed}")
    order = [families[i] for i in rng.permutation(len(families))]
    levels = {family: rng.permutation(LEVELS).tolist() for family in order}
    pairs = []
    # A round takes each family once, so families differ by one image at most.
    for i in range(count):
        turn, place = divmod(i, len(order))
        family = order[place]
        pairs.append((family, levels[family][turn]))
    return pairs


def _store(path: Path, image: Image.Image, origin: str, mos: float) -> None:
    """The pseudo-MOS lies in the file, so that no image lacks it wherever a run is interrupted."""
    text = PngInfo()
    text.add_text("origin", origin)
    text.add_text("pseudo_mos", repr(mos))
    with write_whole(path) as part:
        image.save(part, "PNG", pnginfo=text)


def _stored_mos(path: Path, origin: str) -> float | None:
    """What `_store` wrote, or None if the image is not there or was made from something else."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return float(image.info["pseudo_mos"]) if image.info.get("origin") == origin else None
    except (FileNotFoundError, UnidentifiedImageError):
        return None


def _check_families(families: Sequence[str]) -> None:
    for family in families:
        if family not in FAMILIES:
            choices = ", ".join(FAMILIES)
            raise UserError(f"unknown distortion family {family!r}: choose one of {choices}")


def _in_memory(image: Image.Image) -> io.BytesIO:
    """The image as an uncompressed file, since `ssimulacra2` only opens files."""
    pixels = np.array(image)
    height, width, _ = pixels.shape
    below, right = max(0, _SHORTEST - height), max(0, _SHORTEST - width)
    # Continued by its mirror image, which adds no edge that the metric would see.
    enlarged = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="symmetric")
    memory = io.BytesIO()
    Image.fromarray(enlarged).save(memory, "PPM")
    memory.seek(0)
    return memory
