"""What a trainer trains on: rated images, the order in which they come, and their prompts in the model's tensors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.images import open_image
from ..data.manifest import Manifest
from ..data.row import mos_on_1_to_5
from ..data.sampler import OneDatasetBatches, grouped_order
from ..data.split import split
from ..errors import UserError
from ..io import map_ahead
from ..models.load import VisionLanguageModel, weights_digest
from ..models.prompt import Prompt, encode_prompt
from .recipe import DataSource, Recipe

Images = tuple[Path, ...]  # of one prompt, in order


@dataclass(frozen=True)
class Example:
    """A rated image. `key` names it wherever the files are: its random stream depends on it.

    std: of the ratings, in the unit of `mos`; None where it is not known.
    split: as the manifest names it.
    manifest, number: the file that rates it, and the row in it, the header being 1.
    """

    path: Path
    key: str
    mos: float
    dataset: str
    reasoning: str | None = None
    reference: Path | None = None
    std: float | None = None
    manifest: str = ""
    number: int = 0
    split: str | None = None

    @property
    def images(self) -> Images:
        """The images of its prompt, in order."""
        return (self.path,) if self.reference is None else (self.reference, self.path)


def read_examples(recipe: Recipe) -> list[Example]:
    """The examples of a recipe's manifests, in order. Their images are not opened (see `usable_examples`).

    Raises UserError with every fault of the first manifest that has any.
    """
    examples: list[Example] = []
    for source in recipe.data:
        examples += _read_source(source, on_1_to_5=recipe.on_1_to_5, reference=recipe.reference)
    needs_std = recipe.method == "sft" and recipe.sft.score_noise == "std"
    if needs_std and (lacking := [example.path for example in examples if example.std is None]):
        raise UserError(
            f"sft.score_noise is std, but {lacking[0]} has none ({len(lacking)} such images): "
            "give a column std, or a number"
        )
    # An image that is there twice would be compared with itself.
    counts = Counter(example.path for example in examples)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise UserError(
            f"{twice[0]} is in two manifests of the recipe ({len(twice)} such images): leave one out"
        )
    return examples


def read_probes(recipe: Recipe) -> list[Example]:
    """The probe images of a recipe, or none. Raises UserError for a faulty manifest.

    They are scored every few steps and never trained on. The run's page draws from them how the std over K falls on
    several data sets (Fig. 3 of the paper), and what the model says of one image along the run (Fig. 4).
    """
    if recipe.probes is None:
        return []
    return _read_source(recipe.probes, on_1_to_5=False, reference=recipe.reference)


def read_validation(recipe: Recipe, trained_on: Sequence[Example]) -> list[Example]:
    """The examples of a recipe's section validate, or none.

    Raises UserError for a faulty manifest, for images that are also trained on, and for rows of the split test: what
    is chosen by them would not be tested by them any more.
    """
    source = recipe.validation
    if source is None:
        return []
    examples = _read_source(source, on_1_to_5=False, reference=recipe.reference)
    if tests := [e for e in examples if e.split == "test"]:
        raise UserError(
            f"validate: {source.manifest} has {len(tests)} rows of the split test, the first in row {tests[0].number}: "
            "validate with rows of the split val (leave out split: null)"
        )
    trained = {e.path for e in trained_on}
    if both := [e for e in examples if e.path in trained]:
        raise UserError(
            f"validate: {both[0].path} is trained on, too ({len(both)} such images): give data the split train, or "
            "take it out of one of the two manifests"
        )
    return examples


def _read_source(source: DataSource, *, on_1_to_5: bool, reference: bool) -> list[Example]:
    manifest = Manifest.read(
        source.manifest,
        columns=source.columns,
        images=source.images,
        check_images=False,
        references=reference,
    )
    rows = manifest.rows
    if source.split is not None:
        if all(row.split is None for row in rows):
            if source.split_seed is None:
                raise UserError(
                    f"{source.manifest} names no splits: add a column split, or give split_seed in the recipe"
                )
            manifest = split(manifest, seed=source.split_seed)
        rows = manifest.subset(source.split).rows
        if not rows:
            raise UserError(f"{source.manifest} has no row of split {source.split!r}")
    mos = [row.mos for row in rows]
    if source.mos_range is not None:
        mos = [mos_on_1_to_5(value, source.mos_range) for value in mos]
    if on_1_to_5 and not (min(mos) >= 1 and max(mos) <= 5):
        raise UserError(
            f"{source.manifest}: MOS are from {min(mos):g} to {max(mos):g}, and this method learns scores from 1 to 5: "
            "give mos_range: [lowest, highest] of the scale"
        )
    examples = []
    for number, (row, value) in enumerate(zip(rows, mos, strict=True)):
        # The same wherever the files are, and different for any two images of a data set.
        key = f"{row.dataset}/{number}/{row.image.name}"
        beside = row.reference_image if reference else None
        std = row.std
        if std is not None and source.mos_range is not None:
            low, high = source.mos_range
            std *= 4 / (high - low)
        example = Example(row.image, key, value, row.dataset, row.reasoning, beside, std)
        examples.append(
            replace(example, manifest=str(source.manifest), number=row.number, split=row.split)
        )
    return examples


def run_order(recipe: Recipe, examples: Sequence[Example], steps: int) -> list[tuple[int, int]]:
    """(example, visit) in the order of the whole run of so many steps.

    Laid out beforehand, so that a run that resumes, on one process or several, sees what it would have seen.
    Where images are compared, a batch is of one data set, or each of its groups is (`rl2r.dataset_per`).
    """
    batch = recipe.global_batch
    # TRL's GRPO takes a batch once for each part of the accumulation.
    repeat = recipe.optimizer.accumulation if recipe.method == "rl2r" else 1
    if recipe.grouped:
        return _grouped_run_order(recipe, [e.dataset for e in examples], steps, repeat)
    # Methods that compare nothing may mix data sets, and shuffle better for it.
    groups = [e.dataset for e in examples] if recipe.compares else ["all"] * len(examples)
    sampler = OneDatasetBatches(groups, batch, seed=recipe.seed, repeat=repeat)
    order: list[tuple[int, int]] = []
    while len(order) < steps * batch * repeat:
        order += [(row, sampler.epoch) for row in sampler]
        sampler.set_epoch(sampler.epoch + 1)
    return order[: steps * batch * repeat]


def _grouped_run_order(
    recipe: Recipe, datasets: Sequence[str], steps: int, repeat: int
) -> list[tuple[int, int]]:
    batch, group = recipe.global_batch, recipe.one_dataset
    order: list[tuple[int, int]] = []
    epoch = 0
    while len(order) < steps * batch * repeat:
        rows = grouped_order(datasets, group, batch, seed=recipe.seed, epoch=epoch)
        for start in range(0, len(rows), batch):
            order += [(row, epoch) for row in rows[start : start + batch]] * repeat
        epoch += 1
    return order[: steps * batch * repeat]


@dataclass
class FeatureCache:
    """Encoded prompts with what a frozen vision tower gives for their images, kept while there is room.

    Runs in one process that share a cache share what it holds; another tower empties it. About 80 kB an image for
    nano. What no longer fits into `max_bytes` is computed anew each time.
    """

    max_bytes: int = 4 * 2**30
    tower: str = ""
    size: int = 0
    # Apart from the prompts, because questions about the same images share them.
    features: dict[Images, Tensor] = field(default_factory=dict)
    prompts: dict[tuple[Images, str], Prompt] = field(default_factory=dict)


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
            # nano's readers have a part named tower, too, which comes after the features.
            seen_by = {k: v for k, v in state.items() if ".vision.tower." in k}
            digest = weights_digest(seen_by)
            # The image processor, too, decides what the tower sees.
            tower = f"{digest} {vlm.processor.image_processor}"
            if tower != self.cache.tower:
                self.cache.tower, self.cache.size = tower, 0
                self.cache.features.clear()
                self.cache.prompts.clear()

    def __call__(self, wanted: Sequence[tuple[Images, str]]) -> list[Prompt]:
        """The prompts of (images, question), in order; files are read in threads.

        Raises UserError for an image that cannot be opened, or that the model's processor refuses.
        """
        cached = {} if self.cache is None else self.cache.prompts
        found = {pair: cached[pair] for pair in wanted if pair in cached}
        # A pair that comes twice is encoded once.
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in found]
        for pair, prompt in zip(missing, map_ahead(self._encode, missing), strict=True):
            # Not in the threads: the tower has threads of its own.
            found[pair] = prompt if self.cache is None else self._with_features(pair, prompt)
        return [found[pair] for pair in wanted]

    def _encode(self, wanted: tuple[Images, str]) -> Prompt:
        paths, question = wanted
        images = [open_image(path) for path in paths]
        try:
            return encode_prompt(self.vlm.processor, images, question)
        except ValueError as error:  # of a shape that the model's processor refuses, for instance
            named = " and ".join(map(str, paths))
            raise UserError(f"{named}: the model cannot take it ({error}); leave it out") from error

    def _with_features(self, wanted: tuple[Images, str], prompt: Prompt) -> Prompt:
        """The prompt with features in place of pixels, which is kept if there is room."""
        cache: Any = self.cache
        images = dict(prompt.images)
        # Pixels are large, and not wanted any more once they are features.
        for name in [name for name in images if name.endswith("_values")]:
            del prompt.images[name]
        features = cache.features.get(wanted[0])
        if features is None:
            model: Any = self.vlm.model
            on_device = {name: tensor.to(model.device) for name, tensor in images.items()}
            features = torch.cat(model.frozen_vision_features(on_device)).cpu()
        prompt.images["vision_features"] = features
        if cache.size < cache.max_bytes:
            kept = [*prompt.tokens.values(), *prompt.images.values()]
            if wanted[0] in cache.features:
                # Another question about these images: their features are there once.
                kept = [tensor for tensor in kept if tensor is not features]
            cache.size += sum(tensor.nbytes for tensor in kept)
            cache.features[wanted[0]] = features
            cache.prompts[wanted] = prompt
        return prompt
