"""A training recipe: one YAML file, strictly typed. Unknown keys are refused."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ..errors import UserError
from ..io import Settings, read_yaml, validated
from ..response import PromptName
from ..rl2r import REWARDS

Objective = Literal["fidelity", "regression", "levels", "soft_levels"]


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

    @model_validator(mode="after")
    def _ends_in_order(self) -> "DataSource":
        if self.mos_range is not None and self.mos_range[0] >= self.mos_range[1]:
            raise ValueError("mos_range is the lower end and then the higher one")
        return self


class RL2R(Settings):
    """Settings of Eq. 1-6 (see rl2r.py); the defaults are the paper's."""

    responses: int = Field(6, ge=2, description="K")
    reward: str = Field("fidelity", description="ranking reward, a key of rl2r.REWARDS")
    format_weight: float = Field(
        1.0, ge=0, description="weight of the format reward, added to the ranking reward"
    )
    length_weight: float = Field(
        0.0,
        ge=0,
        description="penalty of a response of max_new_tokens; of a shorter one in proportion",
    )
    compare_within: int | None = Field(
        None, ge=2, description="compare images only within groups of this size"
    )
    kl_weight: float = Field(0.04, ge=0, description="beta of Eq. 5 (rl2r.policy_objective)")
    clip: float = Field(0.2, gt=0, description="epsilon of Eq. 5 (rl2r.policy_objective)")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(256, ge=8)

    @field_validator("reward")
    @classmethod
    def _known_reward(cls, name: str) -> str:
        if name not in REWARDS:
            raise ValueError(f"unknown reward {name!r}: choose one of {', '.join(REWARDS)}")
        return name


class SFT(Settings):
    """Supervised warm-up: the model learns to write the manifest's `reasoning`, where it has one, and the MOS."""

    score_noise: float = Field(
        0.0, ge=0, description="standard deviation of noise on the MOS, drawn anew at each visit"
    )
    every_prompt: bool = Field(
        False,
        description="train on both prompts in both forms: the name of an image decides which it gets",
    )


class Expect(Settings):
    """Training of the expected score; nothing is drawn. `train/expected.py` has the objectives."""

    objective: Objective = "fidelity"
    rehearsal: float = Field(
        0.0,
        ge=0,
        description="weight of the manifests' reasonings, trained beside the score as in sft",
    )


class Optimizer(Settings):
    """AdamW, linear to 0. Exactly one of `epochs` and `steps`."""

    learning_rate: float = Field(1e-6, gt=0)
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    images_per_device: int = Field(8, ge=1)
    accumulation: int = Field(
        1,
        ge=1,
        description="batches of `images_per_device` in an update; RL2R compares all their images",
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> "Optimizer":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self


class LoRA(Settings):
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    targets: str = Field(
        r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        description="regular expression of module names",
    )


class Recipe(Settings):
    """Everything that a training run depends on."""

    method: Literal["rl2r", "sft", "expect"] = "rl2r"
    model: str = "nano"
    data: tuple[DataSource, ...] = Field(min_length=1)
    output: Path
    prompt: PromptName = "paper"
    reasoning: bool = True
    reference: bool = Field(
        False, description="rate each image against its reference image, a second one in the prompt"
    )
    seed: int = 0
    rl2r: RL2R = RL2R()
    sft: SFT = SFT()
    expect: Expect = Expect()
    optimizer: Optimizer
    lora: LoRA | None = None
    freeze_vision: bool = False
    max_pixels: int | None = Field(None, ge=28 * 28)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    devices: int = Field(
        1, ge=1, description="processes that the run is meant for; --dry-run plans with it"
    )
    checkpoint_every: int = Field(50, ge=1, description="steps")
    keep_checkpoints: int = Field(2, ge=1)
    tensorboard: bool = False
    probes: DataSource | None = Field(
        None, description="probe images: scored every `probe_every` steps, never trained on (RL2R)"
    )
    probe_every: int = Field(10, ge=1, description="steps")

    @model_validator(mode="after")
    def _own_prompt(self) -> "Recipe":
        if self.prompt == "q-insight":
            raise ValueError(
                "the prompt q-insight is for the weights of its authors: train with another"
            )
        return self

    @model_validator(mode="after")
    def _something_to_compare(self) -> "Recipe":
        if self.compares and self.compared < 2:
            raise ValueError(
                "images are compared with one another: raise optimizer.images_per_device to 2 or more"
            )
        within = self.rl2r.compare_within
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
    def compares(self) -> bool:
        """Whether images are compared within a data set, so that a batch is of one and scales do not matter."""
        return self.method == "rl2r" or (
            self.method == "expect" and self.expect.objective == "fidelity"
        )

    @property
    def on_1_to_5(self) -> bool:
        """Whether MOS are compared with scores, and so must be from 1 to 5."""
        return not self.compares or (self.method == "rl2r" and self.rl2r.reward == "absolute")


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

    def placed(source: DataSource) -> DataSource:
        images = None if source.images is None else base / source.images.expanduser()
        return source.model_copy(
            update={"manifest": base / source.manifest.expanduser(), "images": images}
        )

    places = {
        "data": tuple(map(placed, recipe.data)),
        "probes": recipe.probes and placed(recipe.probes),
    }
    model = str(base / recipe.model) if (base / recipe.model).is_dir() else recipe.model
    return recipe.model_copy(update={**places, "model": model})


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise UserError(
            f"--set {override}: write it as field=value, for instance optimizer.steps=100"
        )
    *parents, leaf = name.split(".")
    node: Any = tree
    try:
        parsed = yaml.safe_load(value)
        for parent in parents:
            if isinstance(node, dict) and node.get(parent) is None:
                node[parent] = {}
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        node[int(leaf) if isinstance(node, list) else leaf] = parsed
    except (yaml.YAMLError, ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"--set {override}: there is no such field, or the value is not YAML"
        ) from error
    if leaf in ("epochs", "steps") and parents == [
        "optimizer"
    ]:  # they exclude each other: the override wins
        node.pop({"epochs": "steps", "steps": "epochs"}[leaf], None)
