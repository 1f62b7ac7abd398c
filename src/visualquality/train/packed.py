"""Log-probabilities of K responses to one image in one row: [prompt, o_1 ... o_K].

The prompt, pixels and all, is encoded once for all K. Each response sees the prompt and itself only, and its positions
go on from the prompt's end, so the numbers are those of K separate rows. As in Prefix Grouper (arXiv:2506.05433),
attention computes P² + K C (P + C) scores for a prompt of P tokens and K responses of C, not (P + K C)².

A model that cannot be packed goes through the plain layout, a row for each response, and a log line says so once.

The attention mask covers the prompt with one response, (P + C)². A forward takes no more images than have their masks
in `MASK_BYTES`. An image whose own mask is larger goes through the plain layout, alone and so without a mask. The
number of forwards may then differ from process to process, and DeepSpeed's ZeRO-3 would wait forever: bound the pixels
there (`max_pixels`). In float32, 8192 tokens of prompt and response fit.
"""

import logging
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel

from ..models.families import bare_model, family_of
from ..models.prompt import PromptBatch, prompt_positions
from .attention import PACKED, PACKED_FLEX, row_blocks, row_mask
from .chosen import head_gives_log_probabilities, log_probabilities_of

MASK_BYTES = 256 * 2**20

logger = logging.getLogger(__name__)


def allow_packing(model: PreTrainedModel, attention: Literal["auto", "flex"] = "auto") -> None:
    """Give a model's text layers the attention that knows `packed_responses`; else they stay as they are.

    Without that keyword it is exactly sdpa, so that the model does what it did before. `attention`: of packed rows
    (`attention.py`); "auto" is the joined one on a CPU, the copied one elsewhere.
    """
    text = model.config.get_text_config()
    if family_of(model.config).packable and text._attn_implementation == "sdpa":
        text._attn_implementation = PACKED_FLEX if attention == "flex" else PACKED


def packed_log_probabilities(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: PromptBatch,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float = 1.0,
    *,
    mask_bytes: int = MASK_BYTES,
) -> Float[Tensor, "b k c"]:
    """log π(o_{k,t} | c, x, o_{k,<t}) in nats of every completion token, padding included.

    `model` is called (it may be wrapped for several devices); `core` is the bare model in it, with its positions and
    its head.
    """
    obstacle = why_not_packed(core)
    if obstacle is not None:
        _warn_once(type(core).__name__, obstacle)
        return repeated_log_probabilities(model, core, prompts, completion_ids, temperature)
    batch, responses, length = completion_ids.shape
    if core.config.get_text_config()._attn_implementation == PACKED_FLEX:
        blocks = row_blocks(prompts.mask, responses, length)
        # Where there is a mask of blocks, the other one is not looked at; without any, the model would make one.
        unused = torch.zeros(1, 1, 1, 1, device=completion_ids.device)
        return _pack(model, core, prompts, completion_ids, temperature, unused, blocks)
    dtype = _attention_dtype(core, completion_ids.device.type)
    entries = mask_bytes // dtype.itemsize
    # As many images at a time as their masks fit, but at least one.
    images = max(1, entries // (prompts.length + length) ** 2)
    parts = []
    for first in range(0, batch, images):
        rows = slice(first, first + images)
        # Taken out of the batch, a prompt loses the padding of longer ones, so that even a single one may fit now.
        part = prompts if images >= batch else prompts.rows(rows, core)
        ids = completion_ids[rows]
        if (part.length + length) ** 2 > entries:
            parts.append(repeated_log_probabilities(model, core, part, ids, temperature))
        else:
            mask = row_mask(part.mask, length, dtype)
            parts.append(_pack(model, core, part, ids, temperature, mask))
    return torch.cat(parts)


def why_not_packed(core: PreTrainedModel) -> str | None:
    """Why the responses to an image cannot share a row in this model; None where they can."""
    text = core.config.get_text_config()
    if not family_of(core.config).packable:
        return f"the positions and masks of {core.config.model_type} are not known here"
    if text._attn_implementation not in (PACKED, PACKED_FLEX):
        return f"its attention is {text._attn_implementation} and not {PACKED} (allow_packing)"
    # `row_mask` knows no sliding windows.
    if set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
        return "not all of its layers see the whole sequence"
    return None


def _pack(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: PromptBatch,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float,
    mask: Float[Tensor, "b 1 s s"],
    blocks: BlockMask | None = None,
) -> Float[Tensor, "b k c"]:
    """One forward of rows [prompt, o_1 ... o_K]."""
    _, responses, length = completion_ids.shape
    device = completion_ids.device
    positions = prompt_positions(core, prompts)
    # Each response is counted from the prompt's end, as if it stood there alone.
    each = positions.after(torch.arange(length, device=device))
    # The prompt's last token predicts the first of every response; a response's last token predicts nothing.
    starts = prompts.length + length * torch.arange(responses, device=device)
    inner = starts[:, None] + torch.arange(length - 1, device=device)
    last = torch.full((responses, 1), prompts.length - 1, device=device)
    predicts = torch.cat([last, inner], 1).flatten()
    with head_gives_log_probabilities(
        bare_model(core).get_output_embeddings(), completion_ids.flatten(1), temperature
    ):
        log_p = model(
            **prompts.followed_by(completion_ids.flatten(1)),
            attention_mask=mask,
            position_ids=torch.cat([positions.prompt, *[each] * responses], -1),
            use_cache=False,
            # The prompt's other tokens predict nothing that is asked for.
            logits_to_keep=predicts,
            packed_responses=responses,
            **({} if blocks is None else {"packed_blocks": blocks}),
        ).logits
    return log_p.view(completion_ids.shape)


def repeated_log_probabilities(
    model: PreTrainedModel,
    core: PreTrainedModel,
    prompts: PromptBatch,
    completion_ids: Int[Tensor, "b k c"],
    temperature: float = 1.0,
) -> Float[Tensor, "b k c"]:
    """The same from the plain layout: each response in a row of its own, behind its own copy of prompt and pixels.

    Positions and masks are the model's own. Of a family that is not known here the logits are made all at once: what a
    model does to them behind its head, such as a soft cap, is its own affair.
    """
    batch, responses, length = completion_ids.shape
    # The whole batch over and over, so that nobody needs to know which patches belong to which image.
    repeated = prompts.repeated(responses)
    ids = completion_ids.transpose(0, 1).flatten(0, 1)  # in the order of the repeated batch
    inputs = repeated.followed_by(ids)
    inputs["attention_mask"] = torch.cat([repeated.mask, repeated.mask.new_ones(ids.shape)], 1)
    if family_of(core.config).packable:
        predicts = torch.arange(length, device=ids.device) + prompts.length - 1
        with head_gives_log_probabilities(
            bare_model(core).get_output_embeddings(), ids, temperature
        ):
            log_p = model(**inputs, use_cache=False, logits_to_keep=predicts).logits
    else:
        logits = model(**inputs, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]
        log_p = log_probabilities_of(logits.flatten(0, 1), ids.flatten(), temperature)
    return log_p.view(responses, batch, length).transpose(0, 1)


def _attention_dtype(core: PreTrainedModel, device: str) -> torch.dtype:
    """What attention computes in, and so what its mask must be in: of another type, each layer would copy it."""
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    embedding: Any = core.get_input_embeddings()
    return embedding.weight.dtype


@cache
def _warn_once(name: str, obstacle: str) -> None:
    logger.warning(
        "%s: the responses to an image cannot share a row, because %s. Each has its own row: the same numbers, at the "
        "price of encoding the image for every response.",
        name,
        obstacle,
    )
