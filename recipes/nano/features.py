"""What the frozen tower says of images, computed once per image and used by several stages of build.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from visualquality.data.distort import LEVELS
from visualquality.data.manifest import Manifest, Row
from visualquality.score.rating import Rating
from visualquality.score.reading import Prepared
from visualquality.score.scorer import Scorer
from visualquality.train.examples import FeatureCache, PromptEncoder

from .tower import FAMILIES, level_of

CHUNK = 64  # images that are decoded at a time, which bounds the memory
CACHE = (
    FeatureCache()
)  # shared by the stages of build.py: as long as the tower is the same, no image runs twice


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of N images, one tensor (N, width) per projector, and the images' manifest rows."""

    rows: tuple[Row, ...]
    statistics: tuple[Tensor, ...]

    @property
    def mos(self) -> Tensor:
        """(N,) on the scale of the manifest."""
        return torch.tensor([row.mos for row in self.rows], dtype=torch.float32)

    @property
    def families(self) -> Tensor:
        """(N,) index of the distortion in FAMILIES, 0 for none."""
        return torch.tensor([FAMILIES.index(row.distortion) for row in self.rows])

    @property
    def severities(self) -> Tensor:
        """(N,) level of the distortion as a share of the strongest, 0 for none."""
        return torch.tensor([level_of(row) / max(LEVELS) for row in self.rows])


def image_statistics(
    manifest: Path, encode: PromptEncoder, widths: Sequence[int]
) -> ImageStatistics:
    """The statistics of a manifest's images. `encode` keeps what it has seen, so no image runs twice."""
    rows = Manifest.read(manifest, check_images=False).rows
    whole = []
    for start in range(0, len(rows), CHUNK):
        prompts = encode([((row.image,), "") for row in rows[start : start + CHUNK]])
        # Behind the statistics of the whole image come those of its cells, which are not wanted here.
        whole += [prompt.images["vision_features"][: sum(widths)] for prompt in prompts]
    return ImageStatistics(rows, torch.stack(whole).split(list(widths), 1))


def rate_rows(scorer: Scorer, encode: PromptEncoder, rows: Sequence[Row]) -> list[Rating]:
    """A rating for each row, in order, from features that `encode` keeps.

    For any model with the same frozen tower as the one in `encode`. The random draws depend on the file's name
    instead of its pixels, so they are not those of `visualquality score`.
    """
    (question,) = scorer.reader.questions
    ratings: list[Rating] = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        prompts = encode([((row.image,), question.text) for row in part])
        ratings += scorer.rate_prepared(
            Prepared(row.image.name, row.image.name, (prompt.followed_by(question.opening),))
            for row, prompt in zip(part, prompts, strict=True)
        )
    return ratings
