"""What the package knows of families of vision-language models; of released weights see `releases.py`.

A new family is one entry of `FAMILIES`. A family that is not listed is tried with what transformers offers
(`OTHER`): it can be scored, and trained row by row.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError
from ..io import write_text
from .folder import NO_CODE, check_folder
from .nano import NanoConfig, NanoProcessor
from .releases import subfolder_of


def _check_with_an_image(processor: Any, width: int, height: int) -> None:
    processor.image_processor(images=[Image.new("RGB", (width, height))], return_tensors="np")


@dataclass(frozen=True)
class Family:
    """How models of one architecture are handled.

    load_processor: from (folder or hub name, subfolder of it). limit_pixels: bounds the pixels that the model sees of
    an image. vision_tower: the module that looks at pixels, to freeze it; None where it is not known.
    packable: several responses may share a row in training, since masks and positions are known and tested.
    float32: always in float32, whatever number format is asked for.
    check_size: raises ValueError for a width and height that the processor refuses; as it is here, it gives the
    processor a blank image of that size.
    """

    load_processor: Callable[[str, str], ProcessorMixin]
    limit_pixels: Callable[[ProcessorMixin, int], None]
    vision_tower: Callable[[PreTrainedModel], nn.Module | None]
    packable: bool = False
    float32: bool = False
    check_size: Callable[[ProcessorMixin, int, int], None] = _check_with_an_image


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model's configuration; `OTHER` where it is not listed."""
    return FAMILIES.get(config.model_type, OTHER)


def bare_model(model: PreTrainedModel) -> Any:
    """The Hugging Face model itself, out of PEFT's wrapper; importing peft just to ask takes seconds."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def placeholder_ids(config: PreTrainedConfig) -> list[int]:
    """Tokens that stand for pixels. A model must not draw one: it would point at an image that is not there."""
    names = ("image_token_id", "video_token_id", "image_token_index")
    # The name depends on the family, and not every family has videos.
    found = [getattr(config, name, None) for name in names]
    return [int(token) for token in found if token is not None]


# nano, the embedded model


def _nano_processor(name: str, subfolder: str) -> ProcessorMixin:
    return NanoProcessor.from_pretrained(name, **NO_CODE)


def _limit_nano(processor: ProcessorMixin, max_pixels: int) -> None:
    processor.image_processor.max_pixels = max_pixels


def _takes_every_size(processor: ProcessorMixin, width: int, height: int) -> None:
    """nano's processor cuts or resizes whatever it gets."""


# Its statistics would lose their last digits in bfloat16, hence float32.
NANO = Family(
    _nano_processor,
    _limit_nano,
    lambda model: model.model.vision.tower,
    packable=True,
    float32=True,
    check_size=_takes_every_size,
)


# Qwen2-VL, Qwen2.5-VL, Qwen3-VL

# The class that other software knows the processor of a family by.
QWEN_VL_PROCESSORS = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}


class ImageOnlyQwenVLProcessor(Qwen2_5_VLProcessor):
    """The Qwen-VL processor for text and images, without torchvision.

    Their own processors want a video processor, which wants torchvision. Hugging Face infers a processor's parts from
    the signature of `__init__`, so this one has none. What it saves is what the published models have, so that any
    software loads a trained model as it loads the one that it was trained from.
    """

    model_type = "qwen2_5_vl"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> list[str]:
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        known_as = {"processor_class": QWEN_VL_PROCESSORS[self.model_type]}
        for name in ("processor_config.json", "tokenizer_config.json"):
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            _write_json(folder / name, settings | known_as)
        # Older transformers, and vLLM, look for the image settings in a file of their own.
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        _write_json(folder / "preprocessor_config.json", config["image_processor"] | known_as)
        return saved


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    write_text(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _qwen_processor(model_type: str) -> Callable[[str, str], ProcessorMixin]:
    def load_processor(name: str, subfolder: str) -> ProcessorMixin:
        processor = ImageOnlyQwenVLProcessor.from_pretrained(name, subfolder=subfolder, **NO_CODE)
        processor.model_type = model_type
        # Pillow's, whatever else is installed: the same pixels on every machine.
        processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(
            name, subfolder=subfolder
        )
        return processor

    return load_processor


def _limit_edges(processor: ProcessorMixin, max_pixels: int) -> None:
    """Qwen's image processors call the bounds on the *area* its shortest and longest edge."""
    images = processor.image_processor
    shortest = min(images.size["shortest_edge"], max_pixels)
    images.size = {"shortest_edge": shortest, "longest_edge": max_pixels}


def _check_edges(processor: Any, width: int, height: int) -> None:
    """By the function that also resizes an image (`smart_resize` in transformers): no aspect above 200."""
    processor.image_processor.get_number_of_image_patches(height, width)


# All others


def _auto_processor(name: str, subfolder: str) -> ProcessorMixin:
    processor = AutoProcessor.from_pretrained(name, subfolder=subfolder, **NO_CODE)
    if not isinstance(processor, ProcessorMixin):  # AutoProcessor may give a bare tokenizer instead
        raise UserError(
            f"{name!r} has no processor for images here; its processor may need torchvision"
        )
    return processor


OTHER = Family(_auto_processor, _limit_edges, lambda model: getattr(model.model, "visual", None))

FAMILIES: dict[str, Family] = {NanoConfig.model_type: NANO} | {
    model_type: Family(
        _qwen_processor(model_type),
        _limit_edges,
        lambda model: model.model.visual,
        packable=True,
        check_size=_check_edges,
    )
    for model_type in QWEN_VL_PROCESSORS
}


def read_config(name: str) -> PreTrainedConfig:
    """The configuration of a folder, once `check_folder` has looked at it, or of a name of the hub.

    Raises UserError as `check_folder`, and whatever transformers raises about a configuration that is damaged.
    """
    subfolder = subfolder_of(name)
    if Path(name).is_dir():
        check_folder(Path(name) / subfolder)
    return AutoConfig.from_pretrained(name, subfolder=subfolder, **NO_CODE)
