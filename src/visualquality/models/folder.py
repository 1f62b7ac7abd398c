"""A model's folder, which may be a stranger's: what is checked before anything in it is used.

Nothing of a folder is run. Its weights are read from safetensors files only, since a pickle (`pytorch_model.bin`) may
hold code; `NO_CODE` keeps transformers from running or fetching Python that comes with a model. What remains is that
a folder can make the process take memory and time: configurations that cannot belong to the weights are refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import UserError, first_line
from ..parsing import parse_json

# For every `from_pretrained`. Without it transformers asks on the terminal whether to run the code, and waits.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
# The JSON files that transformers and peft read.
_OBJECTS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *(ADAPTER, _INDEX),
)
# Fields of a configuration that are sides of a weight, and those that count modules with weights of their own.
_SIDES = frozenset(
    {"hidden_size", "out_hidden_size", "intermediate_size", "vocab_size", "embed_dim", "head_dim"}
    | {"num_attention_heads", "num_key_value_heads", "num_heads"}
)
_MODULES = frozenset({"num_hidden_layers", "num_layers", "depth"})


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model's folder. Raises UserError."""
    try:
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): get the model again"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}): get the model again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold one JSON object: get the model again")
    return found


def check_folder(folder: Path) -> None:
    """Refuse what cannot be a model that this package loads, before transformers reads it.

    Raises UserError for a JSON file that is none, for weights that are not safetensors or whose headers are damaged,
    and for numbers in the configuration that are larger than the weights allow or negative.
    """
    files = [folder / name for name in _OBJECTS if (folder / name).is_file()]
    settings = {path.name: read_object(path) for path in files}
    weights = weight_files(folder, settings.get(_INDEX))
    shapes = [shape for path in weights for shape in _shapes(path)]
    if "config.json" in settings and shapes:
        largest = max((side for shape in shapes for side in shape), default=1)
        _check_numbers(folder / "config.json", settings["config.json"], largest, len(shapes))


def adapter_base(folder: Path) -> str:
    """The model that the LoRA adapter in `folder` is for. Raises UserError where it names none."""
    path = folder / ADAPTER
    base = read_object(path).get("base_model_name_or_path")
    if not (base and isinstance(base, str)):
        raise UserError(f"{path} does not name the base model (base_model_name_or_path)")
    return base


def whole_model(name: str) -> str:
    """The name of the model with all weights: of a folder with an adapter its base, of all others `name` itself.

    Raises UserError where the adapter names none.
    """
    return adapter_base(Path(name)) if (Path(name) / ADAPTER).is_file() else name


def check_adapter(folder: Path) -> dict[str, Any]:
    """What `ADAPTER` of a folder with a LoRA adapter says. Raises UserError as `check_folder`, and for other kinds."""
    check_folder(folder)
    path = folder / ADAPTER
    settings = read_object(path)
    base = adapter_base(folder)
    if whole_model(base) != base:
        raise UserError(
            f"{path} names {base} as its base, which is an adapter too: merge that one (visualquality merge), and name "
            "the result in base_model_name_or_path"
        )
    # Other kinds of adapter import other modules, and nobody has tried them here.
    if settings.get("peft_type") != "LORA" or settings.get("megatron_config"):
        raise UserError(f"{path} is no plain LoRA (peft_type): merge it where it was trained")
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}: get the adapter again")
    # The rank is a side of its weights; a larger one would only take memory.
    largest = max((side for shape in _shapes(weights) for side in shape), default=0)
    patterns = settings.get("rank_pattern") or {}
    for rank in (settings.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())):
        if type(rank) is not int or not 0 < rank <= largest:
            raise UserError(f"{path}: the rank does not fit its weights: get the adapter again")
    return settings


def weight_files(folder: Path, index: dict[str, Any] | None) -> list[Path]:
    """The safetensors files of a model's folder; none where it has only an adapter, or nothing.

    Raises UserError for weights that are pickles alone, and for an index that names files elsewhere.
    """
    if index is not None:
        parts = index.get("weight_map")
        names = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(
                    f"{folder}: its index names {name!r}, no safetensors file in the folder: get the model again"
                )
        return [folder / name for name in names if (folder / name).is_file()]
    # Of an adapter's folder, peft reads no other.
    wanted = ADAPTER_WEIGHTS if (folder / ADAPTER).is_file() else "model.safetensors"
    if (folder / wanted).is_file():
        return [folder / wanted]
    pickles = sorted(
        p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")
    )
    if pickles:
        raise UserError(
            f"{folder} has its weights as {pickles[0]}, a pickle, which may hold code and is not opened: "
            "get them as safetensors, or convert them where you trust them"
        )
    return []


def _shapes(path: Path) -> Iterator[list[int]]:
    """The shapes of the tensors in a safetensors file, from its header alone."""
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                yield file.get_slice(name).get_shape()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): get the model again") from error


def _check_numbers(path: Path, settings: dict[str, Any], side: int, modules: int) -> None:
    """Raises UserError for a number of a configuration that no model with such weights can have."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_numbers(path, value, side, modules)
        # In Python, true and false are numbers.
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        bound = None
        if key in _SIDES:
            bound = side
        elif key in _MODULES:
            bound = modules
        if bound is not None and not 0 <= value <= bound:
            raise UserError(
                f"{path}: {key} is {json.dumps(value)[:40]}, which does not fit the weights: get the model again"
            )
