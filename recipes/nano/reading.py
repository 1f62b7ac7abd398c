"""Stage 8 of build.py: train the projectors of the whole image, before the decoder learns to use their tokens.

Linear heads on the sum of an image's tokens predict which faults it has, how strong they are, and how good it is.
Dropout removes most of the tower's statistics at each step: they are ten times as many as the others, but most faults
are seen in the pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from visualquality.data.distort import LEVELS
from visualquality.models.load import VisionLanguageModel, load
from visualquality.models.nano.vision import STAGE_WIDTHS, TONES, Projector

from .faults import Lesson
from .initial import set_scale
from .tower import agreement, plcc_loss, save
from .viewed import Viewed
from .words import FAULTS

FAMILIES = list(FAULTS)
STEPS, WARMUP = 2000, 0.1
RATED, LESSONS, VIEWED = 96, 160, 24  # images in a batch
WEIGHTS = {"rated": 0.5, "faults": 1.0, "levels": 0.3, "viewed": 0.3}  # of the losses
# Dropout, of the tower's statistics, of the others, and of the sum of the tokens.
TOWER_DROPOUT, OTHER_DROPOUT, SUM_DROPOUT = 0.7, 0.1, 0.2
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05

Parts = Sequence[Tensor]


@dataclass(frozen=True)
class Truth:
    """What is known of the faults of n images: (n, families) each. present: 1, 0, or NaN where it is not known.

    level: as a share of the strongest, NaN where it is not known.
    """

    present: Tensor
    level: Tensor

    def rows(self, chosen: Tensor) -> "Truth":
        return Truth(self.present[chosen], self.level[chosen])


def truth_of_lessons(lessons: Sequence[Lesson]) -> Truth:
    present = torch.zeros(len(lessons), len(FAMILIES))
    level = torch.full_like(present, torch.nan)
    for i, one in enumerate(lessons):
        for fault in one.faults:
            column = FAMILIES.index(fault.family)
            present[i, column] = 1
            level[i, column] = fault.level / max(LEVELS)
    return Truth(present, level)


def truth_of_viewed(viewed: Sequence[Viewed]) -> Truth:
    """What a viewer named is one of several families: it is not known which, so these are left out here."""
    present = torch.zeros(len(viewed), len(FAMILIES))
    for i, one in enumerate(viewed):
        for family in one.possible():
            present[i, FAMILIES.index(family)] = torch.nan
    return Truth(present, torch.full_like(present, torch.nan))


class ProjectorsWithHeads(nn.Module):
    """The projectors of the whole image, and heads on the sum of their tokens that only train them."""

    def __init__(self, stages: Sequence[Projector]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        width = stages[0].down.out_features
        self.quality = nn.Linear(width, 1)
        self.fault = nn.Linear(width, len(FAMILIES))
        self.level = nn.Linear(width, len(FAMILIES))

    def forward(self, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
        """Quality (n,), logits of the faults and their levels (n, families)."""
        tokens = []
        for index, stage in enumerate(self.stages):
            share = TOWER_DROPOUT if index < len(STAGE_WIDTHS) else OTHER_DROPOUT
            shown = F.dropout(stage.standardised(parts[index]), share, self.training)
            tokens.append(stage.project(shown))
        summed = F.dropout(torch.stack(tokens).sum(0), SUM_DROPOUT, self.training)
        return self.quality(summed)[:, 0], self.fault(summed), self.level(summed)


def fault_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross entropy where it is known whether a fault is there."""
    known = ~present.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], present[known])


def viewed_loss(logits: Tensor, possible: Tensor, main: Tensor, none: Tensor) -> Tensor:
    """Of viewed photos: faults that would not be true are not there, and one of the main ones is.

    possible, main: (n, families), whether naming a family would be true, and whether it is the main fault. none: (n,),
    whether naming no fault would be true.
    """
    probability = logits.sigmoid()
    false = F.softplus(logits)[~possible].mean()
    # "At least one of them", as if they were independent.
    missed = torch.where(main, 1 - probability, torch.ones_like(probability)).prod(1)
    named = -(1 - missed).clamp(min=1e-4).log()
    wanted = main.any(1) & ~none
    return false + named[wanted].mean() if wanted.any() else false


def train_projectors(
    start: Path,
    folder: Path,
    features: Sequence[Tensor],
    rated: tuple[Parts, Tensor],
    held_out: tuple[Parts, Tensor],
    lessons: tuple[Parts, Sequence[Lesson]],
    viewed: tuple[Parts, Sequence[Viewed]],
    console: Console,
) -> Path:
    """The folder of the model `start` with trained projectors, and with their heads in `reading.pt`.

    features: flat statistics of a few hundred images, which set the projectors' scale. The others are statistics of
    images, with their MOS, their faults, and what a viewer saw.
    """
    if (folder / "reading.pt").exists():
        return folder
    vlm = load(str(start), device="cpu")
    vision = vlm.model.model.vision
    set_scale(vision, features)
    model = fit_projectors(vision.stages, rated, held_out, lessons, viewed, console)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    save(model.state_dict(), folder / "reading.pt")
    return folder


def fit_projectors(
    stages: Sequence[Projector],
    rated: tuple[Parts, Tensor],
    held_out: tuple[Parts, Tensor],
    lessons: tuple[Parts, Sequence[Lesson]],
    viewed: tuple[Parts, Sequence[Viewed]],
    console: Console,
) -> ProjectorsWithHeads:
    """Train `stages` in place, with heads."""
    truth = truth_of_lessons(lessons[1])
    possible, main = (
        torch.tensor([[family in getattr(one, of)() for family in FAMILIES] for one in viewed[1]])
        for of in ("possible", "families")
    )
    none = torch.tensor([one.none_is_true() for one in viewed[1]])
    torch.manual_seed(0)  # for the heads, the batches and the dropout
    model = ProjectorsWithHeads(stages).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=WARMUP)
    sizes = (RATED, LESSONS, VIEWED)
    for step in range(1, STEPS + 1):
        sources = (rated[0], lessons[0], viewed[0])
        chosen = [
            torch.randint(len(parts[0]), (size,))
            for parts, size in zip(sources, sizes, strict=True)
        ]
        batch = [
            torch.cat([parts[i][rows] for parts, rows in zip(sources, chosen, strict=True)])
            for i in range(TONES)
        ]
        quality, fault, level = (x.split(sizes) for x in model(batch))
        known = truth.rows(chosen[1])
        leveled = ~known.level.isnan()
        seen = chosen[2]
        losses = {
            "rated": plcc_loss(quality[0], rated[1][chosen[0]]),
            "faults": fault_loss(fault[1], known.present),
            "levels": F.mse_loss(level[1][leveled], known.level[leveled]),
            "viewed": viewed_loss(fault[2], possible[seen], main[seen], none[seen]),
        }
        optimizer.zero_grad()
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()
        rate.step()
        if step % 500 == 0:
            with torch.no_grad():
                predicted = model.eval()(held_out[0])[0].tolist()
            model.train()
            record = {"step": step, **{k: round(v.item(), 3) for k, v in losses.items()}}
            record["held_out"] = agreement(predicted, held_out[1].tolist())
            console.print(json.dumps(record))
    return model.eval()


def load_heads(folder: Path, vlm: VisionLanguageModel) -> ProjectorsWithHeads:
    """The projectors of stage 8 with their heads; `vlm` is the model of that folder."""
    model = ProjectorsWithHeads(vlm.model.model.vision.stages).eval()
    model.load_state_dict(torch.load(folder / "reading.pt", weights_only=True))
    return model
