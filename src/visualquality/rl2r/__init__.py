"""Reinforcement learning to rank (RL2R), the method of VisualQuality-R1, as pure functions on tensors.

`equations.py` has Eq. 1 to 7 of the paper, `rewards.py` what a response earns: the rewards of Table 4 and of peers, and
the total. A reward of your own is a function and an entry in `REWARDS`; then a recipe can name it.

`B` is the number of images in a batch and `K` the number of responses per image. A response whose score cannot be
read is NaN, never a number.
"""

from .equations import (
    GAMMA,
    Moments,
    PolicyLoss,
    advantage,
    fidelity,
    fidelity_reward,
    kl_k3,
    policy_objective,
    predicted_preference,
    sample_moments,
    thurstone,
    true_preference,
)
from .rewards import (
    ALONE,
    ON_1_TO_5,
    REWARDS,
    absolute_reward,
    binary_reward,
    comparison_groups,
    description,
    exponential_reward,
    fixed_variance_reward,
    format_reward,
    probability_average_reward,
    rank_and_score_reward,
    reward,
    total_reward,
    variance_weight,
)

__all__ = [
    "ALONE",
    "GAMMA",
    "ON_1_TO_5",
    "REWARDS",
    "Moments",
    "PolicyLoss",
    "absolute_reward",
    "advantage",
    "binary_reward",
    "comparison_groups",
    "description",
    "exponential_reward",
    "fidelity",
    "fidelity_reward",
    "fixed_variance_reward",
    "format_reward",
    "kl_k3",
    "policy_objective",
    "predicted_preference",
    "probability_average_reward",
    "rank_and_score_reward",
    "reward",
    "sample_moments",
    "thurstone",
    "total_reward",
    "true_preference",
    "variance_weight",
]
