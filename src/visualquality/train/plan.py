"""What a recipe will cost, before it runs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..models.limits import Refusal, size_refusal
from ..rl2r import ALONE
from .adapters import adapter_to_go_on_with
from .examples import Example
from .memory import Memory, ModelSize, memory, model_size
from .recipe import Recipe, check_reward

# What makes a batch large.
BATCH_FIELDS = "optimizer.images_per_device, optimizer.accumulation or devices"


@dataclass(frozen=True)
class Plan:
    """Steps, comparisons and memory of a run. Memory is an estimate for each device, without sharding and with it.

    cuda: the estimate is for GPUs. That is so where there is one, and for models that nobody trains without.
    """

    images: dict[str, int]  # of each data set
    steps: int
    responses_a_step: int
    comparisons_a_step: int
    model: ModelSize
    memory: Memory
    sharded: Memory | None  # by ZeRO-3, where there are several devices
    cuda: bool


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

    Raises UserError where a data set is smaller than a batch, for an unknown reward, and for an adapter that does not
    fit the recipe.
    """
    check_reward(recipe)
    adapter_to_go_on_with(recipe)
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
    size = model_size(recipe)
    cuda = torch.cuda.is_available() or size.parameters > 10**9
    sharded = memory(recipe, size, cuda=cuda, sharded=True) if recipe.devices > 1 else None
    return Plan(
        images=counts,
        steps=count_steps(recipe, examples),
        responses_a_step=batch * responses,
        comparisons_a_step=_compared_pairs(recipe) * responses,
        model=size,
        memory=memory(recipe, size, cuda=cuda),
        sharded=sharded,
        cuda=cuda,
    )


def _compared_pairs(recipe: Recipe) -> int:
    """Ordered pairs of images that an update compares."""
    rl2r = recipe.method == "rl2r"
    if not recipe.compares or (rl2r and recipe.rl2r.reward in ALONE):
        return 0
    size = (rl2r and recipe.rl2r.compare_within) or recipe.compared
    # The last group may be smaller.
    groups, rest = divmod(recipe.global_batch, size)
    return groups * size * (size - 1) + rest * (rest - 1)


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
        *_memory_rows(f"memory of each {'GPU' if cost.cuda else 'process'}", cost.memory),
    ]
    if cost.sharded is not None:
        rows += _memory_rows("the same, sharded by ZeRO-3", cost.sharded)
    table = Table(show_header=False, title="plan")
    for row in rows:
        table.add_row(*row)
    return table


def _memory_rows(title: str, found: Memory) -> list[tuple[str, str]]:
    def gib(*parts: int) -> str:
        return " + ".join(f"{part / 2**30:.1f}" for part in parts) + " GiB"

    return [
        (f"{title} (estimate)", gib(found.peak)),
        ("  weights, frozen policy", gib(found.weights, found.ref_model)),
        ("  AdamW's moments", gib(found.moments)),
        ("  update: gradients, activations", gib(found.gradients, found.activations)),
        ("  rollout", gib(found.rollout)),
    ]
