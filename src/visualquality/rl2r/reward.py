"""What a response earns: the fidelity reward of RL2R (Eq. 3), the variants of Table 4, and the format reward.

Every reward is in [0, 1], and a response whose score is NaN (unreadable) earns 0. To try a reward of your
own, write one function from scores and MOS to a (B, K) tensor and add its name to `Variant` and a case to
`reward`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from visualquality.rl2r.preference import GAMMA, predicted_preference, true_preference

Variant = Literal["fidelity", "binary", "probability_average", "fixed_variance", "absolute"]


def reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    variant: Variant = "fidelity",
) -> Float[Tensor, "B K"]:
    """The reward of each response under one row of Table 4, in [0, 1].

    Args:
        scores: predicted scores, NaN where a response could not be read.
        mos: mean opinion scores; any scale, except for "absolute", which needs 1 to 5.
        datasets: a number for each image's data set, within which images are compared; None if there is one.
        variant: "fidelity" is Eq. 3 on Eq. 1; "binary" counts the pairs ranked correctly;
            "probability_average" is Eq. 3 on Eq. 7; "fixed_variance" is Eq. 3 on Eq. 7 with both variances
            one, as section 4.3 words the row "Fixed Variance of One"; "absolute" is Q-Insight's reward.

    Raises:
        ValueError: an unknown variant, shapes that do not fit, or MOS that the variant cannot use.

    >>> scores = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    >>> reward(scores, torch.tensor([80.0, 35.0]), variant="binary")
    tensor([[1., 0.],
            [1., 1.]])
    """
    match variant:
        case "fidelity":
            return fidelity_reward(scores, mos, datasets)
        case "binary":
            return binary_reward(scores, mos, datasets)
        case "probability_average":
            return fidelity_reward(scores, mos, datasets, average="probability")
        case "fixed_variance":
            return fidelity_reward(scores, mos, datasets, variance="fixed", average="probability")
        case "absolute":
            return absolute_reward(scores, mos)
        case _:
            raise ValueError(f"unknown reward variant {variant!r}")


def fidelity_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
    *,
    variance: Literal["sample", "fixed"] = "sample",
    average: Literal["score", "probability"] = "score",
    gamma: float = GAMMA,
) -> Float[Tensor, "B K"]:
    """Eq. 3: fidelity between predicted and true preference, averaged over the other images of the data set.

    Images without a readable score are no partners for the others. An image without any partner (alone of its
    data set, or among unreadable ones) earns 0 for each response, and so does an unreadable response.
    `variance`, `average` and `gamma` are those of `predicted_preference`.

    >>> fidelity_reward(torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([4.2, 2.9]))
    tensor([[0.9660, 0.9969],
            [0.9969, 0.9660]])
    """
    _check_shapes(scores, mos, datasets)
    better = predicted_preference(scores, variance=variance, average=average, gamma=gamma)
    # Near p = 1, 1 − p in float32 is a multiple of 6e-8, an error of up to 2e-4 after the root: more than the
    # 1e-4 that the advantage divides by. The preference of the negated scores keeps its digits there.
    worse = predicted_preference(-scores, variance=variance, average=average, gamma=gamma)
    truth = true_preference(mos).to(better.dtype)[:, :, None]
    fidelity = (truth * better).sqrt() + ((1 - truth) * worse).sqrt()
    return _mean_over_partners(fidelity, datasets)


def binary_reward(
    scores: Float[Tensor, "B K"],
    mos: Shaped[Tensor, "B"],
    datasets: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, "B K"]:
    """Row "Binary Reward" of Table 4: the share of pairs that the response ranks right.

    The pairs are those of the image with the other images of its data set. Right means that the preference of
    Eq. 1 and that of Eq. 2 are on the same side of 1/2, so a prediction of exactly 1/2 is not right. Images of
    equal MOS have no right side: such pairs are left out of the share. Zeros are as in `fidelity_reward`.

    >>> binary_reward(torch.tensor([[3.0], [2.0], [4.0]]), torch.tensor([3.0, 1.0, 2.0]))
    tensor([[0.5000],
            [1.0000],
            [0.5000]])
    """
    _check_shapes(scores, mos, datasets)
    predicted = predicted_preference(scores)
    truth = true_preference(mos).to(predicted.dtype)[:, :, None]
    right = (torch.sign(predicted - 0.5) == torch.sign(truth - 0.5)).to(predicted.dtype)
    undecided = predicted.isnan() | (truth == 0.5)
    return _mean_over_partners(right.masked_fill(undecided, torch.nan), datasets)


def absolute_reward(
    scores: Float[Tensor, "B K"], mos_on_1_to_5: Shaped[Tensor, "B"], threshold: float = 0.35
) -> Float[Tensor, "B K"]:
    """Q-Insight's regression reward: 1 if |score − MOS| < threshold, else 0. No other image is needed.

    Raises:
        ValueError: a MOS is outside [1, 5]; on another scale the reward would be 0 throughout.

    >>> absolute_reward(torch.tensor([[3.0, 3.5, float("nan")]]), torch.tensor([3.2]))
    tensor([[1., 1., 0.]])
    """
    _check_shapes(scores, mos_on_1_to_5, None)
    if not ((mos_on_1_to_5 >= 1) & (mos_on_1_to_5 <= 5)).all():
        raise ValueError(
            "the absolute reward needs mos from 1 to 5: rescale each data set linearly first."
        )
    near = (scores - mos_on_1_to_5[:, None]).abs() < threshold
    return near.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)


def format_reward(well_formed: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """1 for each response that `visualquality.response.well_formed` accepts, else 0, in float32.

    >>> format_reward(torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    return well_formed.to(torch.float32)


def _mean_over_partners(
    values: Float[Tensor, "B B K"], datasets: Int[Tensor, "B"] | None
) -> Float[Tensor, "B K"]:
    """Mean of values[i, j, k] over the j ≠ i of the same data set where it is not NaN; 0 without such a j."""
    partner = ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    if datasets is not None:
        partner = partner & (datasets[:, None] == datasets[None, :])
    mean = values.masked_fill(~partner[:, :, None], torch.nan).nanmean(dim=1)
    return mean.nan_to_num(nan=0.0).clamp(0, 1)  # a sum of two rounded roots need not stay below 1


def _check_shapes(scores: Tensor, mos: Tensor, datasets: Tensor | None) -> None:
    """Broadcasting would turn a single MOS into a batch of ties without a word."""
    wanted = scores.shape[:1]
    if (
        scores.ndim != 2
        or mos.shape != wanted
        or (datasets is not None and datasets.shape != wanted)
    ):
        given = [
            tuple(scores.shape),
            tuple(mos.shape),
            None if datasets is None else tuple(datasets.shape),
        ]
        raise ValueError(
            f"scores, mos and datasets must have the shapes (B, K), (B,), (B,), not {given}."
        )
