"""Attention over rows [prompt, o_1 ... o_K], where a response sees the prompt and itself.

A mask over the whole row would have (P + K C)² entries, most of which say that responses do not see each other, and a
dense kernel computes a score for each of them. Here the prompt attends to itself, and then the K responses, as though
they were heads, each to the prompt and itself: P² + K C (P + C) scores (as in Prefix Grouper, arXiv:2506.05433), under
the (P + C)² mask of a single response's row. Nothing is left for a block-sparse kernel to skip.

Importing this module makes it what Hugging Face models call "sdpa". Without `packed_responses`, a keyword that goes
through a model's forward down to here, it is the "sdpa" of transformers.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward


def shared_prefix_attention(
    module: nn.Module,
    query: Float[Tensor, "b h l d"],
    key: Float[Tensor, "b g l d"],
    value: Float[Tensor, "b g l d"],
    attention_mask: Float[Tensor, "b 1 s s"] | None,
    packed_responses: int = 1,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Float[Tensor, "b l h d"], None]:
    """`attention_mask`, added to the scores, is that of the prompt with one response: s = P + C where l = P + K C."""
    if (
        packed_responses == 1 or attention_mask is None
    ):  # no mask: the vision tower, which gets the keyword too
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    length = (query.shape[2] - attention_mask.shape[-1]) // (packed_responses - 1)
    prompt = attention_mask.shape[-1] - length
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))

    def responses(x: Float[Tensor, "b h l d"]) -> Float[Tensor, "b h k c d"]:
        return x[:, :, prompt:].unflatten(2, (packed_responses, length))

    def prompt_and_response(x: Float[Tensor, "b h l d"]) -> Float[Tensor, "b hk s d"]:
        shared = x[:, :, None, :prompt].expand(-1, -1, packed_responses, -1, -1)
        return torch.cat([shared, responses(x)], 3).flatten(1, 2)

    of_prompt = scaled_dot_product_attention(
        query[:, :, :prompt],
        key[:, :, :prompt],
        value[:, :, :prompt],
        attn_mask=attention_mask[:, :, :prompt, :prompt],
        dropout_p=dropout,
        scale=scaling,
    )
    of_responses = scaled_dot_product_attention(
        responses(query).flatten(1, 2),
        prompt_and_response(key),
        prompt_and_response(value),
        attn_mask=attention_mask[:, :, prompt:],
        dropout_p=dropout,
        scale=scaling,
    )
    of_responses = of_responses.unflatten(1, (-1, packed_responses)).flatten(2, 3)
    return torch.cat([of_prompt, of_responses], 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("sdpa", shared_prefix_attention)
