"""What a response earns: the rewards of Table 4 and of peers, the format reward, and the total that training increases.

A reward of your own is a function and an entry in `REWARDS`. It takes scores (B, K), with NaN for what could not be
read, MOS (B,) and the number of each image's data set (B,), and gives a finite number for each response. A recipe can
then name it, and pages show the first line of its docstring:

>>> def closeness(scores, mos, datasets=None):
...     "How close the score is to the MOS, both from 1 to 5."
...     return (1 - (scores - mos[:, None]).abs() / 4).nan_to_num(nan=0.0)
>>> REWARDS["closeness"] = closeness
>>> reward(torch.tensor([[3.0, float("nan")]]), torch.tensor([4.0]), variant="closeness")
tensor([[0.7500, 0.0000]])
>>> del REWARDS["closeness"]  # only here, so that this test leaves nothing behind
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .equations import (
    at_least_float32,
    check_shapes,
    fidelity_reward,
    mean_over_partners,
    predicted_preference,
    true_preference,
)


def probability_average_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B K"]:
    """How well the order of the scores agrees with that of the MOS, over averaged probabilities (Eq. 3 on Eq. 7)."""
    return fidelity_reward(scores, mos, datasets, average="probability")


def fixed_variance_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B K"]:
    """How well the order of the scores agrees with that of the MOS, with a fixed variance of 1.

    Eq. 3 on Eq. 7 with both variances one, as section 4.3 words the row "Fixed Variance of One".
    """
    return fidelity_reward(scores, mos, datasets, variance="fixed", average="probability")


def binary_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B K"]:
    """The share of pairs of images that the score puts in the order of the MOS.

    Row "Binary Reward" of Table 4. The pairs are those of the image with the other images of its data set. Right means
    that the preference of Eq. 1 and that of Eq. 2 are on the same side of 1/2, so a prediction of exactly 1/2 is not
    right. Images of equal MOS have no right side: such pairs are left out of the share. Zeros are as in
    `fidelity_reward`.

    >>> binary_reward(torch.tensor([[3.0], [2.0], [4.0]]), torch.tensor([3.0, 1.0, 2.0]))
    tensor([[0.5000],
            [1.0000],
            [0.5000]])
    """
    check_shapes(scores, mos, datasets)
    predicted = predicted_preference(scores)
    truth = true_preference(mos).to(predicted.dtype)[:, :, None]
    right = (torch.sign(predicted - 0.5) == torch.sign(truth - 0.5)).to(predicted.dtype)
    # NaN leaves a pair out of the mean.
    undecided = predicted.isnan() | (truth == 0.5)
    return mean_over_partners(right.masked_fill(undecided, torch.nan), datasets)


def absolute_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    *,
    threshold: float = 0.35,
) -> Float[Tensor, "B K"]:
    """Whether the score lies near the MOS: Q-Insight's regression reward.

    1 if |score − MOS| < threshold, else 0. No other image is needed, so `datasets` has no effect.

    Raises:
        ValueError: a MOS is outside [1, 5]; on another scale the reward would be 0 throughout.

    >>> absolute_reward(torch.tensor([[3.0, 3.5, float("nan")]]), torch.tensor([3.2]))
    tensor([[1., 1., 0.]])
    """
    check_shapes(scores, mos, datasets)
    _check_1_to_5(mos, "absolute")
    near = (scores - mos[:, None]).abs() < threshold
    return near.to(at_least_float32(scores).dtype)


def exponential_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    *,
    width: float = 0.3,
) -> Float[Tensor, "B K"]:
    """How near the score is to the MOS: Q-Hawkeye's score reward.

    exp(−|score − MOS| / width), in [0, 1] (arXiv 2601.22920, as its published code has it). 0 for what could not be
    read. No other image is needed, so `datasets` has no effect.

    Raises:
        ValueError: a MOS is outside [1, 5].

    >>> exponential_reward(torch.tensor([[3.0, 3.3, float("nan")]]), torch.tensor([3.0]))
    tensor([[1.0000, 0.3679, 0.0000]])
    """
    check_shapes(scores, mos, datasets)
    _check_1_to_5(mos, "exponential")
    distance = (at_least_float32(scores) - mos[:, None]).abs()
    return (-distance / width).exp().nan_to_num(nan=0.0)


def rank_and_score_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B K"]:
    """How well the order of the scores agrees with that of the MOS, and how near each score is to its MOS, half each.

    The mean of the fidelity reward (Eq. 3) and of `exponential_reward`, in [0, 1]. PreResQ-R1 (arXiv 2511.05393) joins
    ranks and scores too, with terms of its own; this is its kind and not its formula.

    Raises:
        ValueError: a MOS is outside [1, 5].
    """
    ranks = fidelity_reward(scores, mos, datasets)
    return (ranks + exponential_reward(scores, mos, datasets)) / 2


def _check_1_to_5(mos: Shaped[Tensor, "B"], name: str) -> None:
    if not ((mos >= 1) & (mos <= 5)).all():
        raise ValueError(f"the {name} reward needs mos from 1 to 5: rescale each data set first")


def variance_weight(scores: Float[Tensor, "B K"], strength: float) -> Float[Tensor, "B 1"]:
    """The weight of each image's advantages: the less its K scores agree, the smaller.

    exp(−strength · variance / 4), where 4 is the largest variance of scores in [1, 5]; the variance is the biased one,
    of the scores that could be read. In [exp(−strength), 1]; 1 where fewer than two could be read. Q-Hawkeye (arXiv
    2601.22920, as its published code has it) multiplies advantages (Eq. 4) by this with strength 0.2.

    >>> variance_weight(torch.tensor([[1.0, 5.0], [3.0, 3.0], [2.0, float("nan")]]), 0.2)
    tensor([[0.8187],
            [1.0000],
            [1.0000]])
    """
    mean = scores.nanmean(dim=1, keepdim=True)
    variance = (scores - mean).square().nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)
    largest = 4.0
    return (-strength * variance / largest).exp()


Reward = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Name in a recipe -> function of (scores, mos, datasets).
REWARDS: dict[str, Reward] = {
    "fidelity": fidelity_reward,
    "binary": binary_reward,
    "probability_average": probability_average_reward,
    "fixed_variance": fixed_variance_reward,
    "absolute": absolute_reward,
    "exponential": exponential_reward,
    "rank_and_score": rank_and_score_reward,
}
# Those that look at no other image.
ALONE = {"absolute", "exponential"}
# Those that compare a score with a MOS, and so need MOS from 1 to 5.
ON_1_TO_5 = ALONE | {"rank_and_score"}


def reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    variant: str = "fidelity",
) -> Float[Tensor, "B K"]:
    """The reward of each response under one row of Table 4, in [0, 1].

    Args:
        scores: predicted scores, NaN where a response could not be read.
        mos: mean opinion scores; any scale, except for the rewards in `ON_1_TO_5`.
        datasets: a number for each image's data set, within which images are compared; None if there is one.
        variant: a key of `REWARDS`.

    Raises:
        ValueError: an unknown variant, shapes that do not fit, or MOS that the variant cannot use.

    >>> scores = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    >>> reward(scores, torch.tensor([80.0, 35.0]), variant="binary")
    tensor([[1., 0.],
            [1., 1.]])
    """
    if variant not in REWARDS:
        raise ValueError(f"unknown reward {variant!r}: choose one of {', '.join(REWARDS)}")
    return REWARDS[variant](scores, mos, datasets)


def format_reward(well_formed: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Whether the answer has the form that was asked for.

    1 for each response that `visualquality.response.well_formed` accepts, else 0, in float32.

    >>> format_reward(torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    return well_formed.to(torch.float32)


def total_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None,
    well_formed: Bool[Tensor, "B K"],
    tokens: Shaped[Tensor, "B K"],
    settings: Any,
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """The number that training increases: reward + format_weight · format − length_weight · tokens / max_new_tokens.

    `tokens` are the lengths of the responses. `settings` has the attributes `reward` (a key of `REWARDS`),
    `format_weight`, `length_weight` and `max_new_tokens`, as the section rl2r of a recipe. The paper has format_weight
    1, as its authors' code, and no length term. Returns the total, and the reward alone for the logs.
    """
    ranking = reward(scores, mos, datasets, settings.reward)
    total = ranking + settings.format_weight * format_reward(well_formed)
    return total - settings.length_weight * tokens / settings.max_new_tokens, ranking


def comparison_groups(datasets: Int[Tensor, "B"], within: int | None = None) -> Int[Tensor, "B"]:
    """A number for each image of a batch: those with the same number are compared, in Eq. 2 and 3.

    Images are compared that are of one data set and, with `within`, in one group: each `within` images in a row are
    one, and the last group may be smaller. The result takes the place of `datasets` in a reward.

    >>> comparison_groups(torch.tensor([7, 7, 7, 2, 2, 2]), 2)
    tensor([0, 0, 2, 1, 3, 3])
    """
    group = torch.arange(len(datasets), device=datasets.device) // (within or max(1, len(datasets)))
    return torch.unique(torch.stack([group, datasets], dim=1), dim=0, return_inverse=True)[1]


def description(name: str) -> str:
    """The first line of the docstring of a reward, or of "format"; "" where there is none.

    >>> description("binary")
    'The share of pairs of images that the score puts in the order of the MOS.'
    """
    function = format_reward if name == "format" else REWARDS.get(name)
    docstring = inspect.getdoc(function) if function else None
    return (docstring or "").partition("\n")[0]
