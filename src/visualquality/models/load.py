"""From a name or a folder to a model and its processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError, first_line
from ..process import usable_device, use_model_here
from ..response import PromptName, Reading
from ..seeds import arrays_digest
from .adapter import merged, with_adapter
from .families import family_of, placeholder_ids, read_config
from .folder import ADAPTER, NO_CODE, check_adapter, read_object
from .generate import eos_token_ids
from .nano import NanoConfig, NanoForConditionalGeneration, NanoProcessor
from .options import Attention, Quantization, WeightOptions
from .prompt import encode_prompt
from .releases import subfolder_of

EMBEDDED = Path(__file__).parent / "nano" / "weights"
EMBEDDED_NAMES = ("nano", "nano-base")
# On held-out photos an earlier nano named 82 % of the faults, 81 % at 0.7; all answers were readable.
NANO_TEMPERATURE = 0.4

# Of a prompt with an image of 112 x 112 pixels. Known models make some hundred.
MOST_TOKENS = 4096
# In a trained model's folder: how it was asked (prompt, reference or not), and the digest of the weights that an
# adapter of an embedded model is for.
TRAINED_WITH = "visualquality.json"


@dataclass
class VisionLanguageModel:
    """A model with its processor, which pads on the left.

    name: what the user called it. prompt: the one that it was trained with, where its folder says so.
    with_reference: it was trained with a reference image beside each image. temperature, reading: what to score with.
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    prompt: PromptName | None = None
    with_reference: bool = False
    temperature: float = 1.0
    reading: Reading = "strict"

    @property
    def title(self) -> str:
        """The name as ratings have it. Of an embedded model it has the version of the weights, since they change."""
        version = getattr(self.model.config, "version", None)
        if self.name in EMBEDDED_NAMES and version is not None:
            return f"{self.name} {version}"
        return self.name

    @cached_property
    def digest(self) -> str:
        """Identity of the weights: a hash of every parameter and buffer, whatever file they came from."""
        return weights_digest(self.model.state_dict())


def load(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "auto",
    max_pixels: int | None = None,
    quantization: Quantization | None = None,
    attention: Attention = "sdpa",
    adapted: bool = True,
) -> VisionLanguageModel:
    """Load `nano`, `nano-base`, a folder, or a model of the Hugging Face hub.

    `device`: cpu, cuda, cuda:N or mps; by default "cuda" where there is one, else "cpu".
    `dtype`: "auto" is bfloat16 on CUDA, and float32 elsewhere, as on a CPU, where bfloat16 is slower; nano is always
    float32, since its statistics would lose their last digits. "saved" is the one of the files.
    `max_pixels`: a bound on the pixels that the model sees of one image; larger ones are resized.
    `quantization`, `attention`: as `WeightOptions` has them.
    A folder with a LoRA adapter is loaded onto the base model that it names, and merged; beside weights in 4 bits it
    stays apart, since a merged weight would be rounded again. `adapted` False leaves the base model as it is, with the
    adapter's processor.
    Nothing of a folder is run, and no pickle is opened (`folder.py`).
    Raises UserError where there is no such model or device, the model is damaged, or it cannot look at images.
    """
    device = usable_device(device)
    use_model_here(device)
    options = WeightOptions(_dtype(dtype, device), device, quantization, attention)
    with faults_of_model(name, loading=True):
        if name in EMBEDDED_NAMES:
            model, processor = _embedded(name, options)
        elif (Path(name) / ADAPTER).is_file():
            model, processor = _base_of_adapter(Path(name), options)
            if adapted and quantization is None:
                model = merged(model, Path(name))
            elif adapted:
                # Its layers are in `model` itself.
                with_adapter(model, Path(name))
        else:
            model, processor = _pretrained(name, options)
        # Responses are appended to a batch of prompts, so all prompts must end in the same column.
        processor.tokenizer.padding_side = "left"
        if max_pixels is not None:
            if max_pixels < 28 * 28:
                raise UserError(
                    f"max_pixels is {max_pixels}; give at least {28 * 28}, which is one token of a Qwen-VL"
                )
            family_of(model.config).limit_pixels(processor, max_pixels)
        if name not in EMBEDDED_NAMES:
            _try_out(model, processor, name)
        if quantization is None:
            _move(model, device=device)
        trained_with = trained_as(Path(name))
    return VisionLanguageModel(
        name,
        model.eval(),
        processor,
        prompt=trained_with.get("prompt"),
        with_reference=trained_with.get("reference", False),
        temperature=NANO_TEMPERATURE if name == "nano" else 1.0,
        # The paper's way for all models but nano, of whose drawn answers many are exactly 1 for bad images.
        reading="expected" if name == "nano" else "strict",
    )


def folder_of(name: str) -> Path | None:
    """The folder of a model that is a folder of the user's; None for an embedded model and a name of the hub."""
    return Path(name) if name not in EMBEDDED_NAMES and Path(name).is_dir() else None


def embedded_folder(name: str) -> Path:
    """Where the files of an embedded model are."""
    return EMBEDDED if name == "nano" else EMBEDDED / name


def _move(model: Any, **where: Any) -> None:
    """`model.to`, whose signature a decorator hides from type checkers."""
    model.to(**where)


def _dtype(dtype: str, device: str) -> torch.dtype | Literal["auto"]:
    """As transformers takes it, whose "auto" is the number format of the files."""
    if dtype == "saved":
        return "auto"
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype is {dtype!r}; choose one of auto, float32, bfloat16, float16")
    return getattr(torch, dtype)


def _embedded(name: str, options: WeightOptions) -> tuple[PreTrainedModel, ProcessorMixin]:
    options.check(name, family_of(NanoConfig()))
    folder = embedded_folder(name)
    weights = folder / f"{name}.safetensors"
    if not weights.is_file():  # the wheel leaves nano-base out
        raise UserError(
            f"{name} comes with the repository, not with the installed package: train from nano instead"
        )
    config = NanoConfig.from_pretrained(folder)
    processor = NanoProcessor.from_pretrained(folder)
    state = load_file(weights)
    if name == "nano-base":
        # Its tower is the published one, which is stored once, apart.
        tower = load_file(folder / "tower.safetensors")
        state |= {f"model.vision.tower.{key}": value for key, value in tower.items()}
    model = NanoForConditionalGeneration(config)
    tied = {"lm_head.weight": state["model.language_model.embed_tokens.weight"]}
    model.load_state_dict(state | tied)
    _move(model, dtype=torch.float32)  # stored in float16
    model.set_attn_implementation(options.attention)
    return model, processor


def _pretrained(name: str, options: WeightOptions) -> tuple[PreTrainedModel, ProcessorMixin]:
    # A hub name is owner/name. For anything else the hub's own error would be puzzling.
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path and not Path(name).is_dir():
        embedded = ", ".join(EMBEDDED_NAMES)
        raise UserError(
            f"no model {name!r}: give {embedded}, a folder that exists, "
            "or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct"
        )
    subfolder = subfolder_of(name)
    family = family_of(read_config(name))
    options.check(name, family)
    processor = family.load_processor(name, subfolder)
    model = load_strictly(
        AutoModelForImageTextToText,
        name,
        subfolder=subfolder,
        **options.keywords(family),
        **NO_CODE,
    )
    return model, processor


@contextmanager
def faults_of_model(name: str, *, loading: bool = False) -> Iterator[None]:
    """What other libraries raise about a model that is not our own, as one UserError.

    A damaged or hostile folder makes them raise nearly anything while it is loaded and while it is run.
    """
    try:
        yield
    except BaseException as error:
        # tokenizers, which is Rust, raises a "panic" that is no Exception; Ctrl-C and the like go on.
        passing = not isinstance(error, Exception) and type(error).__name__ != "PanicException"
        if passing or isinstance(error, UserError) or name in EMBEDDED_NAMES:
            raise
        reason = first_line(error)
        if not loading:
            fix = "if memory is short, lower --batch or --max-pixels, else get it again"
            raise UserError(f"the model {name!r} fails on images ({reason}): {fix}") from error
        if isinstance(error, OSError):
            raise UserError(f"the model {name!r} could not be read or fetched: {reason}") from error
        raise UserError(
            f"{name!r} is not a vision-language model that this can load: {reason}"
        ) from error


def _try_out(model: PreTrainedModel, processor: ProcessorMixin, name: str) -> None:
    """Ask about a small image, as far as the processor goes: its faults are those of every image.

    Raises UserError where no token of the prompt stands for the image, and what a broken chat template raises.
    """
    prompt = encode_prompt(processor, [Image.new("RGB", (112, 112))], "?")
    ids = prompt.tokens["input_ids"].tolist()
    if len(ids) > MOST_TOKENS:
        raise UserError(
            f"{name!r} makes {len(ids):,} tokens of a small image: get the model again, or give --max-pixels"
        )
    if not set(ids) & set(placeholder_ids(model.config)):
        raise UserError(
            f"{name!r} has a chat template or a token for images that is not its own: get the model again"
        )
    if not all(0 <= token < 2**31 for token in eos_token_ids(model, processor)):
        raise UserError(
            f"{name!r} names an end of answers (eos_token_id) that is no token: get the model again"
        )


def load_strictly(kind: Any, name: str | Path, **kwargs: Any) -> Any:
    """`from_pretrained` that refuses a file with a weight too few or too many.

    transformers gives missing weights random values and says so in a log line only.
    """
    # A pickle of weights may hold code; without this, one would be opened where there is no safetensors file.
    model, info = kind.from_pretrained(
        name, output_loading_info=True, use_safetensors=True, **kwargs
    )
    groups = ("missing_keys", "mismatched_keys", "unexpected_keys")
    wrong = [str(key) for group in groups for key in info[group]]
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{name}: its weights do not fit its configuration ({wrong[0]}{others}): get the folder again"
        )
    return model


def trained_as(folder: Path) -> dict[str, Any]:
    """What the file `TRAINED_WITH` says, or nothing. Raises UserError where it is not as training writes it."""
    path = folder / TRAINED_WITH
    # Models of the hub and models that were trained with other software have none.
    if not path.is_file():
        return {}
    found = read_object(path)
    allowed = {
        "prompt": (*get_args(PromptName), None),
        "reference": (False, True),
    }
    for key, values in allowed.items():
        if key in found and found[key] not in values:
            raise UserError(f"{path}: {key} is none that there is: get the model again")
    return found


def _base_of_adapter(
    folder: Path, options: WeightOptions
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The base model of the adapter in `folder`, with the processor that this was trained with."""
    base = check_adapter(folder)["base_model_name_or_path"]
    load_base = _embedded if base in EMBEDDED_NAMES else _pretrained
    model, processor = load_base(base, options)
    if (folder / "tokenizer_config.json").is_file():
        processor = family_of(model.config).load_processor(str(folder), "")
    # The embedded models change with the package. An adapter on other weights would load without a word.
    trained_on = trained_as(folder).get("base")
    other_weights = trained_on is not None and trained_on != weights_digest(model.state_dict())
    if other_weights or _is_extended(model.config) != _is_extended(processor.image_processor):
        raise UserError(f"{folder} was trained on an earlier version of {base}: train it again")
    return model, processor


def _is_extended(part: Any) -> bool:
    """Of nano's configuration or image processor; False for other families."""
    return getattr(part, "extended", False)


def weights_digest(state: dict[str, Tensor]) -> str:
    """A hash of names, shapes and values (in float32), the same on every device."""
    # numpy has no bfloat16, and float32 holds its values exactly.
    arrays = {name: t.detach().to("cpu", torch.float32).numpy() for name, t in state.items()}
    return arrays_digest(arrays)
