"""A LoRA adapter on its base model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ..errors import UserError, missing_extra

if TYPE_CHECKING:
    from peft import PeftModel

MAIN = "default"  # PEFT's name of the first adapter of a model


def with_adapter(
    model: PreTrainedModel, folder: Path, *, trainable: bool = False, own_dtype: bool = True
) -> "PeftModel":
    """`model`, the base, with the adapter in `folder`, whose layers are put into `model` itself.

    own_dtype: the adapter in float32, whatever the base is in. Raises UserError without PEFT, and where weights of the
    adapter have no place in the model, or the other way round: PEFT would go on with what fits.
    """
    try:
        from peft import PeftModel  # takes seconds
    except ModuleNotFoundError as error:
        raise missing_extra(f"the LoRA adapter {folder}", "train", error) from error
    adapted: Any = PeftModel.from_pretrained(
        model, folder, is_trainable=trainable, autocast_adapter_dtype=own_dtype
    )
    # A second time, since only this way tells what did not fit.
    found = adapted.load_adapter(
        folder, MAIN, is_trainable=trainable, autocast_adapter_dtype=own_dtype
    )
    wrong = [*found.missing_keys, *found.unexpected_keys]
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{folder}: its weights do not fit its settings and its base model ({wrong[0]}{others}): merge it with the "
            "software that it was trained with"
        )
    return adapted


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model`, the base, with the adapter in `folder` merged into its weights. Raises UserError as `with_adapter`."""
    whole: Any = with_adapter(model, folder)
    # All weights can be trained, as those of any other model that is loaded: PEFT had frozen them.
    return whole.merge_and_unload().requires_grad_(True)
