"""Which images a model's processor refuses, as far as their size tells; its weights are not needed."""

import functools
from collections.abc import Callable
from pathlib import Path

from transformers.processing_utils import ProcessorMixin

from ..errors import UserError, first_line
from .families import FAMILIES, Family, family_of, read_config
from .folder import whole_model
from .load import EMBEDDED_NAMES, embedded_folder
from .nano import NanoConfig
from .releases import subfolder_of

# (width, height) in pixels -> why it is refused, or None where it is taken.
Refusal = Callable[[int, int], str | None]


def size_refusal(name: str, max_pixels: int | None = None) -> Refusal:
    """What the processor of a model says of a size; `name` and `max_pixels` are those of `load`.

    Raises UserError where the model's processor cannot be read.
    """
    family, processor = _processor(name)
    if max_pixels is not None:
        family.limit_pixels(processor, max_pixels)

    # Photos of a data set have few sizes, and some processors can only be asked with an image.
    @functools.cache
    def refusal(width: int, height: int) -> str | None:
        try:
            family.check_size(processor, width, height)
        except ValueError as error:
            return f"the processor of {name} cannot take {width} × {height} ({first_line(error)})"
        return None

    return refusal


def _processor(name: str) -> tuple[Family, ProcessorMixin]:
    """The family of a model and its processor, as `load` has them."""
    try:
        # An adapter's folder has a processor of its own, but not the configuration of its base model.
        base = whole_model(name)
        if base in EMBEDDED_NAMES:
            family = FAMILIES[NanoConfig.model_type]
        else:
            family = family_of(read_config(base))
        owner = name if base == name or (Path(name) / "tokenizer_config.json").is_file() else base
        where = str(embedded_folder(owner)) if owner in EMBEDDED_NAMES else owner
        return family, family.load_processor(where, subfolder_of(owner))
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"the processor of the model {name!r} could not be read or fetched: {first_line(error)}"
        ) from error
