"""Reinforcement learning to rank (RL2R), the method of VisualQuality-R1, as pure functions on tensors.

`B` is the number of images in a batch and `K` the number of responses per image. A response whose score
cannot be read is NaN, never a number.
"""

from visualquality.rl2r.objective import PolicyLoss, advantage, kl_k3, policy_objective
from visualquality.rl2r.preference import predicted_preference, sample_moments, true_preference
from visualquality.rl2r.reward import (
    Variant,
    absolute_reward,
    binary_reward,
    fidelity_reward,
    format_reward,
    reward,
)

__all__ = [
    "PolicyLoss",
    "Variant",
    "absolute_reward",
    "advantage",
    "binary_reward",
    "fidelity_reward",
    "format_reward",
    "kl_k3",
    "policy_objective",
    "predicted_preference",
    "reward",
    "sample_moments",
    "true_preference",
]
