"""What the tower is trained on (tower.py): rated photos, pictures of chains and distorted crops, in batches.

A batch depends on its number alone, so a run that resumes sees what it would have seen.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from visualquality.data.distort import LEVELS, distort
from visualquality.data.distortions import FAMILIES as SYNTHETIC
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.nano.tower import MIDDLE, SPREAD, STRIDE
from visualquality.seeds import order_key

from .chains import read_chains

CROP = 10 * STRIDE
FAMILIES = [None, *SYNTHETIC]
HELD_OUT = 0.05  # share of the rated photos
UNDISTORTED = 0.1  # share of the crops to be distorted that stay as they are
LEVEL_SHARES = (0.08, 0.23, 0.23, 0.23, 0.23)  # level 1 is hardly visible
CLEAN = 0.8  # quantile of the ratings above which a photo is good enough to be distorted
STEPS = 1500
# Crops in a batch: rated photos, pairs of pictures of a chain, and crops that are distorted while loading.
RATED, PAIRS, DISTORTED = 18, 7, 8


@dataclass(frozen=True)
class Batch:
    """Crops in this order: RATED photos, PAIRS of pictures (the better one of each, then the worse ones), DISTORTED.

    mos: of the first. places: (2, PAIRS) of the pictures in their chains. families, levels: of the last.
    """

    pixels: Tensor
    mos: Tensor
    places: Tensor
    families: Tensor
    levels: Tensor


def normalised(image: Image.Image) -> Tensor:
    """(3, h, w) float32, normalised as the published weights expect, h and w cut to multiples of the stride."""
    array = np.asarray(image, dtype=np.float32)
    height, width = (side // STRIDE * STRIDE for side in array.shape[:2])
    return torch.from_numpy(((array[:height, :width] - MIDDLE) / SPREAD).transpose(2, 0, 1).copy())


def random_crop(path: Path, rng: np.random.Generator) -> Image.Image:
    """CROP x CROP pixels, mirrored half of the time; a smaller image is enlarged first."""
    image = open_image(path)
    scale = max(1.0, CROP / min(image.size))
    if scale > 1:
        image = image.resize((math.ceil(image.width * scale), math.ceil(image.height * scale)))
    left, top = rng.integers(0, image.width - CROP + 1), rng.integers(0, image.height - CROP + 1)
    image = image.crop((left, top, left + CROP, top + CROP))
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


class Batches:
    """The batches. Each depends on its number alone, so a resumed run sees the same ones."""

    def __init__(
        self, rated: Sequence[Row], clean: Sequence[Path], chains: Sequence[Sequence[Path]]
    ):
        self.rated, self.chains = rated, chains
        # Clean and best-rated photos in turn.
        self.to_distort = (clean, best_rated(rated))

    def from_step(self, start: int) -> Iterator[Batch]:
        """The batches from number `start` on, each loaded while the step before it is trained."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.make, start)
            for step in range(start, STEPS):
                ready = following.result()
                following = pool.submit(self.make, step + 1)
                yield ready

    def make(self, step: int) -> Batch:
        photos = members(self.rated, RATED, step)
        crops = [
            normalised(random_crop(row.image, np.random.default_rng([step, i])))
            for i, row in enumerate(photos)
        ]
        rng = np.random.default_rng([step, len(crops)])
        chosen = members(self.chains, PAIRS, step)
        pairs = [np.sort(rng.choice(len(chain), 2, replace=False)) for chain in chosen]
        for which in range(2):
            for chain, pair in zip(chosen, pairs, strict=True):
                crops.append(normalised(open_image(chain[pair[which]])))
        families, levels = [], []
        for index in range(DISTORTED):
            rng = np.random.default_rng([step, len(crops) + index])
            pool = self.to_distort[index % 2]
            crop = random_crop(pool[rng.integers(len(pool))], rng)
            family, level = 0, 0
            if rng.random() >= UNDISTORTED:
                family = int(rng.integers(1, len(FAMILIES)))
                level = int(rng.choice(LEVELS, p=LEVEL_SHARES))
                crop = distort(crop, FAMILIES[family], level, seed=int(rng.integers(2**31)))
            crops.append(normalised(crop))
            families.append(family)
            levels.append(level / max(LEVELS))
        return Batch(
            torch.stack(crops),
            torch.tensor([row.mos for row in photos]),
            torch.tensor(np.array(pairs).T),
            torch.tensor(families),
            torch.tensor(levels),
        )


Member = TypeVar("Member")


def members(everything: Sequence[Member], size: int, step: int) -> list[Member]:
    """Those of a step's batch: in a new order in each epoch."""
    per_epoch = len(everything) // size
    # 7 keeps it apart from the other generators.
    order = np.random.default_rng([7, step // per_epoch]).permutation(len(everything))
    at = step % per_epoch * size
    return [everything[i] for i in order[at : at + size]]


def best_rated(rated: Sequence[Row]) -> list[Path]:
    """The photos that are good enough to be distorted."""
    good = np.quantile([r.mos for r in rated], CLEAN)
    return [r.image for r in rated if r.mos > good]


def by_chain(table: Path) -> list[list[Path]]:
    """The pictures of each chain, from the best to the worst; without those that differ in size."""
    chains: dict[int, list[Path]] = defaultdict(list)
    for picture in read_chains(table):
        if picture.kind != "smaller":
            chains[picture.chain].append(Path(picture.image))
    return list(chains.values())


def hold_out(manifest: Path, folder: Path) -> tuple[Path, Path]:
    """Split the train part: the manifests of the photos to train on, and of the one in twenty to validate on."""
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in Manifest.read(manifest).rows:
        if row.split in (None, "train"):
            share = int.from_bytes(order_key(0, row.image.name)[:4]) / 2**32
            parts[share < HELD_OUT].append(row)
    paths = folder / "rated.csv", folder / "held_out.csv"
    for path, rows in zip(paths, parts, strict=True):
        Manifest(tuple(rows)).write(path)
    return paths
