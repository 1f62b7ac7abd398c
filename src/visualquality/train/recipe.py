"""A training recipe: one YAML file, strictly typed. Unknown keys are refused."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ..errors import UserError, shortened
from ..io import Settings, expand, read_yaml, validated
from ..models.options import Attention, Quantization
from ..parsing import parse_yaml
from ..response import PromptName, TextReading
from ..rl2r import ON_1_TO_5, REWARDS

RECIPE = "recipe.yaml"  # in the folder of a run, with all that was set on the command line
# Of steps, images and the like. A number with a zero too many is a fault to find before memory runs out.
MOST = 10_000_000
Objective = Literal["fidelity", "regression", "levels", "soft_levels"]


Source = TypeVar("Source", bound="DataSource")


class DataSource(Settings):
    """One manifest. `columns` and `images` are for files whose columns have other names (see `Manifest.read`).

    `split_seed`: where the manifest names no splits, cut it 6:2:2 by content with this seed.
    `mos_range`: the ends of this data set's scale; its MOS are taken linearly to [1, 5]. Needed only where scores are
    compared with numbers (method sft, regression, reward absolute): ranking rewards need no common scale.
    """

    manifest: Path
    split: Literal["train", "val", "test"] | None = None
    split_seed: int | None = None
    columns: dict[str, str] | None = None
    images: Path | None = None
    mos_range: tuple[float, float] | None = None

    @field_validator("mos_range")
    @classmethod
    def _ends_in_order(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError("give the lower end first and then the higher one")
        return ends


class Validation(DataSource):
    """A part that is scored along the way and never trained on: by default the rows of the split val.

    `split: null` takes all rows of the manifest, which then may have none of the split test.
    metric: what the best weights are chosen by, within each data set, and averaged over them.
    keep: which weights stay (`train/weights.py`): those of every validation, the best ones, or the best and the last N.
    """

    split: Literal["val"] | None = "val"
    every: PositiveInt = 50  # steps
    metric: Literal["srcc", "plcc", "krcc"] = "srcc"
    keep: str = Field("best", pattern=r"^(all|best|last [1-9][0-9]{0,5})$")


class RL2R(Settings):
    """Settings of Eq. 1-6 (see rl2r); the defaults are the paper's."""

    # K; at least 2, because Eq. 4 compares the responses of an image.
    responses: int = Field(6, ge=2, le=MOST)
    reward: str = "fidelity"  # ranking reward, a key of rl2r.REWARDS (see check_reward)
    format_weight: NonNegativeFloat = 1.0  # of the format reward, added to the ranking reward
    # Penalty of a response of max_new_tokens; of a shorter one in proportion.
    length_weight: NonNegativeFloat = 0.0
    compare_within: int | None = Field(None, ge=2)  # compare images only in groups of this size
    # Lowers the advantages of images whose scores disagree (rl2r.variance_weight); Q-Hawkeye has 0.2.
    variance_weight: NonNegativeFloat = 0.0
    # All images of an update are of one data set, or each group of `compare_within` draws its own (the authors' code).
    dataset_per: Literal["batch", "group"] = "batch"
    kl_weight: NonNegativeFloat = 0.04  # beta of Eq. 5 (rl2r.policy_objective)
    clip: PositiveFloat = 0.2  # epsilon of Eq. 5
    temperature: PositiveFloat = 1.0
    # Draw each token from so many likeliest ones; 0: from all. The objective has the probabilities among all tokens.
    top_k: int = Field(0, ge=0, le=MOST)
    # How a score is found in a response: strict, or authors (response.read_as_authors), which reads more of them.
    reading: TextReading = "strict"
    max_new_tokens: int = Field(256, ge=8)


class SFT(Settings):
    """Supervised warm-up: the model learns to write the manifest's `reasoning`, where it has one, and the MOS."""

    # Standard deviation on the MOS, drawn anew at each visit; "std" takes that of each row's ratings.
    score_noise: NonNegativeFloat | Literal["std"] = 0.0
    # Train on both prompts, with and without reasoning: the key of an image decides which it gets.
    every_prompt: bool = False


class Expect(Settings):
    """Training of the expected score, without sampling. `train/expected.py` has the objectives."""

    objective: Objective = "fidelity"
    # Weight of the manifests' reasonings, trained beside the score as in sft.
    rehearsal: NonNegativeFloat = 0.0


class Optimizer(Settings):
    """AdamW, linear to 0. Exactly one of `epochs` and `steps`."""

    learning_rate: PositiveFloat = 1e-6
    epochs: Annotated[float, Field(gt=0, le=MOST)] | None = None
    steps: Annotated[int, Field(gt=0, le=MOST)] | None = None
    images_per_device: int = Field(8, gt=0, le=MOST)
    # Batches of images_per_device in an update; RL2R compares all their images.
    accumulation: int = Field(1, gt=0, le=MOST)
    warmup: float = Field(0.0, ge=0, lt=1)  # share of the steps
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _one_length(self) -> "Optimizer":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self


class LoRA(Settings):
    rank: int = Field(16, gt=0, le=MOST)
    alpha: int = Field(32, gt=0, le=MOST)
    # Regular expression of module names. The vision tower's layers have other names.
    targets: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class Recipe(Settings):
    """Everything that a training run depends on."""

    # A recipe says `validate`, which is a method of pydantic's.
    model_config = ConfigDict(serialize_by_alias=True)

    method: Literal["rl2r", "sft", "expect"] = "rl2r"
    model: str = "nano"
    data: tuple[DataSource, ...] = Field(min_length=1)
    output: Path
    prompt: PromptName = "paper"
    reasoning: bool = True
    reference: bool = False  # rate each image against its reference image, the first in the prompt
    # Leave out images that cannot be read or that the model's processor refuses, instead of naming them and ending.
    skip_bad: bool = False
    seed: int = Field(0, ge=0, lt=2**32)  # what NumPy takes
    rl2r: RL2R = RL2R()
    sft: SFT = SFT()
    expect: Expect = Expect()
    optimizer: Optimizer
    lora: LoRA | None = None
    freeze_vision: bool = False
    max_pixels: int | None = Field(None, ge=28 * 28)  # 28 x 28 pixels are one token of a Qwen-VL
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # The frozen base of a LoRA run in 4 bits. (models/options.py has both.)
    quantization: Quantization | None = None
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False
    # Of the update's rows of K responses (train/attention.py). flex needs CUDA.
    packed_attention: Literal["auto", "flex"] = "auto"
    devices: PositiveInt = 1  # processes that the run is meant for; --dry-run plans with it
    checkpoint_every: PositiveInt = 50  # steps
    keep_checkpoints: PositiveInt = 2
    # Where Trainer reports each step, by its own names: tensorboard, wandb and others.
    report_to: tuple[str, ...] = ()
    # Probe images are scored every `probe_every` steps and never trained on (RL2R only).
    probes: DataSource | None = None
    probe_every: PositiveInt = 10
    validation: Validation | None = Field(None, alias="validate")

    @model_validator(mode="before")
    @classmethod
    def _reports_of_older_recipes(cls, tree: Any) -> Any:
        # Until 0.2 there was `tensorboard: true`.
        if isinstance(tree, dict) and isinstance(wanted := tree.get("tensorboard"), bool):
            tree = {key: value for key, value in tree.items() if key != "tensorboard"}
            if wanted:
                tree.setdefault("report_to", ["tensorboard"])
        return tree

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Recipe":
        if self.prompt == "q-insight":
            raise ValueError(
                "the prompt q-insight is for the weights of its authors: train with another"
            )
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                "weights in 4 bits cannot be trained: add lora, or leave quantization out"
            )
        if self.compares and self.compared < 2:
            raise ValueError(
                "images are compared with one another: raise optimizer.images_per_device to 2 or more"
            )
        within = self.rl2r.compare_within
        if self.grouped and (within is None or self.global_batch % within):
            raise ValueError(
                "rl2r.dataset_per is group, so rl2r.compare_within must be a size of groups that "
                f"{self.global_batch} images are made of"
            )
        if self.method == "rl2r" and within is not None and self.compared % within == 1:
            raise ValueError(
                f"groups of {within} leave one of {self.compared} images alone: choose another size"
            )
        return self

    @property
    def global_batch(self) -> int:
        """Images of an update, on all devices."""
        return self.optimizer.images_per_device * self.optimizer.accumulation * self.devices

    @property
    def compared(self) -> int:
        """Images that are compared with one another, groups aside: those of an update, or of a device's batch."""
        return self.global_batch if self.method == "rl2r" else self.optimizer.images_per_device

    @property
    def grouped(self) -> bool:
        """Whether each comparison group of a batch draws its data set, and not the batch as a whole."""
        return self.method == "rl2r" and self.rl2r.dataset_per == "group"

    @property
    def one_dataset(self) -> int:
        """Images that are drawn together from one data set, where images are compared: a batch, or a group of one."""
        within = self.rl2r.compare_within
        return within if self.grouped and within is not None else self.global_batch

    @property
    def compares(self) -> bool:
        """Whether images are compared within a data set, so that scales do not matter."""
        fidelity = self.method == "expect" and self.expect.objective == "fidelity"
        return self.method == "rl2r" or fidelity

    @property
    def on_1_to_5(self) -> bool:
        """Whether MOS are compared with scores, and so must be from 1 to 5."""
        return not self.compares or (self.method == "rl2r" and self.rl2r.reward in ON_1_TO_5)


def read_recipe(path: Path, overrides: tuple[str, ...] = (), output: Path | None = None) -> Recipe:
    """The recipe in `path` with overrides `a.b=value` (the value is YAML).

    Relative paths in a recipe (manifests, images, a model's folder) are relative to the recipe's folder; `output`,
    which is runs/NAME unless it is given here or there, is relative to where you are.
    Raises UserError that names the file and each wrong field.
    """
    tree = read_yaml(path, "recipe")
    for override in overrides:
        _override(tree, override)
    tree.setdefault("output", f"runs/{path.stem}")
    if output is not None:
        tree["output"] = output
    recipe = validated(Recipe, tree, path, "recipe")
    base = path.resolve().parent

    def placed(source: Source) -> Source:
        paths = {"manifest": source.manifest, "images": source.images}
        # An absolute path stays as it is: `/` takes the right one.
        return source.model_copy(
            update={name: base / expand(p) for name, p in paths.items() if p is not None}
        )

    changes: dict[str, Any] = {"data": tuple(map(placed, recipe.data))}
    if recipe.probes is not None:
        changes["probes"] = placed(recipe.probes)
    if recipe.validation is not None:
        changes["validation"] = placed(recipe.validation)
    # Any other model is a name: an embedded model's, or one of the hub.
    if (base / recipe.model).is_dir():
        changes["model"] = str(base / recipe.model)
    return recipe.model_copy(update=changes)


def check_reward(recipe: Recipe) -> None:
    """Raises UserError for a reward that is not there.

    Not a part of reading: a user may add a reward of their own to `REWARDS` before a run, and whoever looks at the
    run later need not have it.
    """
    name = recipe.rl2r.reward
    if recipe.method == "rl2r" and name not in REWARDS:
        raise UserError(
            f"the recipe's rl2r.reward: unknown reward {name!r}: choose one of {', '.join(REWARDS)}"
        )


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise UserError(
            f"--set {override}: write it as field=value, for instance optimizer.steps=100"
        )
    *parents, leaf = name.split(".")
    node: Any = tree
    try:
        parsed = parse_yaml(value)
        for parent in parents:
            # A section that the recipe leaves out, or sets to null, has its defaults beside the new value.
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        node[int(leaf) if isinstance(node, list) else leaf] = parsed
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"--set {shortened(override)}: there is no such field, or the value is not YAML"
        ) from error
    # The two exclude each other, and the override wins.
    other = {"epochs": "steps", "steps": "epochs"}.get(leaf)
    if other and parents == ["optimizer"]:
        node.pop(other, None)
