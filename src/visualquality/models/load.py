"""From a name or a folder to a model and its processor."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    Qwen2VLImageProcessorPil,
)
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError
from ..response import PromptName
from .known import subfolder_of
from .nano import NanoConfig, NanoForConditionalGeneration, NanoImageProcessor, NanoProcessor
from .qwen import QWEN_VL, ImageOnlyQwenVLProcessor

EMBEDDED = Path(__file__).parent / "nano" / "weights"
NANO_TEMPERATURE = 0.4  # on held-out photos an earlier nano named 82 % of the faults, 81 % at 0.7; all was readable
EMBEDDED_NAMES = ("nano", "nano-base")
ADAPTER = "adapter_config.json"
# In a trained model's folder: the prompt, whether there was a reference, and the digest of the weights that an adapter
# of an embedded model is for.
TRAINED_WITH = "visualquality.json"


@dataclass
class VisionLanguageModel:
    """A model with its processor.

    `processor` pads on the left. `name` is what the user called it. `prompt` is the one that it was trained with, where
    its folder says so, and `with_reference` whether it was shown a reference beside each image.
    `temperature` is the one to score with.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    prompt: PromptName | None = None
    with_reference: bool = False
    temperature: float = 1.0

    @cached_property
    def digest(self) -> str:
        """Identity of the weights: a hash of every parameter and buffer, whatever file they came from."""
        return weights_digest(self.model.state_dict())


def load(
    name: str, *, device: str | None = None, dtype: str = "auto", max_pixels: int | None = None
) -> VisionLanguageModel:
    """Load `nano`, `nano-base`, a folder, or a model of the Hugging Face hub.

    `device`: "cuda" where there is one, else "cpu". `dtype`: "auto" is bfloat16 on CUDA and float32 on a CPU, where
    bfloat16 is slower; nano is always float32, since its statistics would lose their last digits. `max_pixels`: a bound
    on the pixels that the model sees of one image; larger ones are resized.
    A folder with a LoRA adapter is loaded onto the base model that it names, and merged.
    Raises UserError where there is no such model or it cannot look at images.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch_dtype = _dtype(dtype, device)
    if name in EMBEDDED_NAMES:
        model, processor = _embedded(name)
    elif (Path(name) / ADAPTER).is_file():
        model, processor = _with_adapter(Path(name), torch_dtype)
    else:
        model, processor = _pretrained(name, torch_dtype)
    processor.tokenizer.padding_side = "left"
    if max_pixels is not None:
        if max_pixels < 28 * 28:
            raise UserError(
                f"max_pixels is {max_pixels}; give at least {28 * 28}, which is one token of a Qwen-VL"
            )
        _bound_pixels(processor, max_pixels)
    _move(model, device=device)
    temperature = NANO_TEMPERATURE if name == "nano" else 1.0
    return VisionLanguageModel(
        name, model.eval(), processor, temperature=temperature, **_trained_with(Path(name))
    )


def _move(model: Any, **where: Any) -> None:
    """`model.to`, whose signature a decorator hides from type checkers."""
    model.to(**where)


def _dtype(dtype: str, device: str) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype is {dtype!r}; choose one of auto, float32, bfloat16, float16")
    return getattr(torch, dtype)


def _embedded(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Two models of one vocabulary, each with a tower of its own; `nano-base` does not read pixels themselves."""
    weights = EMBEDDED / f"{name}.safetensors"
    if not weights.is_file():  # the wheel leaves nano-base out
        raise UserError(
            f"{name} comes with the repository, not with the installed package: train from nano instead"
        )
    config, processor = (
        NanoConfig.from_pretrained(EMBEDDED),
        NanoProcessor.from_pretrained(EMBEDDED),
    )
    if name == "nano-base":
        config.pixels = config.linear_quality = False
        processor.image_processor = NanoImageProcessor()
    model = NanoForConditionalGeneration(config)
    state = load_file(weights)
    if name == "nano-base":
        state |= {
            f"model.vision.tower.{k}": v
            for k, v in load_file(EMBEDDED / "tower.safetensors").items()
        }
    model.load_state_dict(
        state | {"lm_head.weight": state["model.language_model.embed_tokens.weight"]}
    )
    _move(model, dtype=torch.float32)
    return model, processor


def _pretrained(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, ProcessorMixin]:
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        known = ", ".join(EMBEDDED_NAMES)
        raise UserError(
            f"no model {name!r}: give {known}, a folder that exists, or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    subfolder = subfolder_of(name)
    try:
        config = AutoConfig.from_pretrained(name, subfolder=subfolder)
        processor = _processor(name, config.model_type, subfolder)
        if config.model_type == NanoConfig.model_type:
            dtype = torch.float32
        model = load_strictly(
            AutoModelForImageTextToText,
            name,
            subfolder=subfolder,
            dtype=dtype,
            attn_implementation="sdpa",
        )
    except UserError:
        raise
    except OSError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the model {name!r} could not be read or fetched: {first}") from error
    except (ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{name!r} is not a vision-language model that this can load: {str(error).splitlines()[0]}"
        ) from error
    return model, processor


def load_strictly(kind: Any, name: str | Path, **kwargs: Any) -> Any:
    """`from_pretrained` that refuses a file with a weight too few or too many.

    transformers gives missing weights random values and says so in a log line only.
    """
    model, info = kind.from_pretrained(name, output_loading_info=True, **kwargs)
    wrong = [
        str(key)
        for group in ("missing_keys", "mismatched_keys", "unexpected_keys")
        for key in info[group]
    ]
    if wrong:
        others = f" and {len(wrong) - 1} more" * (len(wrong) > 1)
        raise UserError(
            f"{name}: its weights do not fit its configuration ({wrong[0]}{others}): get the folder again"
        )
    return model


def _trained_with(folder: Path) -> dict[str, Any]:
    """How the model was asked."""
    said = _record(folder)
    return {"prompt": said.get("prompt"), "with_reference": said.get("reference", False)}


def _record(folder: Path) -> dict[str, Any]:
    """`TRAINED_WITH`, or nothing."""
    record = folder / TRAINED_WITH
    return json.loads(record.read_text()) if record.is_file() else {}


def _processor(name: str, model_type: str, subfolder: str = "") -> ProcessorMixin:
    if model_type == NanoConfig.model_type:
        return NanoProcessor.from_pretrained(name)
    if model_type in QWEN_VL:
        processor = ImageOnlyQwenVLProcessor.from_pretrained(name, subfolder=subfolder)
        processor.family = model_type
        # Whatever else is installed.
        processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(
            name, subfolder=subfolder
        )
        return processor
    processor = AutoProcessor.from_pretrained(name, subfolder=subfolder)
    if not isinstance(processor, ProcessorMixin):
        raise UserError(
            f"{name!r} ({model_type}) has no processor for images here; its processor may need torchvision"
        )
    return processor


def _with_adapter(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, ProcessorMixin]:
    from peft import PeftModel

    base = json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]
    if not base:
        raise UserError(
            f"{folder / ADAPTER} does not name the base model (base_model_name_or_path)"
        )
    model, processor = _embedded(base) if base in EMBEDDED_NAMES else _pretrained(base, dtype)
    if (folder / "tokenizer_config.json").is_file():  # the processor that it was trained with
        processor = _processor(str(folder), model.config.model_type)
    trained_on = _record(folder).get("base")
    others = trained_on is not None and trained_on != weights_digest(model.state_dict())
    if others or getattr(model.config, "pixels", False) != getattr(
        processor.image_processor, "pixels", False
    ):
        raise UserError(f"{folder} was trained on an earlier version of {base}: train it again")
    return PeftModel.from_pretrained(model, folder).merge_and_unload(), processor


def _bound_pixels(processor: ProcessorMixin, max_pixels: int) -> None:
    images = processor.image_processor
    if isinstance(images, NanoImageProcessor):
        images.max_pixels = max_pixels
    else:
        shortest = min(images.size["shortest_edge"], max_pixels)
        images.size = {"shortest_edge": shortest, "longest_edge": max_pixels}


def weights_digest(state: dict[str, Tensor]) -> str:
    """A hash of names, shapes and values (in float32), the same on every device."""
    digest = xxhash.xxh3_128()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
