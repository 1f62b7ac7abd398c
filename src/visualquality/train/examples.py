"""What a trainer trains on: rated images, and each one's prompt in the model's tensors."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.images import open_image
from ..data.manifest import Manifest
from ..errors import UserError
from ..models.encode import Encoded, encode_prompt
from ..models.load import VisionLanguageModel
from .recipe import Recipe


@dataclass(frozen=True)
class Example:
    """A rated image. `dataset` is a number; `key` names the image wherever the files are (for its random stream)."""

    path: Path
    key: str
    mos: float
    dataset: int
    reasoning: str | None = None


def read_examples(recipe: Recipe) -> tuple[list[Example], list[str]]:
    """The examples of a recipe's manifests, in order, and the names of the data sets.

    Raises UserError with every fault of the first manifest that has any.
    """
    names: list[str] = []
    examples: list[Example] = []
    for source in recipe.data:
        manifest = Manifest.read(source.manifest, columns=source.columns, images=source.images)
        if source.split is not None:
            manifest = manifest.subset(source.split)
            if not manifest.rows:
                raise UserError(f"{source.manifest} has no row of split {source.split!r}")
        for row in manifest.rows:
            if row.dataset not in names:
                names.append(row.dataset)
            mos = row.mos
            if source.mos_range is not None:
                low, high = source.mos_range
                mos = 1 + 4 * (mos - low) / (high - low)
            examples.append(
                Example(row.image, f"{row.dataset}/{row.image.name}", mos, names.index(row.dataset), row.reasoning)
            )
    return examples, names


class PromptEncoder:
    """Turns paths into prompts in the model's tensors.

    Where the model's vision is frozen and can be remembered (`frozen_vision_features`), each image goes through it once
    and is remembered: about 80 kB an image for `nano`.
    """

    def __init__(self, vlm: VisionLanguageModel, question: str, *, remember: bool):
        self.vlm, self.question = vlm, question
        self.remember = remember and hasattr(vlm.model, "frozen_vision_features")
        self.memory: dict[Path, Encoded] = {}

    def __call__(self, paths: Sequence[Path]) -> list[Encoded]:
        """Prompts of these images; files are read in threads."""
        missing = [path for path in dict.fromkeys(paths) if path not in self.memory]
        fresh = dict(zip(missing, map_threads(self._encode, missing), strict=True))
        if self.remember:
            self.memory |= {path: self._without_pixels(encoded) for path, encoded in fresh.items()}
            return [self.memory[path] for path in paths]
        return [fresh[path] for path in paths]

    def _encode(self, path: Path) -> Encoded:
        return encode_prompt(self.vlm.processor, open_image(path), self.question)

    def _without_pixels(self, encoded: Encoded) -> Encoded:
        device = next(self.vlm.model.parameters()).device
        pixels = encoded["pixel_values"].to(device)
        remember: Any = self.vlm.model.frozen_vision_features
        features = remember(pixels, encoded["image_grid_thw"])
        kept = {k: v for k, v in encoded.items() if k != "pixel_values"}
        return kept | {"vision_features": torch.cat(features).cpu()}


def map_threads(function: Callable, items: Sequence) -> list:
    """`map` over a few threads: decoding and resizing leave the interpreter free."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(function, items))
