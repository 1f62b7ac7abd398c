"""Reinforcement learning to rank (RL2R), the method of VisualQuality-R1, as pure functions on tensors.

The equations of the paper (arXiv 2505.14460, sections 3.1 and 4.3), in the order of this file:

Eq. 1  thurstone             probability that image a looks better than image b
       predicted_preference  the same for all pairs of a batch and all responses
Eq. 2  true_preference       the same for the raters, from their mean opinion scores (MOS)
Eq. 3  fidelity              how well the two agree on a pair; fidelity_reward averages over the pairs
Eq. 4  advantage             rewards standardised among the responses of an image
Eq. 5  policy_objective      the clipped objective of GRPO
Eq. 6  kl_k3                 its KL penalty
Eq. 7  predicted_preference  with average="probability", for two of the rewards of Table 4

`B` is the number of images in a batch and `K` the number of responses per image. The score of a response
that cannot be read is NaN. A reward of your own is a function and an entry in `REWARDS`; then a recipe can
name it. It gives a finite number for NaN too, and pages show the first line of its docstring:

>>> def closeness(scores, mos, datasets=None):
...     "How close the score is to the MOS, both from 1 to 5."
...     return (1 - (scores - mos[:, None]).abs() / 4).nan_to_num(nan=0.0)
>>> REWARDS["closeness"] = closeness
>>> reward(torch.tensor([[3.0, float("nan")]]), torch.tensor([4.0]), variant="closeness")
tensor([[0.7500, 0.0000]])
>>> del REWARDS["closeness"]  # only here, so that this test leaves nothing behind
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

GAMMA = 1e-6  # γ of Eq. 1: without it, two images of variance 0 would divide by 0
Scores = Float[Tensor, "B K"]  # also the type of rewards and advantages
Mos = Shaped[Tensor, "B"]
Datasets = Int[Tensor, "B"] | None
Tokens = Float[Tensor, "N T"]  # N = B·K responses; T is the length of the longest one in tokens
Reward = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Variant = str  # a key of REWARDS


class Moments(NamedTuple):
    """Sample mean μ and unbiased sample variance σ² of the scores of each image."""

    mean: Float[Tensor, "B"]
    variance: Float[Tensor, "B"]


def sample_moments(scores: Scores) -> Moments:
    """μ and σ² of Eq. 1 for each image, over its readable (not NaN) scores.

    With fewer than two readable scores σ² is 0; with none the mean is NaN. Equal scores have exactly their
    value as mean and exactly 0 as σ².
    """
    scores = _at_least_float32(scores)
    readable = (~scores.isnan()).sum(dim=1)
    mean = scores.nanmean(dim=1, keepdim=True)
    # A second pass removes the rounding of the first. Eq. 1 divides by as little as √γ = 0.001, so one
    # unit in the last place of a float32 mean would already move a preference by 1e-4.
    mean = mean + (scores - mean).nanmean(dim=1, keepdim=True)
    squares = (scores - mean).square().nansum(dim=1)
    return Moments(mean.squeeze(1), squares / (readable - 1).clamp(min=1))


def thurstone(
    mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor, gamma: float = GAMMA
) -> Tensor:
    """Eq. 1: probability in [0, 1] that `a` looks better than `b`, both Gaussian (Thurstone's model).

    All tensors broadcast. `mean_a` is one response of image a in Eq. 1, or its mean score elsewhere. Swapping
    a and b gives 1 − p without the rounding of that subtraction. ValueError if `gamma` is not positive.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, not {gamma}: variances may be 0")
    z = (mean_a - mean_b) / (var_a + var_b + gamma).sqrt()
    # Φ(z). `torch.special.ndtr` computes 1 + erf, which in float32 leaves no digit of Φ below z = −6.
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def predicted_preference(
    scores: Scores,
    *,
    variance: Literal["sample", "fixed"] = "sample",
    average: Literal["score", "probability"] = "score",
    gamma: float = GAMMA,
) -> Float[Tensor, "B B K"]:
    """Probability p[i, j, k] = p_k(x_i, x_j) that response k finds image i better than image j.

    Args:
        scores: finite, or NaN. Computed in float64 if given so, else in float32.
        variance: "sample" takes σ² of each image from its responses; "fixed" sets it to 1 (Thurstone's Case V).
        average: "score" compares response k of image i with the mean score of image j (Eq. 1); "probability"
            compares it with each readable response of image j and averages the probabilities (Eq. 7).

    Returns values in [0, 1]: NaN where response k of image i cannot be read or image j has no readable response.
    The entries i = j compare an image with itself; Eq. 3 leaves them out. Negating all scores gives 1 − p.
    """
    scores = _at_least_float32(scores)
    mean, sigma2 = sample_moments(scores)
    if variance == "fixed":
        sigma2 = torch.ones_like(sigma2)
    # Axes i, j, k: image, other image, response of the first.
    var_i, var_j = sigma2[:, None, None], sigma2[None, :, None]
    if average == "score":
        return thurstone(scores[:, None, :], var_i, mean[None, :, None], var_j, gamma)
    # Eq. 7 has a fourth axis, the response of the other image.
    first, other = scores[:, None, :, None], scores[None, :, None, :]
    return thurstone(first, var_i[..., None], other, var_j[..., None], gamma).nanmean(dim=3)


def true_preference(mos: Mos) -> Float[Tensor, "B B"]:
    """Eq. 2: 1 where image i has a higher mean opinion score than image j, 1/2 where equal, 0 otherwise.

    MOS may be on any scale where higher is better. Only pairs of one data set have a meaning.
    ValueError if a MOS is NaN, since Eq. 2 would silently call that image the worse one.
    """
    if mos.isnan().any():
        raise ValueError("mos holds NaN: every image of a batch needs a mean opinion score")
    # MOS are compared in their own type: two that differ in float64 may be equal in float32.
    higher, equal = mos[:, None] > mos, mos[:, None] == mos
    precise = torch.float64 if mos.dtype == torch.float64 else torch.float32
    return higher.to(precise) + 0.5 * equal.to(precise)


def fidelity(better: Tensor, worse: Tensor, truth: Tensor) -> Tensor:
    """Eq. 3 for a pair: √(p p_k) + √((1 − p)(1 − p_k)), in [0, 1] but for rounding.

    `truth` is p (Eq. 2), `better` is p_k (Eq. 1 or 7) and `worse` is 1 − p_k, computed from the swapped images.
    A subtraction would not do: near p_k = 1 it gives multiples of 6e-8 in float32, an error of up to 2e-4 after
    the root, which is more than the 1e-4 that the advantage divides by.
    """
    return _root(truth * better) + _root((1 - truth) * worse)


def _root(p: Tensor) -> Tensor:
    """√p, with gradient 0 at 0: the true one is infinite, and NaN once the chain rule multiplies it by 0."""
    return p.masked_fill(p == 0, 1.0).sqrt().masked_fill(p == 0, 0.0)


def fidelity_reward(scores: Scores, mos: Mos, datasets: Datasets = None, **options: Any) -> Scores:
    """How well the order of the scores agrees with the order of the MOS (Eq. 3).

    The mean of `fidelity` over the other images of the data set that have a readable score. A response earns
    0 if it is unreadable or if there is no such image. `options` are those of `predicted_preference`.
    """
    _check_shapes(scores, mos, datasets)
    better = predicted_preference(scores, **options)
    worse = predicted_preference(-scores, **options)
    truth = true_preference(mos).to(better.dtype)[:, :, None]
    return _mean_over_partners(fidelity(better, worse, truth), datasets)


def _mean_over_partners(values: Float[Tensor, "B B K"], datasets: Datasets) -> Scores:
    """Mean of values[i, j, k] over the j ≠ i of the same data set where it is not NaN; 0 without such a j."""
    partner = ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    if datasets is not None:
        partner = partner & (datasets[:, None] == datasets)
    mean = values.masked_fill(~partner[:, :, None], torch.nan).nanmean(dim=1)
    # The sum of two rounded roots may be a rounding above 1.
    return mean.nan_to_num(nan=0.0).clamp(0, 1)


def advantage(rewards: Scores, eps: float = 1e-4) -> Scores:
    """Eq. 4: rewards standardised among the K responses of each image.

    The deviation is the unbiased one plus `eps`, as in TRL's GRPO (the paper's Eq. 4 has no eps and divides
    by zero when all rewards are equal). Equal rewards, as those of a single response, give exactly 0.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = (centred.square().sum(dim=1, keepdim=True) / max(rewards.shape[1] - 1, 1)).sqrt()
    # The mean of equal floats may be off by a rounding, which eps alone would blow up to about 1e-3.
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return (centred / (deviation + eps)).masked_fill(equal, 0.0)


class PolicyLoss(NamedTuple):
    """What `policy_objective` returns: the loss to minimise, and two detached figures for the logs."""

    loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]  # nats, mean over all tokens; 0 without a reference policy
    clip_fraction: Float[Tensor, ""]  # in [0, 1], share of tokens whose gradient the clip cuts off


def policy_objective(
    logp: Tokens,
    old_logp: Tokens,
    ref_logp: Tokens | None,
    advantage: Float[Tensor, "N"],
    mask: Shaped[Tensor, "N T"],
    *,
    epsilon: float = 0.2,
    beta: float = 0.04,
) -> PolicyLoss:
    """Minus the objective of Eq. 5, with the ratio and the KL term taken token by token as GRPO does.

    Tokens are averaged within a response, then responses are averaged; one without any token contributes 0 to
    that mean. The log-probabilities are in nats: of the policy that is updated (`logp`, the only one that gets a
    gradient), of the one that wrote the responses, and of the frozen starting policy (None: no KL term). `mask` is 1
    for a token and 0 for padding, where the others may hold anything. `epsilon` and `beta` are ε and β of Eq. 5.
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


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Eq. 6 for each token: r − log r − 1 with r = π_ref / π_θ, in nats, never negative but for rounding.

    An unbiased estimate of KL(π_θ ‖ π_ref) for tokens drawn from π_θ (the estimator known as k3).
    """
    log_ratio = ref_logp - logp
    # expm1, because exp(x) − x − 1 keeps no digit for a small x.
    return torch.expm1(log_ratio) - log_ratio


def probability_average_reward(scores: Scores, mos: Mos, datasets: Datasets = None) -> Scores:
    """How well the order of the scores agrees with that of the MOS, over averaged probabilities (Eq. 7)."""
    return fidelity_reward(scores, mos, datasets, average="probability")


def fixed_variance_reward(scores: Scores, mos: Mos, datasets: Datasets = None) -> Scores:
    """How well the order of the scores agrees with that of the MOS, with variance 1 (on Eq. 7, section 4.3)."""
    return fidelity_reward(scores, mos, datasets, variance="fixed", average="probability")


def binary_reward(scores: Scores, mos: Mos, datasets: Datasets = None) -> Scores:
    """The share of pairs of images that the score puts in the order of the MOS.

    A pair is right if the preferences of Eq. 1 and Eq. 2 are on the same side of 1/2, so a prediction of
    exactly 1/2 is not right. Images of equal MOS have no right side: such pairs are left out of the share.
    """
    _check_shapes(scores, mos, datasets)
    predicted = predicted_preference(scores)
    truth = true_preference(mos).to(predicted.dtype)[:, :, None]
    right = (torch.sign(predicted - 0.5) == torch.sign(truth - 0.5)).to(predicted.dtype)
    undecided = predicted.isnan() | (truth == 0.5)
    return _mean_over_partners(right.masked_fill(undecided, torch.nan), datasets)


def absolute_reward(
    scores: Scores, mos: Mos, datasets: Datasets = None, *, threshold: float = 0.35
) -> Scores:
    """Whether the score lies near the MOS: 1 if |score − MOS| < threshold, else 0 (Q-Insight).

    `datasets` has no effect. ValueError if a MOS is outside [1, 5], where the reward would be 0 throughout.
    """
    _check_shapes(scores, mos, datasets)
    if not ((mos >= 1) & (mos <= 5)).all():
        raise ValueError("the absolute reward needs mos from 1 to 5: rescale each data set first")
    near = (scores - mos[:, None]).abs() < threshold
    return near.to(_at_least_float32(scores).dtype)


REWARDS: dict[str, Reward] = {  # name in a recipe -> function of (scores, mos, datasets)
    "fidelity": fidelity_reward,
    "binary": binary_reward,
    "probability_average": probability_average_reward,
    "fixed_variance": fixed_variance_reward,
    "absolute": absolute_reward,
}


def reward(
    scores: Scores, mos: Mos, datasets: Datasets = None, variant: Variant = "fidelity"
) -> Scores:
    """The reward of each response that is named `variant` in `REWARDS`.

    `mos` may be on any scale, except for "absolute", which needs 1 to 5. `datasets` numbers the data set of each
    image (None: there is one); images are compared within it. ValueError if the variant is unknown, if shapes do
    not fit, or if the variant cannot use these MOS.
    """
    if variant not in REWARDS:
        raise ValueError(f"unknown reward {variant!r}: choose one of {', '.join(REWARDS)}")
    return REWARDS[variant](scores, mos, datasets)


def format_reward(well_formed: Bool[Tensor, "B K"]) -> Scores:
    """Whether the answer has the form that was asked for (`response.well_formed`): 1 or 0, in float32."""
    return well_formed.to(torch.float32)


def description(name: Variant) -> str:
    """The first line of the docstring of a reward, or of "format"; "" where there is none."""
    function = format_reward if name == "format" else REWARDS.get(name)
    docstring = inspect.getdoc(function) if function else None
    return (docstring or "").partition("\n")[0]


def total_reward(
    scores: Scores, mos: Mos, datasets: Datasets, well_formed: Tensor, tokens: Tensor, settings: Any
) -> tuple[Scores, Scores]:
    """What training raises: reward + format_weight · format reward − length_weight · tokens / max_new_tokens.

    `well_formed` (bool) and `tokens` (a count) are (B, K). `settings` is anything with the attributes `reward` (a
    key of `REWARDS`), `format_weight`, `length_weight` and `max_new_tokens`, as the section rl2r of a recipe.
    Returns the total, and `reward` alone for the logs. The authors' code has format_weight 1 and no length term.
    """
    ranking = reward(scores, mos, datasets, settings.reward)
    total = ranking + settings.format_weight * format_reward(well_formed)
    return total - settings.length_weight * tokens / settings.max_new_tokens, ranking


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def _check_shapes(scores: Tensor, mos: Tensor, datasets: Datasets) -> None:
    """Refuses shapes that broadcasting would accept: a single MOS would become a batch of ties."""
    given = [tuple(values.shape) for values in (scores, mos, datasets) if values is not None]
    if scores.ndim != 2 or any(shape != given[0][:1] for shape in given[1:]):
        raise ValueError(f"scores, mos, datasets need the shapes (B, K), (B,), (B,), not {given}")
