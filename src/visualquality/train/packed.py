"""Log-probabilities of K responses to one image in one row: [prompt, o_1 ... o_K].

The prompt, pixels and all, is encoded once for all K. Each response sees the prompt and itself only, and its
positions go on from the prompt's end, so the numbers are those of K separate rows.

A model that cannot be packed goes through the plain layout, a row for each response, and a log line says so once.

The mask (see `attention.py`) is that of one response's row, (P + C)². One forward takes so few images that theirs
stays under `MASK_BYTES`; an image whose own does not goes through the plain layout, alone and so without a mask. As the
number of forwards then may differ from process to process, which DeepSpeed's ZeRO-3 cannot bear, bound the pixels there
(`max_pixels`): at float32, 8192 tokens of prompt and response fit.
"""

import logging
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..models.encode import Encoded, completion_positions, prompt_positions
from ..models.nano import NanoConfig
from ..models.qwen import QWEN_VL
from . import attention  # noqa: F401  # what "sdpa" is from here on: it knows `packed_responses`

MASK_BYTES = 256 * 2**20
PACKABLE = (
    NanoConfig.model_type,
    *QWEN_VL,
)  # those whose positions and masks are known, and tested

logger = logging.getLogger(__name__)


def packed_log_probabilities(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: Encoded,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float = 1.0,
    *,
    mask_bytes: int = MASK_BYTES,
) -> Float[Tensor, "b k c"]:
    """log pi(o_{k,t} | c, x, o_{k,<t}) of every completion token, padding included.

    `model` is called (it may be wrapped for several devices); `core` is the bare model, asked for positions.
    """
    obstacle = why_not(core)
    if obstacle is not None:
        _say_once(type(core).__name__, obstacle)
        return repeated_log_probabilities(model, prompts, completion_ids, temperature)
    batch, _, length = completion_ids.shape
    dtype = _attention_dtype(core, completion_ids.device.type)
    entries = mask_bytes // dtype.itemsize
    images = entries // (prompts["input_ids"].shape[1] + length) ** 2
    if images >= batch:
        return _pack(model, core, prompts, completion_ids, temperature, dtype)
    parts = []
    for first in range(0, batch, max(images, 1)):
        rows = slice(first, first + max(images, 1))
        part = _take(core, prompts, rows)
        if (part["input_ids"].shape[1] + length) ** 2 <= entries:
            parts.append(_pack(model, core, part, completion_ids[rows], temperature, dtype))
        else:
            parts.append(repeated_log_probabilities(model, part, completion_ids[rows], temperature))
    return torch.cat(parts)


def why_not(core: PreTrainedModel) -> str | None:
    """Why the responses to an image cannot share a row in this model; None where they can."""
    text = core.config.get_text_config()
    if core.config.model_type not in PACKABLE:
        return f"the positions and masks of {core.config.model_type} are not known here"
    if text._attn_implementation != "sdpa":
        return f"its attention is {text._attn_implementation} and not sdpa"
    if {*(getattr(text, "layer_types", None) or ())} - {"full_attention"}:
        return "not all of its layers see the whole sequence"
    return None


def row_mask(
    prompt_mask: Int[Tensor, "b p"], length: int, dtype: torch.dtype
) -> Float[Tensor, "b 1 s s"]:
    """The mask of the prompt with one response, s = P + C: 0 where a token may look, -inf elsewhere.

    It is added to the scores: PyTorch would turn booleans into this in each layer anew, and keep it for the backward
    pass. Padding is seen by itself alone (a row that sees nothing has no softmax).
    """
    batch, prompt = prompt_mask.shape
    side = prompt + length
    seen = torch.cat([prompt_mask.bool(), prompt_mask.new_ones(batch, length).bool()], 1)[
        :, None, None
    ]
    whole = torch.ones(side, side, dtype=torch.bool, device=prompt_mask.device)
    allowed = (seen & whole.tril()) | torch.eye(side, dtype=torch.bool, device=prompt_mask.device)
    return torch.zeros(allowed.shape, dtype=dtype, device=prompt_mask.device).masked_fill_(
        ~allowed, -torch.inf
    )


def _pack(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: Encoded,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float,
    dtype: torch.dtype,
) -> Float[Tensor, "b k c"]:
    """One forward of rows [prompt, o_1 ... o_K]."""
    batch, responses, length = completion_ids.shape
    prompt = prompts["input_ids"].shape[1]
    positions, start = prompt_positions(core, prompts)
    one = completion_positions(positions, start, length)
    inputs = _append(prompts, completion_ids.flatten(1))
    inputs["attention_mask"] = row_mask(prompts["attention_mask"], length, dtype)
    # The prompt's last token predicts the first of every response; a response's last token predicts nothing.
    starts = prompt + length * torch.arange(responses, device=completion_ids.device)
    predicts = (starts[:, None] + torch.arange(length - 1, device=completion_ids.device)).flatten()
    last = torch.tensor([prompt - 1], device=completion_ids.device)
    logits = model(
        **inputs,
        position_ids=torch.cat([positions, *[one] * responses], -1),
        use_cache=False,
        logits_to_keep=torch.cat([last, predicts]),
        packed_responses=responses,
    ).logits.float()
    logits = logits / temperature
    normaliser = logits.logsumexp(-1)
    first = logits[:, 0].gather(1, completion_ids[:, :, 0]) - normaliser[:, :1]
    rest = (
        logits[:, 1:].gather(2, completion_ids[:, :, 1:].flatten(1)[..., None])[..., 0]
        - normaliser[:, 1:]
    )
    return torch.cat([first[..., None], rest.view(batch, responses, length - 1)], 2)


def repeated_log_probabilities(
    model: PreTrainedModel,
    prompts: Encoded,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float = 1.0,
) -> Float[Tensor, "b k c"]:
    """The same from the plain layout: each response in a row of its own, behind its own copy of prompt and pixels.

    Positions and masks are the model's own.
    """
    batch, responses, length = completion_ids.shape
    # The whole batch K times over, which needs no knowledge of which patches belong to which image.
    ids = completion_ids.transpose(0, 1).flatten(0, 1)
    inputs = _append({key: torch.cat([value] * responses) for key, value in prompts.items()}, ids)
    mask = prompts["attention_mask"].repeat(responses, 1)
    inputs["attention_mask"] = torch.cat([mask, mask.new_ones(ids.shape)], 1)
    logits = (
        model(**inputs, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].float()
        / temperature
    )
    log_p = logits.gather(2, ids[..., None])[..., 0] - logits.logsumexp(-1)
    return log_p.view(responses, batch, length).transpose(0, 1)


def _append(prompts: Encoded, ids: Int[Tensor, "n t"]) -> dict[str, Any]:
    """The prompts with tokens after them, all of them text; the mask is left to the caller."""
    inputs = dict(prompts)
    inputs["input_ids"] = torch.cat([prompts["input_ids"], ids], 1)
    if "mm_token_type_ids" in prompts:
        inputs["mm_token_type_ids"] = torch.cat(
            [prompts["mm_token_type_ids"], torch.zeros_like(ids)], 1
        )
    return inputs


def _take(core: PreTrainedModel, prompts: Encoded, rows: slice) -> Encoded:
    """Some rows of a batch of prompts with their images, without the padding that all of them have."""
    grid = prompts["image_grid_thw"]
    each = len(grid) // len(
        prompts["input_ids"]
    )  # images a row: the prompts of a batch are of one form
    images = slice(each * rows.start, each * rows.stop)
    bare: Any = core.get_base_model() if hasattr(core, "get_base_model") else core  # type: ignore[operator]
    padding = int(prompts["attention_mask"][rows].any(0).int().argmax())
    taken: Encoded = {}
    for key, value in prompts.items():
        if key == "pixel_values":
            value = torch.cat(value.split(grid.prod(1).tolist())[images])
        elif key == "vision_features":
            value = torch.cat(value.split(bare.model.feature_sizes(grid))[images])
        elif key == "image_grid_thw":
            value = value[images]
        else:
            value = value[rows, padding:]
        taken[key] = value
    return taken


def _attention_dtype(core: PreTrainedModel, device: str) -> torch.dtype:
    """What attention computes in, and so what its mask must be in."""
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    embedding: Any = core.get_input_embeddings()
    return embedding.weight.dtype


@cache
def _say_once(name: str, obstacle: str) -> None:
    logger.warning(
        "%s: the responses to an image cannot share a row, because %s. Each has its own row: the same numbers, at the "
        "price of encoding the image for every response.",
        name,
        obstacle,
    )
