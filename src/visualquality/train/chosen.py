"""Log-probabilities of chosen tokens, without the logits of all tokens at once.

A 7B model has 152,064 logits a token: for the 12,288 tokens of 8 images with 6 responses, one float32 tensor of them
takes 7 GiB, and a log-softmax with its gradient takes several. Here the logits are made for `CHUNK` tokens at a time,
only their log-sum-exp is kept, and the backward pass makes them again, as in Cut Cross-Entropy (arXiv:2411.09009).
The extra memory is that of `CHUNK` tokens, whatever the number of tokens; the price is one more product with the head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Tokens whose logits exist at once. With a copy of them in the model's number format they take at most 1.5 times
# CHUNK x vocabulary x 4 bytes.
CHUNK = 512


@contextmanager
def head_gives_log_probabilities(
    head: nn.Module, tokens: Int[Tensor, "b n"], temperature: float
) -> Iterator[None]:
    """In this block `head`, called with hidden states (B, N, H), gives log π of `tokens` in nats, (B, N), in float32.

    The whole model can so be called as always, wrapped for several devices or not, and its "logits" are these numbers.
    Only for a model that does nothing else to its logits.
    """
    # Not the module itself: its hooks, by which DeepSpeed gathers sharded weights, go on as before.
    before = vars(head).get("forward")
    forward = head.forward

    def log_probabilities(hidden: Float[Tensor, "b n h"]) -> Float[Tensor, "b n"]:
        flat, chosen = hidden.flatten(0, 1), tokens.flatten()
        # A head with an adapter, or with weights of another kind, has a product of its own.
        if type(head) is nn.Linear:
            found = _LogProbabilities.apply(flat, head.weight, head.bias, chosen, temperature)
        else:
            found = _recomputed(forward, flat, chosen, temperature)
        return found.view(tokens.shape)

    head.forward = log_probabilities
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def log_probabilities_of(
    logits: Float[Tensor, "n v"], tokens: Int[Tensor, " n"], temperature: float
) -> Float[Tensor, " n"]:
    """log π of each row's token from whole logits, in float32 whatever the model computes in.

    The sum over the vocabulary has many small terms.
    """
    logits = logits.float() / temperature
    # Not log_softmax, which would make another tensor of that size.
    return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)


def _recomputed(
    forward: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor, temperature: float
) -> Tensor:
    """By autograd, which keeps about four tensors of a chunk: hence chunks of a quarter."""

    def part(hidden: Tensor, tokens: Tensor) -> Tensor:
        return log_probabilities_of(forward(hidden), tokens, temperature)

    chunks = zip(hidden.split(CHUNK // 4), tokens.split(CHUNK // 4), strict=True)
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


def _scaled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Tensor:
    """In float32. The tensor is new, so that it may be changed in place."""
    return nn.functional.linear(hidden, weight, bias).float().div_(temperature)


class _LogProbabilities(torch.autograd.Function):
    """hidden (N, H), weight (V, H), bias (V) or None, tokens (N), temperature -> log π of the tokens, (N)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
    ) -> Tensor:
        device = hidden.device.type
        dtype = weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        used = weight.to(dtype)
        used_bias = None if bias is None else bias.to(dtype)
        log_p, normaliser = [], []
        for part, chosen in zip(hidden.split(CHUNK), tokens.split(CHUNK), strict=True):
            logits = _scaled_logits(part.to(dtype), used, used_bias, temperature)
            of_chosen = logits.gather(1, chosen[:, None])[:, 0]
            # torch.logsumexp would make a second tensor of this size.
            highest = logits.amax(1)
            total = logits.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)
            log_p.append(of_chosen - total)
            normaliser.append(total)
            del logits  # else it would be there beside the next one
        ctx.save_for_backward(hidden, weight, bias, tokens, torch.cat(normaliser))
        ctx.dtype, ctx.temperature = dtype, temperature
        return torch.cat(log_p)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The slope of log π along the logits is (1 at the token) - softmax, over the temperature.

        In blocks of the vocabulary instead of the tokens, as large as a chunk: the gradient of the head's weights is
        then one product for each row, and no second tensor of their size is needed to add up chunks.
        """
        hidden, weight, bias, tokens, normaliser = ctx.saved_tensors
        inputs = hidden.to(ctx.dtype)
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias) if bias is not None else None
        width = max(1, CHUNK * len(weight) // len(hidden))
        for start in range(0, len(weight), width):
            rows = slice(start, start + width)
            used = weight[rows].to(ctx.dtype)
            used_bias = None if bias is None else bias[rows].to(ctx.dtype)
            slopes = _scaled_logits(inputs, used, used_bias, ctx.temperature)
            slopes.sub_(normaliser[:, None]).exp_().mul_(-grad[:, None])
            # Tokens of other blocks add 0 somewhere: to pick out those of this one, a GPU would have to be waited for.
            column = tokens - start
            inside = (column >= 0) & (column < len(used))
            column = column.clamp(0, len(used) - 1)
            slopes.scatter_add_(1, column[:, None], (grad * inside)[:, None])
            slopes = slopes.div_(ctx.temperature).to(ctx.dtype)
            grad_hidden += slopes @ used
            if grad_weight is not None:
                grad_weight[rows] = slopes.T @ inputs
            if grad_bias is not None:
                grad_bias[rows] = slopes.sum(0)
            del slopes
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None
