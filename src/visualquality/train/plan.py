"""What a recipe will cost, before it runs."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from ..errors import UserError
from ..models.load import EMBEDDED_NAMES, load
from ..rl2r import ON_1_TO_5
from .examples import Example
from .recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Steps, comparisons and memory of a run. Memory is an estimate, in bytes a device, without sharding."""

    images: dict[str, int]
    batch: int
    steps: int
    responses_a_step: int
    comparisons_a_step: int
    parameters: int
    parameters_from: str
    weights: int
    ref_model: int
    optimizer: int
    activations: int

    @property
    def memory(self) -> int:
        return self.weights + self.ref_model + self.optimizer + self.activations


def count_steps(recipe: Recipe, counts: dict[str, int]) -> int:
    """Updates in the whole run: each data set's batches, the last one filled up. SFT mixes the data sets."""
    if recipe.optimizer.steps is not None:
        return recipe.optimizer.steps
    batch = recipe.global_batch
    sizes = counts.values() if recipe.compares else [sum(counts.values())]
    return math.ceil((recipe.optimizer.epochs or 1) * sum(-(-n // batch) for n in sizes))


def count_images(examples: Sequence[Example]) -> dict[str, int]:
    """Images of each data set."""
    return dict(Counter(example.dataset for example in examples))


def plan(recipe: Recipe, examples: list[Example]) -> Plan:
    """The cost of `recipe` on these examples.

    Raises UserError where a data set is smaller than a batch.
    """
    counts = count_images(examples)
    batch = recipe.global_batch
    for name, count in (counts if recipe.compares else {"all": len(examples)}).items():
        if count < batch:
            raise UserError(
                f"data set {name!r} has {count} images and a batch is {batch}: "
                "lower optimizer.images_per_device, optimizer.accumulation or devices"
            )
    rl2r = recipe.method == "rl2r"
    # RL2R draws K responses for each image and compares each of them; the other methods have one answer an image.
    responses = batch * recipe.rl2r.responses if rl2r else batch
    comparisons = compared_pairs(recipe) * (recipe.rl2r.responses if rl2r else 1)
    size = model_size(recipe.model)
    # Bytes a weight: LoRA trains on a frozen bfloat16 base, all else on float32 weights.
    width = 2 if recipe.lora else 4
    trained = size.lora(recipe.lora.rank) if recipe.lora else size.parameters
    # Under LoRA the frozen policy is the model without its adapter, so it costs nothing.
    has_ref_model = rl2r and recipe.rl2r.kl_weight > 0 and not recipe.lora
    # The prompt stands in a row once, with all responses behind it (`packed.py`).
    tokens = recipe.optimizer.images_per_device * (
        size.prompt_tokens(recipe.max_pixels, 1 + recipe.reference)
        + (recipe.rl2r.responses if rl2r else 1) * recipe.rl2r.max_new_tokens
    )
    # Hidden-sized vectors that are kept for the backward pass, a layer and token (Korthikanti et al. 2022).
    kept = 2 if recipe.gradient_checkpointing else 34
    # Two bytes an activation; logits and their logarithm are float32 (8 bytes an entry of the vocabulary).
    activations = tokens * (size.layers * size.hidden * kept * 2 + size.vocabulary * 8)
    return Plan(
        images=counts,
        batch=batch,
        steps=count_steps(recipe, counts),
        responses_a_step=responses,
        comparisons_a_step=comparisons,
        parameters=size.parameters,
        parameters_from=size.source,
        weights=size.parameters * width,
        ref_model=size.parameters * width if has_ref_model else 0,
        # Gradient and AdamW's two moments, float32.
        optimizer=trained * 12,
        activations=activations,
    )


def compared_pairs(recipe: Recipe) -> int:
    """Ordered pairs of images that an update compares."""
    if not recipe.compares or (recipe.method == "rl2r" and recipe.rl2r.reward in ON_1_TO_5):
        return 0
    size = (recipe.method == "rl2r" and recipe.rl2r.compare_within) or recipe.compared
    whole, rest = divmod(recipe.global_batch, size)
    return whole * size * (size - 1) + rest * (rest - 1)


@dataclass(frozen=True)
class ModelSize:
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    source: str

    def lora(self, rank: int) -> int:
        """Weights of adapters on the seven projections of every layer, taking each as hidden x 2 hidden on average."""
        return self.layers * 7 * 3 * self.hidden * rank

    def prompt_tokens(self, max_pixels: int | None, images: int) -> int:
        """Text, and one token for each 28 x 28 pixels (Qwen-VL; less for nano)."""
        return 128 + images * ((max_pixels or 1280 * 28 * 28) // (28 * 28))


def model_size(name: str) -> ModelSize:
    """Size of a model from its configuration; where that cannot be had, from the "7B" in its name, and it says so.

    Raises UserError where neither tells.
    """
    import torch

    if name in EMBEDDED_NAMES:
        model = load(name, device="cpu").model
        return _measured(model, "counted")
    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
        return _measured(model, "counted")
    except (OSError, ValueError) as error:
        billions = re.search(r"(\d+(?:\.\d+)?)B\b", name)
        if billions is None:
            raise UserError(
                f"the size of {name!r} is unknown: its configuration cannot be read here"
            ) from error
        number = float(billions[1])
        # Typical of dense models of this size: 12 layers' width squared makes a layer.
        hidden = 3584 if number > 5 else 2048
        return ModelSize(
            int(number * 1e9),
            28 if number > 5 else 36,
            hidden,
            152_064,
            f"the {billions[0]} in its name",
        )


def _measured(model: PreTrainedModel, source: str) -> ModelSize:
    text = model.config.get_text_config()
    count = sum(p.numel() for p in model.parameters())
    return ModelSize(count, text.num_hidden_layers, text.hidden_size, text.vocab_size, source)


def plan_table(recipe: Recipe, cost: Plan) -> Table:
    """The plan for people."""
    giga = 2**30
    devices = recipe.devices
    rows = [
        (
            "method",
            f"{recipe.method}, {recipe.model}"
            + (f", LoRA rank {recipe.lora.rank}" if recipe.lora else ""),
        ),
        ("images", ", ".join(f"{name} {count}" for name, count in cost.images.items())),
        ("batch", f"{cost.batch} images on {devices} device{'s' * (devices > 1)}"),
        ("steps", str(cost.steps)),
        ("responses a step", str(cost.responses_a_step)),
        ("comparisons a step", f"{cost.comparisons_a_step:,}"),
        ("parameters", f"{cost.parameters / 1e6:,.1f} M ({cost.parameters_from})"),
        ("memory a device (estimate)", f"{cost.memory / giga:.1f} GiB"),
        (
            "  weights, reference policy",
            f"{cost.weights / giga:.1f} + {cost.ref_model / giga:.1f} GiB",
        ),
        ("  gradients and AdamW", f"{cost.optimizer / giga:.1f} GiB"),
        ("  activations", f"{cost.activations / giga:.1f} GiB"),
    ]
    if devices > 1:
        states = cost.weights + cost.ref_model + cost.optimizer
        rows.append(
            (
                "memory, ZeRO-3 sharded",
                f"{(states / devices + cost.activations) / giga:.1f} GiB a device",
            )
        )
    table = Table(show_header=False, title="plan")
    for name, value in rows:
        table.add_row(name, value)
    return table
