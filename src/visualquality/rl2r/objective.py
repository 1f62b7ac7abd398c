"""How rewards move the policy: advantage within the group (Eq. 4), clipped objective (Eq. 5), KL (Eq. 6).

`N` is the number of responses (B·K) and `T` the number of tokens that the longest one has.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class PolicyLoss(NamedTuple):
    """What `policy_objective` returns: the loss to minimise, and two detached figures to watch."""

    loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]  # nats, mean over all tokens; 0 without a reference
    clip_fraction: Float[
        Tensor, ""
    ]  # share of all tokens whose gradient the clip cuts off, in [0, 1]


def advantage(rewards: Float[Tensor, "B K"], eps: float = 1e-4) -> Float[Tensor, "B K"]:
    """Eq. 4: rewards standardised among the K responses of each image.

    The deviation is the unbiased one plus `eps`, as in TRL's GRPO (the paper's Eq. 4 has no eps and divides
    by zero when all rewards are equal). Equal rewards, a single response among them, give exactly 0.

    >>> advantage(torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.3, 0.3]]))
    tensor([[-0.9998,  0.0000,  0.9998],
            [ 0.0000,  0.0000,  0.0000]])
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = (centred.square().sum(dim=1, keepdim=True) / max(rewards.shape[1] - 1, 1)).sqrt()
    # The mean of equal floats may be off by a rounding, which eps alone would blow up to about 1e-3.
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(centred), centred / (deviation + eps))


def kl_k3(
    logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Eq. 6 for each token: r − log r − 1 with r = π_ref / π_θ, in nats, never negative but for rounding.

    An unbiased estimate of KL(π_θ ‖ π_ref) for tokens drawn from π_θ (the estimator known as k3).

    >>> kl_k3(torch.tensor([0.5, 0.25]).log(), torch.tensor([0.5, 0.5]).log())
    tensor([0.0000, 0.3069])
    """
    log_ratio = ref_logp - logp
    return torch.expm1(log_ratio) - log_ratio


def policy_objective(
    logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    ref_logp: Float[Tensor, "N T"] | None,
    advantage: Float[Tensor, "N"],
    mask: Shaped[Tensor, "N T"],
    *,
    epsilon: float = 0.2,
    beta: float = 0.04,
) -> PolicyLoss:
    """Minus the objective of Eq. 5, with the ratio and the KL term taken token by token as GRPO does.

    Tokens are averaged within a response, then responses are averaged; one without any token contributes 0 to
    that mean. Gradients flow into `logp` alone.

    Args:
        logp: log π_θ(token) in nats under the policy being updated.
        old_logp: the same under the policy that wrote the responses.
        ref_logp: the same under the frozen reference, or None to leave the KL term out.
        advantage: a_k(x_i) for each response.
        mask: 1 for a token of the response, 0 for padding, of any dtype. What the others hold at padding, NaN
            included, has no effect.
        epsilon: clip range ε of the probability ratio.
        beta: weight β of the KL term.

    >>> logp = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]])
    >>> mask = torch.tensor([[1, 1], [1, 0]])
    >>> policy_objective(logp, logp, logp, torch.tensor([2.0, -1.0]), mask)
    PolicyLoss(loss=tensor(-0.5000), kl=tensor(0.), clip_fraction=tensor(0.))
    """
    real = mask.bool()
    # Padding is put aside before exp: 0 · inf would be NaN in the loss and in its gradient.
    logp = logp.masked_fill(~real, 0.0)
    ratio = torch.exp(logp - old_logp.detach().masked_fill(~real, 0.0))
    gain = advantage[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - epsilon, 1 + epsilon) * gain)
    kl = torch.zeros_like(logp)
    if ref_logp is not None:
        kl = kl_k3(logp, ref_logp.detach().masked_fill(~real, 0.0))
    cost = torch.where(real, beta * kl - surrogate, torch.zeros_like(logp))
    loss = (cost.sum(dim=1) / real.sum(dim=1).clamp(min=1)).mean()

    # Padding has ratio 1 and never counts as clipped.
    clipped = ((ratio < 1 - epsilon) & (gain < 0)) | ((ratio > 1 + epsilon) & (gain > 0))
    tokens = real.sum().clamp(min=1)
    return PolicyLoss(loss, kl.detach().sum() / tokens, clipped.to(kl.dtype).sum() / tokens)
