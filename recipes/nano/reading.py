"""Stage 7 of build.py: train the projectors of the whole image, before the decoder learns to use their tokens.

Three linear heads on the sum of an image's global tokens predict its MOS, which distortion was applied, and how
strongly. The loss of the MOS is 1 - PLCC of each set's images in the batch, so the sets keep their own scales. Dropout
removes most of the tower's statistics at each step: they are ten times as many as those of the pixels, but most faults
are seen in the pixels.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from visualquality.data.distort import LEVELS
from visualquality.models.load import VisionLanguageModel, load
from visualquality.models.nano.vision import STAGE_WIDTHS, Projector
from visualquality.train.examples import PromptEncoder

from .features import CACHE, image_statistics
from .tower import FAMILIES, agreement, plcc_loss, save

STEPS, WARMUP = 2000, 0.1
IMAGES = {"rated": 96, "synthetic": 32, "lessons": 160}  # in a batch
# Of the losses, as in tower.py.
WEIGHTS = {"rated": 1.0, "synthetic": 0.3, "family": 1.0, "severity": 0.3}
# Dropout, of the tower's statistics, of those of the pixels, and of the sum of the tokens.
TOWER_DROPOUT, PIXELS_DROPOUT, SUM_DROPOUT = 0.7, 0.1, 0.2
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


class ProjectorsWithHeads(nn.Module):
    """The projectors of the whole image, and three heads on the sum of their tokens that only train them."""

    def __init__(self, stages: Sequence[Projector]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        width = stages[0].down.out_features
        self.quality = nn.Linear(width, 1)
        self.family = nn.Linear(width, len(FAMILIES))
        self.severity = nn.Linear(width, 1)

    def forward(self, statistics: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = []
        for index, (stage, x) in enumerate(zip(self.stages, statistics, strict=True)):
            share = TOWER_DROPOUT if index < len(STAGE_WIDTHS) else PIXELS_DROPOUT
            tokens.append(stage.project(F.dropout(stage.standardised(x), share, self.training)))
        summed = F.dropout(torch.stack(tokens).sum(0), SUM_DROPOUT, self.training)
        return self.quality(summed)[:, 0], self.family(summed), self.severity(summed)[:, 0]


def fit_projectors(
    vlm: VisionLanguageModel, sets: dict[str, Path], held_out: Path, console: Console
) -> ProjectorsWithHeads:
    """Train the projectors of `vlm`, in place; `sets` are the manifests named in `IMAGES`."""
    vision = vlm.model.model.vision
    encode = PromptEncoder(vlm, CACHE)
    images = {name: image_statistics(path, encode, vision.widths) for name, path in sets.items()}
    validation = image_statistics(held_out, encode, vision.widths)
    mos = {name: one.mos for name, one in images.items()}
    families, severities = images["lessons"].families, images["lessons"].severities
    torch.manual_seed(0)  # for the heads, the batches and the dropout
    model = ProjectorsWithHeads(vision.stages).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=WARMUP)
    for step in range(1, STEPS + 1):
        chosen = {
            name: torch.randint(len(images[name].rows), (number,))
            for name, number in IMAGES.items()
        }
        # One tensor per projector, with the images of all sets one after another.
        batch = []
        for projector in range(len(vision.stages)):
            batch.append(
                torch.cat([images[name].statistics[projector][chosen[name]] for name in IMAGES])
            )
        quality, family, severity = (x.split(list(IMAGES.values())) for x in model(batch))
        losses = {
            "rated": plcc_loss(quality[0], mos["rated"][chosen["rated"]]),
            "synthetic": plcc_loss(quality[1], mos["synthetic"][chosen["synthetic"]]),
            "family": F.cross_entropy(family[2], families[chosen["lessons"]]),
            "severity": F.mse_loss(severity[2], severities[chosen["lessons"]]),
        }
        optimizer.zero_grad()
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()
        rate.step()
        if step % 500 == 0:
            with torch.no_grad():
                predicted = model.eval()(validation.statistics)[0].tolist()
            model.train()
            record = {"step": step, **{k: round(v.item(), 3) for k, v in losses.items()}}
            record["held_out"] = agreement(predicted, validation.rows)
            console.print(json.dumps(record))
    return model.eval()


def train_projectors(
    start: Path, sets: dict[str, Path], held_out: Path, folder: Path, console: Console
) -> Path:
    """The folder of the model `start` with trained projectors, and with their heads in `reading.pt`."""
    if not (folder / "reading.pt").exists():
        vlm = load(str(start), device="cpu")
        model = fit_projectors(vlm, sets, held_out, console)
        vlm.model.save_pretrained(folder)
        vlm.processor.save_pretrained(folder)
        save(model.state_dict(), folder / "reading.pt")
    return folder


@torch.no_grad()
def predicted_faults(folder: Path, manifest: Path) -> list[tuple[str | None, int, float]]:
    """Of each image: the most probable family (None for no distortion), its level, and the family's probability."""
    vlm = load(str(folder), device="cpu")
    vision = vlm.model.model.vision
    model = ProjectorsWithHeads(vision.stages).eval()
    model.load_state_dict(torch.load(folder / "reading.pt", weights_only=True))
    images = image_statistics(manifest, PromptEncoder(vlm, CACHE), vision.widths)
    _, family, severity = model(images.statistics)
    probabilities, best = family.softmax(1).max(1)
    levels = (severity * max(LEVELS)).round().clamp(1, max(LEVELS)).int()
    return [
        (FAMILIES[index], level, probability)
        for index, level, probability in zip(
            best.tolist(), levels.tolist(), probabilities.tolist(), strict=True
        )
    ]
