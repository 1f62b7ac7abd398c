"""What a trainer trains on: rated images, and each one's prompt in the model's tensors."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..data.images import open_image
from ..data.manifest import Manifest, Row
from ..data.sampler import OneDatasetBatches
from ..data.split import split
from ..errors import UserError
from ..models.encode import Encoded, encode_prompt
from ..models.load import VisionLanguageModel, weights_digest
from .recipe import DataSource, Recipe

Asked = tuple[tuple[Path, ...], str]  # the images of a prompt in order, and its question


@dataclass(frozen=True)
class Example:
    """A rated image. `dataset` is a number; `key` names the image wherever the files are (for its random stream)."""

    path: Path
    key: str
    mos: float
    dataset: int
    reasoning: str | None = None
    reference: Path | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """The images of its prompt, in order."""
        return (self.path,) if self.reference is None else (self.reference, self.path)


def read_examples(recipe: Recipe) -> tuple[list[Example], list[str]]:
    """The examples of a recipe's manifests, in order, and the names of the data sets.

    Raises UserError with every fault of the first manifest that has any.
    """
    names: list[str] = []
    examples: list[Example] = []
    for source in recipe.data:
        examples += read_source(
            source, names, on_1_to_5=recipe.on_1_to_5, reference=recipe.reference
        )
    twice = [path for path, count in Counter(e.path for e in examples).items() if count > 1]
    if twice:
        raise UserError(
            f"{twice[0]} is in two manifests of the recipe ({len(twice)} such images): leave one out"
        )
    return examples, names


def read_source(
    source: DataSource, names: list[str], *, on_1_to_5: bool, reference: bool
) -> list[Example]:
    """The examples of one manifest, with their references if so; data sets that `names` has not are added to it."""
    rows, examples = _rows(source, reference), []
    mos = _mos(source, rows, on_1_to_5=on_1_to_5)
    for number, (row, value) in enumerate(zip(rows, mos, strict=True)):
        if row.dataset not in names:
            names.append(row.dataset)
        # The same wherever the files are, and different for any two images of a data set.
        key = f"{row.dataset}/{number}/{row.image.name}"
        anchor = row.reference_image if reference else None
        examples.append(
            Example(row.image, key, value, names.index(row.dataset), row.reasoning, anchor)
        )
    return examples


def _rows(source: DataSource, reference: bool) -> tuple[Row, ...]:
    manifest = Manifest.read(
        source.manifest, columns=source.columns, images=source.images, references=reference
    )
    if source.split is None:
        return manifest.rows
    if all(row.split is None for row in manifest.rows):
        if source.split_seed is None:
            raise UserError(
                f"{source.manifest} names no splits: add a column split, or give split_seed in the recipe"
            )
        manifest = split(manifest, seed=source.split_seed)
    part = manifest.subset(source.split).rows
    if not part:
        raise UserError(f"{source.manifest} has no row of split {source.split!r}")
    return part


def _mos(source: DataSource, rows: Sequence[Row], *, on_1_to_5: bool) -> list[float]:
    """MOS as they are, or taken to [1, 5] by `mos_range`."""
    mos = [row.mos for row in rows]
    if source.mos_range is not None:
        low, high = source.mos_range
        mos = [1 + 4 * (value - low) / (high - low) for value in mos]
    if on_1_to_5 and not (min(mos) >= 1 and max(mos) <= 5):
        raise UserError(
            f"{source.manifest}: MOS run from {min(mos):g} to {max(mos):g}, and this method learns scores from 1 to 5: "
            "give mos_range: [lowest, highest] of the scale"
        )
    return mos


def run_order(
    examples: Sequence[Example],
    names: Sequence[str],
    *,
    compares: bool,
    batch: int,
    repeat: int,
    steps: int,
    seed: int,
) -> list[tuple[int, int]]:
    """(example, visit) in the order of the whole run, `steps` batches long, each `repeat` times in a row.

    Laid out beforehand, so that a run that resumes, on one process or several, sees what it would have seen.
    Where images are compared (`compares`) a batch is of one data set.
    """
    groups = [names[e.dataset] for e in examples] if compares else ["all"] * len(examples)
    sampler = OneDatasetBatches(groups, batch, seed=seed, repeat=repeat)
    order: list[tuple[int, int]] = []
    while len(order) < steps * batch * repeat:
        order += [(row, sampler.epoch) for row in sampler]
        sampler.set_epoch(sampler.epoch + 1)
    return order[: steps * batch * repeat]


@dataclass
class Memory:
    """What a frozen vision tower makes of images, and the rest of their prompts; all by paths."""

    tower: str
    features: dict[tuple[Path, ...], Tensor] = field(default_factory=dict)
    prompts: dict[Asked, Encoded] = field(default_factory=dict)


class PromptEncoder:
    """Turns paths into prompts in the model's tensors.

    Where the model's vision is frozen and can be remembered (`frozen_vision_features`), the images of a prompt go
    through it once, whatever is asked of them: about 80 kB an image for `nano`. Runs in one process whose towers are
    the same share what is remembered; another tower makes it forget.
    """

    _memory: ClassVar[Memory] = Memory("")

    def __init__(self, vlm: VisionLanguageModel, *, remember: bool):
        self.vlm = vlm
        self.remember = remember and hasattr(vlm.model, "frozen_vision_features")
        if self.remember:
            tower = weights_digest(
                {k: v for k, v in vlm.model.state_dict().items() if ".tower." in k}
            )
            if PromptEncoder._memory.tower != (tower := f"{tower} {vlm.processor.image_processor}"):
                PromptEncoder._memory = Memory(tower)
            self.memory = PromptEncoder._memory

    def __call__(self, asked: Sequence[Asked]) -> list[Encoded]:
        """The prompts; files are read in threads."""
        if not self.remember:
            unique = list(dict.fromkeys(asked))
            fresh = dict(zip(unique, map_threads(self._encode, unique), strict=True))
            return [fresh[pair] for pair in asked]
        memory = self.memory
        missing = [pair for pair in dict.fromkeys(asked) if pair not in memory.prompts]
        for pair, encoded in zip(missing, map_threads(self._encode, missing), strict=True):
            if pair[0] not in memory.features:
                memory.features[pair[0]] = self._features(encoded)
            memory.prompts[pair] = {k: v for k, v in encoded.items() if k != "pixel_values"}
        return [
            memory.prompts[pair] | {"vision_features": memory.features[pair[0]]} for pair in asked
        ]

    def _encode(self, asked: Asked) -> Encoded:
        paths, question = asked
        images = [open_image(path) for path in paths]
        try:
            return encode_prompt(self.vlm.processor, images, question)
        except ValueError as error:  # of a shape that the model's processor refuses, for instance
            named = " and ".join(map(str, paths))
            raise UserError(f"{named}: the model cannot take it ({error}); leave it out") from error

    def _features(self, encoded: Encoded) -> Tensor:
        device = next(self.vlm.model.parameters()).device
        remember: Any = self.vlm.model.frozen_vision_features
        return torch.cat(
            remember(encoded["pixel_values"].to(device), encoded["image_grid_thw"])
        ).cpu()


def map_threads(function: Callable, items: Sequence) -> list:
    """`map` over a few threads: decoding and resizing leave the interpreter free."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(function, items))
