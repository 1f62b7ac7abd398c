"""Stage 7 of build.py: the projectors of the whole image learn to read its statistics, before the decoder learns to
speak of them.

What is read off the sum of an image's global tokens is how good people find it (1 - PLCC of each set's images in the
batch, so that no two scales need to be one), which distortion was applied, and how strongly. Most of the tower's
numbers are left out at each step: there are ten times as many of them as of the pixels' own, which tell most faults.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from tower import FAMILIES, agreement, level_of, save, unlikeness

from visualquality.data.distort import LEVELS
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import VisionLanguageModel, load
from visualquality.models.nano.vision import STAGE_WIDTHS, Projector
from visualquality.train.examples import PromptEncoder

STEPS, WARMUP = 2000, 0.1
IMAGES = {"rated": 96, "synthetic": 32, "lessons": 160}  # of a batch
WEIGHTS = {"rated": 1.0, "synthetic": 0.3, "family": 1.0, "severity": 0.3}
TOWER_OUT, PIXELS_OUT = 0.7, 0.1  # shares of the numbers that are left out at a step
HIDDEN_OUT = 0.2
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


class Reading(nn.Module):
    """The projectors of what is seen of a whole image, and, for their training alone, what is read off their sum."""

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
            left_out = TOWER_OUT if index < len(STAGE_WIDTHS) else PIXELS_OUT
            tokens.append(stage.project(F.dropout(stage.standardised(x), left_out, self.training)))
        summed = F.dropout(torch.stack(tokens).sum(0), HIDDEN_OUT, self.training)
        return self.quality(summed)[:, 0], self.family(summed), self.severity(summed)[:, 0]


@dataclass(frozen=True)
class Seen:
    """Statistics of images, a tensor for each projector, and what is known of them."""

    rows: tuple[Row, ...]
    statistics: tuple[Tensor, ...]

    @property
    def mos(self) -> Tensor:
        return torch.tensor([row.mos for row in self.rows], dtype=torch.float32)

    @property
    def families(self) -> Tensor:
        return torch.tensor([FAMILIES.index(row.distortion) for row in self.rows])

    @property
    def severities(self) -> Tensor:
        return torch.tensor([level_of(row) / max(LEVELS) for row in self.rows])


def look(manifest: Path, encode: PromptEncoder, widths: Sequence[int]) -> Seen:
    """The statistics of a manifest's images, which the frozen tower gives once for this and all later stages."""
    rows = Manifest.read(manifest, check_images=False).rows
    whole = []
    for at in range(0, len(rows), 64):
        asked = encode([((row.image,), "") for row in rows[at : at + 64]])
        whole += [one["vision_features"][: sum(widths)] for one in asked]
    return Seen(rows, torch.stack(whole).split(list(widths), 1))


def read(
    vlm: VisionLanguageModel, sets: dict[str, Path], held_out: Path, console: Console
) -> Reading:
    """Train the projectors of `vlm`, in place; `sets` are the manifests named in `IMAGES`."""
    vision = vlm.model.model.vision
    encode = PromptEncoder(vlm, remember=True)
    seen = {name: look(path, encode, vision.widths) for name, path in sets.items()}
    judges = look(held_out, encode, vision.widths)
    mos = {name: one.mos for name, one in seen.items()}
    families, severities = seen["lessons"].families, seen["lessons"].severities
    torch.manual_seed(0)
    reading = Reading(vision.stages).train()
    optimizer = torch.optim.AdamW(reading.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=WARMUP)
    for step in range(1, STEPS + 1):
        places = {
            name: torch.randint(len(seen[name].rows), (number,)) for name, number in IMAGES.items()
        }
        parts = zip(*(seen[name].statistics for name in IMAGES), strict=True)
        batch = [
            torch.cat([x[places[name]] for name, x in zip(IMAGES, part, strict=True)])
            for part in parts
        ]
        quality, family, severity = (x.split(list(IMAGES.values())) for x in reading(batch))
        losses = {
            "rated": unlikeness(quality[0], mos["rated"][places["rated"]]),
            "synthetic": unlikeness(quality[1], mos["synthetic"][places["synthetic"]]),
            "family": F.cross_entropy(family[2], families[places["lessons"]]),
            "severity": F.mse_loss(severity[2], severities[places["lessons"]]),
        }
        optimizer.zero_grad()
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()
        rate.step()
        if step % 500 == 0:
            with torch.no_grad():
                predicted = reading.eval()(judges.statistics)[0].tolist()
            reading.train()
            found = {k: round(v.item(), 3) for k, v in losses.items()}
            console.print(
                json.dumps({"step": step, **found, "held_out": agreement(predicted, judges.rows)})
            )
    return reading.eval()


def learn_to_read(
    start: Path, sets: dict[str, Path], held_out: Path, folder: Path, console: Console
) -> Path:
    """The model of `start` with projectors that read, and `reading.pt`, what can be read off them."""
    if not (folder / "reading.pt").exists():
        vlm = load(str(start), device="cpu")
        reading = read(vlm, sets, held_out, console)
        vlm.model.save_pretrained(folder)
        vlm.processor.save_pretrained(folder)
        save(reading.state_dict(), folder / "reading.pt")
    return folder


@torch.no_grad()
def named_faults(folder: Path, manifest: Path) -> list[tuple[str | None, int, float]]:
    """What is read off each image: the likeliest family, the level, and the family's probability."""
    vlm = load(str(folder), device="cpu")
    vision = vlm.model.model.vision
    reading = Reading(vision.stages).eval()
    reading.load_state_dict(torch.load(folder / "reading.pt", weights_only=True))
    seen = look(manifest, PromptEncoder(vlm, remember=True), vision.widths)
    _, family, severity = reading(seen.statistics)
    shares, likeliest = family.softmax(1).max(1)
    levels = (severity * max(LEVELS)).round().clamp(1, max(LEVELS)).int()
    found = zip(likeliest.tolist(), levels.tolist(), shares.tolist(), strict=True)
    return [(FAMILIES[index], level, share) for index, level, share in found]
