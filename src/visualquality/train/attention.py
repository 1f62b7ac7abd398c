"""Attention over rows [prompt, o_1 ... o_K], in which each response sees the prompt and itself.

Three ways to the same numbers; `packed.py` says which one a model gets:

- joined, on a CPU: the queries of all responses attend to the one prompt, and those of each response to its own tokens;
  the two are joined by their log-sum-exp, as in FlashAttention (arXiv:2205.14135) and Hydragen (arXiv:2402.05099).
- copied, elsewhere: the keys and values of the prompt are put before those of each response, K times in each layer.
- flex, where a recipe asks for it, on CUDA: PyTorch's `flex_attention` with a mask of blocks over the whole row.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

# Our names among the attention implementations of transformers, so that "sdpa" stays what it is for all other models.
PACKED = "visualquality_packed"
PACKED_FLEX = "visualquality_packed_flex"


def row_mask(
    prompt_mask: Int[Tensor, "b p"], length: int, dtype: torch.dtype
) -> Float[Tensor, "b 1 s s"]:
    """The mask of the prompt with one response, s = P + C: 0 where a token may look, -inf elsewhere.

    It is added to the scores: PyTorch would turn booleans into this in each layer anew, and keep it for the backward
    pass. Padding is seen by itself alone (a row that sees nothing has no softmax).
    """
    batch, prompt = prompt_mask.shape
    side, device = prompt + length, prompt_mask.device
    real = torch.cat([prompt_mask.bool(), prompt_mask.new_ones(batch, length).bool()], 1)
    causal = torch.ones(side, side, dtype=torch.bool, device=device).tril()
    itself = torch.eye(side, dtype=torch.bool, device=device)
    # The one axis before the tokens is for all heads.
    allowed = (real[:, None, None] & causal) | itself
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return zeros.masked_fill_(~allowed, -torch.inf)


def row_blocks(prompt_mask: Int[Tensor, "b p"], responses: int, length: int) -> BlockMask:
    """The same of the whole row for `flex_attention`, l = P + K C: blocks of it that are empty are never computed."""
    batch, prompt = prompt_mask.shape
    device = prompt_mask.device
    # 0 for the prompt, k for response k.
    part = torch.arange(1, responses + 1, device=device).repeat_interleave(length)
    part = torch.cat([part.new_zeros(prompt), part])
    real = torch.cat([prompt_mask, prompt_mask.new_ones(batch, responses * length)], 1).bool()

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (part[key] == 0) | (part[key] == part[query])
        return (visible & real[b, key] & (query >= key)) | (query == key)

    side = prompt + responses * length
    return create_block_mask(allowed, batch, None, side, side, device=device)


def shared_prefix_attention(
    module: nn.Module,
    query: Float[Tensor, "b h l d"],
    key: Float[Tensor, "b g l d"],
    value: Float[Tensor, "b g l d"],
    attention_mask: Float[Tensor, "b 1 s s"] | None,
    packed_responses: int = 1,
    packed_blocks: BlockMask | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Float[Tensor, "b l h d"], None]:
    """Attention over packed rows; with `packed_responses` 1 it is the "sdpa" of transformers.

    `attention_mask`, added to the scores, is that of the prompt with one response: s = P + C where l = P + K C.
    `packed_blocks` takes its place for `flex_attention`.
    """
    # The vision tower gets the keywords too, but no mask.
    if packed_responses == 1 or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if packed_blocks is not None:
        attend = _flex(query.device.type)
        # One type for all, which autocast would see to elsewhere.
        query, key = query.to(value.dtype), key.to(value.dtype)
        found = attend(query, key, value, block_mask=packed_blocks, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None
    # A key for each query head, as transformers has it, too, where there is a mask.
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    if query.device.type == "cpu" and not dropout:
        # Of the type that the mask is in, as autocast has it.
        query, key, value = (x.to(attention_mask.dtype) for x in (query, key, value))
        found = _Joined.apply(query, key, value, attention_mask, packed_responses, scaling)
    else:
        found = copied_attention(
            query, key, value, attention_mask, packed_responses, scaling, dropout
        )
    return found.transpose(1, 2).contiguous(), None


@cache
def _flex(device: str) -> Any:
    """Compiled on CUDA, since it is slow and makes all scores otherwise; the first call takes a minute."""
    return torch.compile(flex_attention) if device == "cuda" else flex_attention


def copied_attention(
    query: Float[Tensor, "b h l d"],
    key: Float[Tensor, "b h l d"],
    value: Float[Tensor, "b h l d"],
    mask: Float[Tensor, "b 1 s s"],
    responses: int,
    scaling: float | None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h l d"]:
    """The prompt attends to itself; then the K responses, as though they were heads, each to the prompt and itself."""
    prompt, length = lengths(query, mask, responses)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, mask, dropout, scale=scaling)

    def each(x: Tensor) -> Float[Tensor, "b h k c d"]:
        return x[:, :, prompt:].unflatten(2, (responses, length))

    def prompt_and_response(x: Tensor) -> Float[Tensor, "b hk s d"]:
        shared = x[:, :, None, :prompt].expand(-1, -1, responses, -1, -1)
        return torch.cat([shared, each(x)], 3).flatten(1, 2)

    of_prompt = attend(
        query[:, :, :prompt],
        key[:, :, :prompt],
        value[:, :, :prompt],
        mask[:, :, :prompt, :prompt],
    )
    of_responses = attend(
        each(query).flatten(1, 2),
        prompt_and_response(key),
        prompt_and_response(value),
        # All responses have the same mask, because none sees another.
        mask[:, :, prompt:],
    )
    of_responses = of_responses.unflatten(1, (-1, responses)).flatten(2, 3)
    return torch.cat([of_prompt, of_responses], 2)


def lengths(query: Tensor, mask: Tensor, responses: int) -> tuple[int, int]:
    """P and C, from l = P + K C and s = P + C."""
    length = (query.shape[2] - mask.shape[-1]) // (responses - 1)
    return mask.shape[-1] - length, length


class _Joined(torch.autograd.Function):
    """query, key, value (B, h, l, d), mask (B, 1, s, s), responses, scaling -> (B, h, l, d), on a CPU.

    By the operators behind PyTorch's `scaled_dot_product_attention`, because that one does not give the log-sum-exp. Of
    two parts with log-sum-exp a and b the softmax over both is exp(a - c) and exp(b - c) of the parts', with
    c = log(exp a + exp b). A part's backward operator, given the output and c of both, gives its share of the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        responses: int,
        scaling: float | None,
    ) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        parts = _Parts(*lengths(query, mask, responses), responses)
        qkv = (query, key, value)
        prompt, seen = parts.masks(mask)
        of_prompt, prompt_sum = attend(
            *(parts.prompt(x) for x in qkv), 0.0, False, attn_mask=prompt, scale=scaling
        )
        shared, shared_sum = attend(
            parts.responses(query),
            parts.prompt(key),
            parts.prompt(value),
            0.0,
            False,
            attn_mask=seen,
            scale=scaling,
        )
        own, own_sum = attend(*(parts.apart(x) for x in qkv), 0.0, True, scale=scaling)
        own, own_sum = parts.together(own), parts.together(own_sum)
        total = torch.logaddexp(shared_sum, own_sum)
        of_responses = shared * (shared_sum - total).exp()[..., None].to(shared.dtype)
        of_responses += own * (own_sum - total).exp()[..., None].to(own.dtype)
        output = torch.cat([of_prompt, of_responses], 2)
        ctx.save_for_backward(query, key, value, mask, output, prompt_sum, total)
        ctx.parts, ctx.scaling = parts, scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, mask, output, prompt_sum, total = ctx.saved_tensors
        parts, scaling = ctx.parts, ctx.scaling
        prompt, seen = parts.masks(mask)
        # Gradient, query, key, value and output of each part, in the order of the operator.
        every = (grad, query, key, value, output)
        of_prompt = slopes(
            *(parts.prompt(x) for x in every),
            prompt_sum,
            0.0,
            False,
            attn_mask=prompt,
            scale=scaling,
        )
        shared = slopes(
            parts.responses(grad),
            parts.responses(query),
            parts.prompt(key),
            parts.prompt(value),
            parts.responses(output),
            total,
            0.0,
            False,
            attn_mask=seen,
            scale=scaling,
        )
        own = slopes(
            *(parts.apart(x) for x in every), parts.sums_apart(total), 0.0, True, scale=scaling
        )
        own = [parts.together(x) for x in own]
        found = [torch.cat([of_prompt[0], shared[0] + own[0]], 2)]
        for i in (1, 2):  # the prompt's keys and values are seen by itself and by all responses
            found.append(torch.cat([of_prompt[i] + shared[i], own[i]], 2))
        return *found, None, None, None


class _Parts:
    """Views of (B, h, l, d) tensors by prompt and responses."""

    def __init__(self, prompt: int, length: int, count: int):
        self.length, self.count, self.end = length, count, prompt

    def prompt(self, x: Tensor) -> Float[Tensor, "b h p d"]:
        return x[:, :, : self.end]

    def responses(self, x: Tensor) -> Float[Tensor, "b h kc d"]:
        return x[:, :, self.end :]

    def apart(self, x: Tensor) -> Float[Tensor, "b hk c d"]:
        """Each response as though it were a head."""
        return self.sums_apart(self.responses(x))

    def sums_apart(self, x: Float[Tensor, "b h kc *d"]) -> Float[Tensor, "b hk c *d"]:
        return x.unflatten(2, (self.count, self.length)).flatten(1, 2)

    def together(self, x: Float[Tensor, "b hk c *d"]) -> Float[Tensor, "b h kc *d"]:
        return x.unflatten(1, (-1, self.count)).flatten(2, 3)

    def masks(self, mask: Float[Tensor, "b 1 s s"]) -> tuple[Tensor, Tensor]:
        """Of the prompt on itself, and of all tokens of responses on the prompt, which all see the same of it."""
        end = self.end
        seen = mask[:, :, end : end + 1, :end].expand(-1, -1, self.count * self.length, -1)
        return mask[:, :, :end, :end], seen


for _name in (PACKED, PACKED_FLEX):
    AttentionInterface.register(_name, shared_prefix_attention)
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
