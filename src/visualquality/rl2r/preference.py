"""Which of two images looks better: the model's preference (Eq. 1 and 7) and the raters' (Eq. 2)."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

GAMMA = 1e-6  # the γ of Eq. 1: keeps two images without any spread comparable


class Moments(NamedTuple):
    """Sample mean μ and unbiased sample variance σ² of the scores of each image."""

    mean: Float[Tensor, "B"]
    variance: Float[Tensor, "B"]


def sample_moments(scores: Float[Tensor, "B K"]) -> Moments:
    """μ and σ² of Eq. 1 for each image, over its readable (not NaN) scores.

    σ² divides by one less than the number of readable scores. With fewer than two of them nothing is known
    about the spread, and σ² is 0; with none the mean is NaN. Equal scores have exactly their value as mean
    and exactly 0 as σ².

    >>> sample_moments(torch.tensor([[2.0, 4.0, float("nan")], [3.0, float("nan"), float("nan")]]))
    Moments(mean=tensor([3., 3.]), variance=tensor([2., 0.]))
    """
    scores = _at_least_float32(scores)
    readable = (~scores.isnan()).sum(dim=1)
    mean = scores.nanmean(dim=1, keepdim=True)
    # A second pass removes the rounding of the first. Eq. 1 divides by as little as √γ = 0.001, so that one
    # unit in the last place of a float32 mean would already move a preference by 1e-4.
    mean = mean + (scores - mean).nanmean(dim=1, keepdim=True)
    squares = (scores - mean).square().nansum(dim=1)
    return Moments(mean.squeeze(1), squares / (readable - 1).clamp(min=1))


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
    if gamma <= 0:
        raise ValueError(
            f"gamma must be positive, not {gamma}: images without any spread divide by its root."
        )
    scores = _at_least_float32(scores)
    mean, sigma2 = sample_moments(scores)
    if variance == "fixed":
        sigma2 = torch.ones_like(sigma2)
    spread = (sigma2[:, None] + sigma2[None, :] + gamma).sqrt()
    if average == "score":
        return _normal_cdf((scores[:, None, :] - mean[None, :, None]) / spread[:, :, None])
    difference = scores[:, None, :, None] - scores[None, :, None, :]
    return _normal_cdf(difference / spread[:, :, None, None]).nanmean(dim=3)


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
        raise ValueError(
            "mos holds NaN: every image of a training batch needs a mean opinion score."
        )
    precise = torch.float64 if mos.dtype == torch.float64 else torch.float32
    higher, equal = mos[:, None] > mos[None, :], mos[:, None] == mos[None, :]
    return higher.to(precise) + 0.5 * equal.to(precise)


def _normal_cdf(z: Tensor) -> Tensor:
    """Φ. `torch.special.ndtr` goes through 1 + erf, which leaves no digit of the lower tail in float32 below −6."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.to(torch.float32)
