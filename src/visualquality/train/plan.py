"""What a recipe will cost, before it runs."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForImageTextToText

from ..errors import UserError
from ..models.families import read_config
from ..models.limits import Refusal, size_refusal
from ..models.load import EMBEDDED_NAMES, load
from ..rl2r import ON_1_TO_5
from .examples import Example
from .recipe import Recipe, check_reward

# What makes a batch large.
BATCH_FIELDS = "optimizer.images_per_device, optimizer.accumulation or devices"


@dataclass(frozen=True)
class ModelSize:
    """Numbers of a model; `source` says in words where they are from."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    source: str = "counted"


@dataclass(frozen=True)
class Plan:
    """Steps, comparisons and memory of a run. Memory is an estimate, in bytes a device, without sharding."""

    images: dict[str, int]  # of each data set
    steps: int
    responses_a_step: int
    comparisons_a_step: int
    model: ModelSize
    weights: int
    ref_model: int
    optimizer: int
    activations: int

    @property
    def memory(self) -> int:
        return self.weights + self.ref_model + self.optimizer + self.activations


def count_steps(recipe: Recipe, examples: Sequence[Example]) -> int:
    """Updates in the whole run: each data set's batches, the last one filled up. SFT mixes the data sets.

    Where groups draw their data set, what fills no whole group or batch is left out of an epoch.
    """
    if recipe.optimizer.steps is not None:
        return recipe.optimizer.steps
    sizes = [len(examples)]
    if recipe.compares:
        sizes = list(Counter(e.dataset for e in examples).values())
    batches = sum(math.ceil(size / recipe.global_batch) for size in sizes)
    if recipe.grouped:
        batches = _grouped_batches(recipe, sizes)
    return math.ceil((recipe.optimizer.epochs or 1) * batches)


def _grouped_batches(recipe: Recipe, sizes: Sequence[int]) -> int:
    """Batches of an epoch of whole groups, each of one data set. Raises UserError where there is none."""
    group = recipe.one_dataset
    groups = sum(size // group for size in sizes)
    batches = groups * group // recipe.global_batch
    if not batches:
        raise UserError(
            f"the data sets make {groups} groups of {group} images, and a batch has {recipe.global_batch // group}: "
            f"lower {BATCH_FIELDS}, or rl2r.compare_within"
        )
    return batches


def plan(recipe: Recipe, examples: list[Example]) -> Plan:
    """The cost of `recipe` on these examples.

    Raises UserError where a data set is smaller than a batch, and for an unknown reward.
    """
    check_reward(recipe)
    counts = dict(Counter(e.dataset for e in examples))
    batch = recipe.global_batch
    for name, count in (counts if recipe.compares else {"all": len(examples)}).items():
        if count < recipe.one_dataset:
            what = f"a group is {recipe.one_dataset}" if recipe.grouped else f"a batch is {batch}"
            raise UserError(
                f"data set {name!r} has {count} images and {what}: lower "
                f"{'rl2r.compare_within' if recipe.grouped else BATCH_FIELDS}"
            )
    if recipe.grouped:
        _grouped_batches(recipe, list(counts.values()))
    rl2r = recipe.method == "rl2r"
    # RL2R draws K responses for each image and compares each of them; the other methods have one answer an image.
    responses = recipe.rl2r.responses if rl2r else 1
    size = model_size(recipe.model)
    # Bytes a weight: LoRA trains on a frozen bfloat16 base, all else on float32 weights.
    weights = size.parameters * (2 if recipe.lora else 4)
    trained = size.parameters
    if recipe.lora:
        # Two factors on each of a layer's seven projections, taking each as hidden x 2 hidden on average.
        trained = size.layers * 7 * 3 * size.hidden * recipe.lora.rank
    # Under LoRA the frozen policy is the model without its adapter, so it costs nothing.
    has_ref_model = rl2r and recipe.rl2r.kl_weight > 0 and not recipe.lora
    # 128 for the text, and one token for each 28 x 28 pixels (Qwen-VL; less for nano).
    image_tokens = (recipe.max_pixels or 1280 * 28 * 28) // (28 * 28)
    prompt = 128 + (1 + recipe.reference) * image_tokens
    # The prompt stands in a row once, with all responses behind it (`packed.py`).
    row = prompt + responses * recipe.rl2r.max_new_tokens
    # Hidden-sized vectors that are kept for the backward pass, a layer and token (Korthikanti et al. 2022).
    kept = 2 if recipe.gradient_checkpointing else 34
    # Two bytes an activation; logits and their logarithm are float32 (8 bytes an entry of the vocabulary).
    token = size.layers * size.hidden * kept * 2 + size.vocabulary * 8
    return Plan(
        images=counts,
        steps=count_steps(recipe, examples),
        responses_a_step=batch * responses,
        comparisons_a_step=_compared_pairs(recipe) * responses,
        model=size,
        weights=weights,
        ref_model=weights if has_ref_model else 0,
        optimizer=trained * 12,  # gradient and AdamW's two moments, float32
        activations=recipe.optimizer.images_per_device * row * token,
    )


def _compared_pairs(recipe: Recipe) -> int:
    """Ordered pairs of images that an update compares."""
    rl2r = recipe.method == "rl2r"
    if not recipe.compares or (rl2r and recipe.rl2r.reward in ON_1_TO_5):
        return 0
    size = (rl2r and recipe.rl2r.compare_within) or recipe.compared
    # The last group may be smaller.
    groups, rest = divmod(recipe.global_batch, size)
    return groups * size * (size - 1) + rest * (rest - 1)


def model_size(name: str) -> ModelSize:
    """Size of a model from its configuration; where that cannot be had, from the "7B" in its name, and it says so.

    Raises UserError where neither tells.
    """
    try:
        if name in EMBEDDED_NAMES:
            model = load(name, device="cpu").model
        else:
            config = read_config(name)
            # On the device "meta" a model has shapes, but takes no memory.
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config)
    except UserError:  # of `load`
        raise
    # Of a configuration that is damaged, transformers raises nearly anything.
    except Exception as error:
        billions = re.search(r"(\d+(?:\.\d+)?)B\b", name)
        if billions is None:
            raise UserError(
                f"the size of {name!r} is unknown: its configuration cannot be read here"
            ) from error
        number, source = float(billions[1]), f"the {billions[0]} in its name"
        # Layers and width of Qwen2.5-VL 7B, and of its 3B for anything smaller.
        layers, hidden = (28, 3584) if number > 5 else (36, 2048)
        return ModelSize(int(number * 1e9), layers, hidden, 152_064, source)
    text = model.config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    return ModelSize(parameters, text.num_hidden_layers, text.hidden_size, text.vocab_size)


def known_refusal(recipe: Recipe, console: Console) -> Refusal:
    """Which sizes the recipe's model refuses; none where its processor cannot be had here, and `console` says so."""
    try:
        return size_refusal(recipe.model, recipe.max_pixels)
    except UserError as error:
        text = f"{error}; so images are not checked against its limits"
        console.print(text, soft_wrap=True, markup=False)
        return lambda width, height: None


def plan_table(recipe: Recipe, cost: Plan) -> Table:
    """The plan for people."""

    def gib(*parts: float) -> str:
        return " + ".join(f"{part / 2**30:.1f}" for part in parts) + " GiB"

    devices = f"{recipe.devices} device{'s' * (recipe.devices > 1)}"
    lora = f", LoRA rank {recipe.lora.rank}" if recipe.lora else ""
    rows = [
        ("method", f"{recipe.method}, {recipe.model}{lora}"),
        ("images", ", ".join(f"{name} {count}" for name, count in cost.images.items())),
        ("batch", f"{recipe.global_batch} images on {devices}"),
        ("steps", str(cost.steps)),
        ("responses a step", str(cost.responses_a_step)),
        ("comparisons a step", f"{cost.comparisons_a_step:,}"),
        ("parameters", f"{cost.model.parameters / 1e6:,.1f} M ({cost.model.source})"),
        ("memory a device (estimate)", gib(cost.memory)),
        ("  weights, frozen policy", gib(cost.weights, cost.ref_model)),
        ("  gradients and AdamW", gib(cost.optimizer)),
        ("  activations", gib(cost.activations)),
    ]
    if recipe.devices > 1:
        # ZeRO-3 shards all states, but each device has the activations of its own images.
        sharded = (cost.memory - cost.activations) / recipe.devices + cost.activations
        rows.append(("memory, ZeRO-3 sharded", f"{gib(sharded)} a device"))
    table = Table(show_header=False, title="plan")
    for row in rows:
        table.add_row(*row)
    return table
