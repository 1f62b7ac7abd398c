"""The equations of the paper (arXiv 2505.14460, sections 3.1 and 4.3), in its order.

Eq. 1  thurstone             probability that image a looks better than image b
       predicted_preference  the same for all pairs of a batch and all responses
Eq. 2  true_preference       the same for the raters, from their mean opinion scores (MOS)
Eq. 3  fidelity              how well the two agree on a pair
       fidelity_reward       its mean over the other images of the data set
Eq. 4  advantage             rewards standardised among the responses of an image
Eq. 5  policy_objective      the clipped objective of GRPO
Eq. 6  kl_k3                 its KL penalty
Eq. 7  predicted_preference  with average="probability", for two of the rewards of Table 4

`B` is the number of images in a batch, `K` the number of responses per image, `N` = B·K, and `T` the number of tokens
of the longest response.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

GAMMA = 1e-6  # γ of Eq. 1: without it, two images of variance 0 would divide by 0


# Eq. 1 and 7: what the model prefers


class Moments(NamedTuple):
    """Sample mean μ and unbiased sample variance σ² of the scores of each image."""

    mean: Float[Tensor, "B"]
    variance: Float[Tensor, "B"]


def sample_moments(scores: Float[Tensor, "B K"]) -> Moments:
    """μ and σ² of Eq. 1 for each image, over its readable (not NaN) scores.

    σ² divides by one less than the number of readable scores. With fewer than two of them nothing is known about the
    variance, and σ² is 0; with none the mean is NaN. Equal scores have exactly their value as mean and exactly 0 as σ².

    >>> sample_moments(torch.tensor([[2.0, 4.0, float("nan")], [3.0, float("nan"), float("nan")]]))
    Moments(mean=tensor([3., 3.]), variance=tensor([2., 0.]))
    """
    scores = at_least_float32(scores)
    readable = (~scores.isnan()).sum(dim=1)
    mean = scores.nanmean(dim=1, keepdim=True)
    # A second pass removes the rounding of the first. Eq. 1 divides by as little as √γ = 0.001, so one
    # unit in the last place of a float32 mean would already move a preference by 1e-4.
    mean = mean + (scores - mean).nanmean(dim=1, keepdim=True)
    squares = (scores - mean).square().nansum(dim=1)
    return Moments(mean.squeeze(1), squares / (readable - 1).clamp(min=1))


def thurstone(
    mean_a: Float[Tensor, "*shape"],
    var_a: Float[Tensor, "*shape"],
    mean_b: Float[Tensor, "*shape"],
    var_b: Float[Tensor, "*shape"],
    gamma: float = GAMMA,
) -> Float[Tensor, "*shape"]:
    """Eq. 1: probability in [0, 1] that image a looks better than image b, both scores being Gaussian (Thurstone).

    All tensors broadcast. `mean_a` is one response of image a in Eq. 1, and its mean score elsewhere. Swapping a and b
    gives 1 − p without the rounding of that subtraction.

    Raises:
        ValueError: `gamma` is not positive.

    >>> thurstone(*torch.tensor([3.0, 0.5, 1.5, 0.5]))
    tensor(0.9332)
    """
    if gamma <= 0:
        raise ValueError(
            f"gamma must be positive, not {gamma}: images of variance 0 divide by its root"
        )
    z = (mean_a - mean_b) / (var_a + var_b + gamma).sqrt()
    # Φ(z). `torch.special.ndtr` computes 1 + erf, which in float32 leaves no digit of Φ below z = −6.
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def predicted_preference(
    scores: Float[Tensor, "B K"],
    *,
    variance: Literal["sample", "fixed"] = "sample",
    average: Literal["score", "probability"] = "score",
    gamma: float = GAMMA,
) -> Float[Tensor, "B B K"]:
    """Probability p[i, j, k] = p_k(x_i, x_j) that response k finds image i better than image j.

    Args:
        scores: finite scores, NaN where a response could not be read. Computed in float64 if given so, else
            float32.
        variance: "sample" takes σ² of each image from its own responses; "fixed" sets both σ² to 1
            (Thurstone's Case V).
        average: "score" compares response k of image i with the mean score of image j (Eq. 1); "probability"
            compares it with each readable response of image j and averages the probabilities (Eq. 7).
        gamma: the γ > 0 added to the variances.

    Returns:
        Values in [0, 1]. NaN where response k of image i cannot be read, or where image j has no readable
        response and therefore nothing to be compared with. The entries i = j compare an image with itself;
        Eq. 3 leaves them out. Negating all scores gives 1 − p without the rounding of that subtraction.

    >>> predicted_preference(torch.tensor([[3.0, 4.0], [1.0, 2.0]]))[0, 1]
    tensor([0.9332, 0.9938])
    """
    scores = at_least_float32(scores)
    mean, sigma2 = sample_moments(scores)
    if variance == "fixed":
        sigma2 = torch.ones_like(sigma2)
    # Axes i, j, k: image, other image, response of the first.
    var_i = sigma2[:, None, None]
    var_j = sigma2[None, :, None]
    if average == "score":
        return thurstone(scores[:, None, :], var_i, mean[None, :, None], var_j, gamma)
    # Eq. 7 has a fourth axis, the response of the other image.
    first = scores[:, None, :, None]
    other = scores[None, :, None, :]
    each = thurstone(first, var_i[..., None], other, var_j[..., None], gamma)
    return each.nanmean(dim=3)


# Eq. 2: what the raters prefer


def true_preference(mos: Shaped[Tensor, "B"]) -> Float[Tensor, "B B"]:
    """Eq. 2: 1 where image i has a higher mean opinion score than image j, 1/2 where equal, 0 otherwise.

    MOS may be on any scale, with higher meaning better. Only pairs of one data set mean anything.

    Raises:
        ValueError: a MOS is NaN; Eq. 2 would silently call that image the worse one.

    >>> true_preference(torch.tensor([70.0, 30.0, 30.0]))
    tensor([[0.5000, 1.0000, 1.0000],
            [0.0000, 0.5000, 0.5000],
            [0.0000, 0.5000, 0.5000]])
    """
    if mos.isnan().any():
        raise ValueError("mos holds NaN: every image of a batch needs a mean opinion score")
    # MOS are compared in their own type: two that differ in float64 may be equal in float32.
    higher = mos[:, None] > mos[None, :]
    equal = mos[:, None] == mos[None, :]
    precise = torch.float64 if mos.dtype == torch.float64 else torch.float32
    return higher.to(precise) + 0.5 * equal.to(precise)


# Eq. 3: how well they agree


def fidelity(
    better: Float[Tensor, "*shape"],
    worse: Float[Tensor, "*shape"],
    truth: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """Eq. 3 for a pair: √(p p_k) + √((1 − p)(1 − p_k)), in [0, 1] but for rounding.

    Args:
        better: p_k, the predicted preference (Eq. 1 or 7).
        worse: 1 − p_k, computed from the swapped images. A subtraction would not do: near p_k = 1 it gives multiples
            of 6e-8 in float32, an error of up to 2e-4 after the root, more than the 1e-4 that the advantage divides by.
        truth: p, the true preference (Eq. 2).

    The gradient of the root of 0 is taken as 0. In float64, Φ of Eq. 1 is not 0 before z = −38, where float32 rounds to
    0 at −14: a loss gives float64, so that it keeps its gradient there.

    >>> fidelity(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5]), torch.tensor([1.0, 0.5]))
    tensor([0.9487, 1.0000])
    """
    return _root(truth * better) + _root((1 - truth) * worse)


def _root(p: Tensor) -> Tensor:
    # The gradient of √p at 0 is infinite, and NaN once the chain rule multiplies it by 0.
    zero = p == 0
    return p.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def fidelity_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    **options: Any,
) -> Float[Tensor, "B K"]:
    """How well the order of the scores agrees with the order of the MOS (Eq. 3).

    The mean of `fidelity` over the other images of the data set. Images without a readable score are no partners for
    the others. An image without any partner (alone of its data set, or among unreadable ones) earns 0 for each
    response, and so does an unreadable response. `options` are those of `predicted_preference`.

    >>> fidelity_reward(torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([4.2, 2.9]))
    tensor([[0.9660, 0.9969],
            [0.9969, 0.9660]])
    """
    check_shapes(scores, mos, datasets)
    better = predicted_preference(scores, **options)
    worse = predicted_preference(-scores, **options)
    truth = true_preference(mos).to(better.dtype)[:, :, None]
    return mean_over_partners(fidelity(better, worse, truth), datasets)


def mean_over_partners(
    values: Float[Tensor, "B B K"], datasets: Int[Tensor, "B"] | None
) -> Float[Tensor, "B K"]:
    """Mean of values[i, j, k] over the j ≠ i of the same data set where it is not NaN; 0 without such a j."""
    partner = ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    if datasets is not None:
        partner = partner & (datasets[:, None] == datasets[None, :])
    mean = values.masked_fill(~partner[:, :, None], torch.nan).nanmean(dim=1)
    # The sum of two rounded roots may be a rounding above 1.
    return mean.nan_to_num(nan=0.0).clamp(0, 1)


# Eq. 4 to 6: how rewards move the policy


def advantage(rewards: Float[Tensor, "B K"], eps: float = 1e-4) -> Float[Tensor, "B K"]:
    """Eq. 4: rewards standardised among the K responses of each image.

    The deviation is the unbiased one plus `eps`, as in TRL's GRPO (the paper's Eq. 4 has no eps and divides
    by zero when all rewards are equal). Equal rewards, as those of a single response, give exactly 0.

    >>> advantage(torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.3, 0.3]]))
    tensor([[-0.9998,  0.0000,  0.9998],
            [ 0.0000,  0.0000,  0.0000]])
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(rewards.shape[1] - 1, 1)
    # The mean of equal floats may be off by a rounding, which eps alone would blow up to about 1e-3.
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return (centred / (variance.sqrt() + eps)).masked_fill(equal, 0.0)


class PolicyLoss(NamedTuple):
    """What `policy_objective` returns: the loss to minimise, and two detached figures for the logs."""

    loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]  # nats, mean over all tokens; 0 without a frozen policy
    # Share of all tokens whose gradient the clip cuts off, in [0, 1].
    clip_fraction: Float[Tensor, ""]


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
        ref_logp: the same under the frozen policy that training started from, or None to leave the KL term out.
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
    padding = ~mask.bool()
    # Padding is zeroed before exp: 0 · inf would be NaN in the loss and in its gradient.
    logp = logp.masked_fill(padding, 0.0)
    ratio = torch.exp(logp - old_logp.detach().masked_fill(padding, 0.0))
    gain = advantage[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - epsilon, 1 + epsilon) * gain)
    kl = torch.zeros_like(logp)
    if ref_logp is not None:
        kl = kl_k3(logp, ref_logp.detach().masked_fill(padding, 0.0))
    cost = (beta * kl - surrogate).masked_fill(padding, 0.0)
    lengths = (~padding).sum(dim=1)
    loss = (cost.sum(dim=1) / lengths.clamp(min=1)).mean()

    # Padding has ratio 1 and never counts as clipped.
    clipped = ((ratio < 1 - epsilon) & (gain < 0)) | ((ratio > 1 + epsilon) & (gain > 0))
    tokens = lengths.sum().clamp(min=1)
    return PolicyLoss(loss, kl.detach().sum() / tokens, clipped.to(kl.dtype).sum() / tokens)


def kl_k3(
    logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Eq. 6 for each token: r − log r − 1 with r = π_ref / π_θ, in nats, never negative but for rounding.

    An unbiased estimate of KL(π_θ ‖ π_ref) for tokens drawn from π_θ (the estimator known as k3).

    >>> kl_k3(torch.tensor([0.5, 0.25]).log(), torch.tensor([0.5, 0.5]).log())
    tensor([0.0000, 0.3069])
    """
    log_ratio = ref_logp - logp
    # expm1, because exp(x) − x − 1 keeps no digit for a small x.
    return torch.expm1(log_ratio) - log_ratio


def at_least_float32(values: Tensor) -> Tensor:
    """float64 stays; all else becomes float32."""
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def check_shapes(scores: Tensor, mos: Tensor, datasets: Tensor | None) -> None:
    """Refuse shapes that broadcasting would accept: a single MOS would become a batch of ties. Raises ValueError."""
    given = [tuple(values.shape) for values in (scores, mos, datasets) if values is not None]
    if scores.ndim != 2 or any(shape != given[0][:1] for shape in given[1:]):
        raise ValueError(f"scores, mos, datasets need the shapes (B, K), (B,), (B,), not {given}")
