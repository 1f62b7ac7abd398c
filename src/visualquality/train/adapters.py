"""LoRA: a new adapter, or the one of the stage before.

A stage on a model folder with an adapter goes on with that adapter, on the same base model. Its result is then one
adapter again, which needs no folder of the stage before, and a base that is kept in 4 bits never has to be merged. The
alternative, a new adapter on the merged weights, is what a recipe gets that names a folder of `visualquality merge`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, set_seed

from ..errors import UserError
from ..models.adapter import MAIN, with_adapter
from ..models.folder import ADAPTER, check_adapter
from .recipe import LoRA, Recipe

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

# Our name of the copy that stays as it was when the stage started, for the KL term.
START = "start"


def adapter_to_go_on_with(recipe: Recipe) -> Path | None:
    """The folder of the adapter that a LoRA recipe goes on with; None where there is none.

    Raises UserError where it does not fit the recipe. Only JSON and headers are read.
    """
    folder = Path(recipe.model)
    if recipe.lora is None or not (folder / ADAPTER).is_file():
        return None
    settings, lora = check_adapter(folder), recipe.lora
    pairs: list[tuple[str, Any, Any]] = [
        ("rank", settings.get("r"), lora.rank),
        ("alpha", settings.get("lora_alpha"), lora.alpha),
    ]
    # Other software writes a list of names: `go_on` compares the modules that these mean.
    if isinstance(settings.get("target_modules"), str):
        pairs.append(("targets", settings["target_modules"], lora.targets))
    wrong = [f"lora.{name} {has} and not {asked}" for name, has, asked in pairs if has != asked]
    if settings.get("bias", "none") != "none":
        # These would not go back to where the stage started, for the KL term.
        wrong.append("biases of the base model")
    if wrong:
        raise _unfit(folder, wrong)
    return folder


def new_adapter(lora: LoRA) -> "LoraConfig":
    """The settings of a new adapter, as PEFT has them."""
    from peft import LoraConfig  # takes seconds

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
    )


def add_adapter(model: PreTrainedModel, lora: LoRA, seed: int) -> "PeftModel":
    """`model` with a new adapter in float32, drawn by `seed`."""
    from peft import get_peft_model

    set_seed(seed)
    adapted: Any = get_peft_model(model, new_adapter(lora))
    return adapted


def go_on(
    model: PreTrainedModel, folder: Path, lora: LoRA, *, keep_start: bool, own_dtype: bool
) -> "PeftModel":
    """`model`, the base, with the adapter in `folder` to train.

    keep_start: with a frozen copy of it too, for `as_it_started`. own_dtype: the adapter in float32 whatever the base
    is in. Raises UserError as `with_adapter`, and where the adapter changes other modules than `lora.targets`.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    wanted = {name for name, _ in model.named_modules() if re.fullmatch(lora.targets, name)}
    adapted = with_adapter(model, folder, trainable=True, own_dtype=own_dtype)
    # The layers of adapters have the names of those that they stand for.
    found = {name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
    if found != wanted:
        raise _unfit(folder, ["weights for other modules than lora.targets"])
    # What it will name as its base: the folder may have had a relative path, or an older name.
    adapted.peft_config[MAIN].base_model_name_or_path = model.name_or_path
    if keep_start:
        adapted.load_adapter(folder, START, is_trainable=False, autocast_adapter_dtype=own_dtype)
        adapted.set_adapter(MAIN)
    # Else each checkpoint, and the result, would have a folder with the start as well.
    saved: Any = partial(adapted.save_pretrained, selected_adapters=[MAIN])
    adapted.save_pretrained = saved  # type: ignore[method-assign]
    return adapted


@contextmanager
def as_it_started(policy: "PeftModel") -> Iterator[None]:
    """Within it a LoRA policy is what it was when the stage started: the base alone, or with the adapter of then."""
    if START not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    policy.set_adapter(START)
    try:
        yield
    finally:
        policy.set_adapter(MAIN)


def _unfit(folder: Path, wrong: list[str]) -> UserError:
    return UserError(
        f"{folder} has an adapter with {', '.join(wrong)}, and a LoRA recipe goes on with it: give the same, "
        "or merge it (visualquality merge) and train a new adapter on the result"
    )
