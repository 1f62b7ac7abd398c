"""What a trainer trains on: rated images, the order in which they come, and their prompts in the model's tensors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..data.images import open_image
from ..data.manifest import Manifest, Row
from ..data.sampler import OneDatasetBatches
from ..data.split import split
from ..errors import UserError
from ..io import map_ahead
from ..models.load import VisionLanguageModel, weights_digest
from ..models.prompt import Prompt, encode_prompt
from .recipe import DataSource, Recipe

Images = tuple[Path, ...]  # of one prompt, in order


@dataclass(frozen=True)
class Example:
    """A rated image. `key` names it wherever the files are: its random stream depends on it."""

    path: Path
    key: str
    mos: float
    dataset: str
    reasoning: str | None = None
    reference: Path | None = None

    @property
    def images(self) -> Images:
        """The images of its prompt, in order."""
        return (self.path,) if self.reference is None else (self.reference, self.path)


def read_examples(recipe: Recipe) -> list[Example]:
    """The examples of a recipe's manifests, in order.

    Raises UserError with every fault of the first manifest that has any.
    """
    examples: list[Example] = []
    for source in recipe.data:
        examples += read_source(source, on_1_to_5=recipe.on_1_to_5, reference=recipe.reference)
    # An image that is there twice would be compared with itself.
    counts = Counter(example.path for example in examples)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise UserError(
            f"{twice[0]} is in two manifests of the recipe ({len(twice)} such images): leave one out"
        )
    return examples


def read_source(source: DataSource, *, on_1_to_5: bool, reference: bool) -> list[Example]:
    """The examples of one manifest, with their reference images if so."""
    rows = _rows(source, reference)
    mos = _mos(source, rows, on_1_to_5=on_1_to_5)
    examples = []
    for number, (row, value) in enumerate(zip(rows, mos, strict=True)):
        # The same wherever the files are, and different for any two images of a data set.
        key = f"{row.dataset}/{number}/{row.image.name}"
        beside = row.reference_image if reference else None
        examples.append(Example(row.image, key, value, row.dataset, row.reasoning, beside))
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


def dataset_numbers(examples: Sequence[Example]) -> Int[Tensor, " n"]:
    """A number for each example's data set, in the order in which the data sets first come."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(e.dataset for e in examples))}
    return torch.tensor([numbers[e.dataset] for e in examples])


def run_order(
    examples: Sequence[Example], *, compares: bool, batch: int, repeat: int, steps: int, seed: int
) -> list[tuple[int, int]]:
    """(example, visit) in the order of the whole run, `steps` batches long, each `repeat` times in a row.

    Laid out beforehand, so that a run that resumes, on one process or several, sees what it would have seen.
    Where images are compared (`compares`) a batch is of one data set.
    """
    # Methods that compare nothing may mix data sets, and shuffle better for it.
    groups = [e.dataset for e in examples] if compares else ["all"] * len(examples)
    sampler = OneDatasetBatches(groups, batch, seed=seed, repeat=repeat)
    order: list[tuple[int, int]] = []
    while len(order) < steps * batch * repeat:
        order += [(row, sampler.epoch) for row in sampler]
        sampler.set_epoch(sampler.epoch + 1)
    return order[: steps * batch * repeat]


@dataclass
class FeatureCache:
    """What a frozen vision tower gives for images, and the rest of their prompts, kept while there is room.

    Runs in one process that share a cache share what it holds; another tower empties it. About 80 kB an image for
    nano. What no longer fits into `max_bytes` is computed anew each time.
    """

    max_bytes: int = 4 * 2**30
    tower: str = ""
    size: int = 0
    features: dict[Images, Tensor] = field(default_factory=dict)
    prompts: dict[tuple[Images, str], Prompt] = field(default_factory=dict)

    def for_tower(self, tower: str) -> None:
        if tower != self.tower:
            self.tower, self.size = tower, 0
            self.features.clear()
            self.prompts.clear()

    def add(self, images: Images, question: str, features: Tensor, prompt: Prompt) -> None:
        if self.size < self.max_bytes:
            tensors = [features, *prompt.tokens.values(), *prompt.images.values()]
            self.size += sum(tensor.nbytes for tensor in tensors)
            self.features[images] = features
            self.prompts[images, question] = prompt


class PromptEncoder:
    """Turns images and a question into prompts in the model's tensors.

    cache: where the model's vision is frozen, and the model can say what it gives (`frozen_vision_features`), the
    images of a prompt go through it once, whatever is asked of them. None: they are read each time.
    """

    def __init__(self, vlm: VisionLanguageModel, cache: FeatureCache | None = None):
        self.vlm = vlm
        self.cache = cache if hasattr(vlm.model, "frozen_vision_features") else None
        if self.cache is not None:
            state = vlm.model.state_dict()
            tower = weights_digest({k: v for k, v in state.items() if ".tower." in k})
            # The image processor, too, decides what the tower sees.
            self.cache.for_tower(f"{tower} {vlm.processor.image_processor}")

    def __call__(self, wanted: Sequence[tuple[Images, str]]) -> list[Prompt]:
        """The prompts of (images, question), in order; files are read in threads.

        Raises UserError for an image that cannot be opened, or that the model's processor refuses.
        """
        unique = list(dict.fromkeys(wanted))
        if self.cache is None:
            encoded = dict(zip(unique, map_ahead(self._encode, unique), strict=True))
            return [encoded[pair] for pair in wanted]
        found = {pair: self._remembered(pair) for pair in unique if pair in self.cache.prompts}
        missing = [pair for pair in unique if pair not in found]
        for pair, prompt in zip(missing, map_ahead(self._encode, missing), strict=True):
            found[pair] = self._remember(pair, prompt)
        return [found[pair] for pair in wanted]

    def _encode(self, wanted: tuple[Images, str]) -> Prompt:
        paths, question = wanted
        images = [open_image(path) for path in paths]
        try:
            return encode_prompt(self.vlm.processor, images, question)
        except ValueError as error:  # of a shape that the model's processor refuses, for instance
            named = " and ".join(map(str, paths))
            raise UserError(f"{named}: the model cannot take it ({error}); leave it out") from error

    def _remembered(self, wanted: tuple[Images, str]) -> Prompt:
        assert self.cache is not None
        prompt, features = self.cache.prompts[wanted], self.cache.features[wanted[0]]
        return Prompt(prompt.tokens, prompt.images | {"vision_features": features})

    def _remember(self, wanted: tuple[Images, str], prompt: Prompt) -> Prompt:
        assert self.cache is not None
        images, question = wanted
        features = self.cache.features.get(images)
        if features is None:  # another question about the same images may have come before
            features = self._features(prompt)
        bare = {k: v for k, v in prompt.images.items() if k != "pixel_values"}
        self.cache.add(images, question, features, Prompt(prompt.tokens, bare))
        return Prompt(prompt.tokens, bare | {"vision_features": features})

    def _features(self, prompt: Prompt) -> Tensor:
        device = next(self.vlm.model.parameters()).device
        encode: Any = self.vlm.model.frozen_vision_features
        pixels, grid = prompt.images["pixel_values"], prompt.images["image_grid_thw"]
        return torch.cat(encode(pixels.to(device), grid)).cpu()
