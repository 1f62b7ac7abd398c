"""Milliseconds of the vectorised fidelity reward (Eq. 1 to 3) against a triple loop.

    python benchmarks/reward.py --json benchmarks/results/reward.json

The loops go over images, responses and the images compared with, as Eq. 1 to 3 are written. One uses PyTorch scalars,
like the authors' published code, one Python's floats. All three give the same rewards, which is checked.
"""

import math
import statistics

import torch
from common import Row, finish, medians, parser, row
from torch import Tensor

from visualquality.rl2r import GAMMA, fidelity_reward

K = 6


def loop_of_tensors(scores: Tensor, mos: Tensor) -> Tensor:
    """Rewards (B, K), in PyTorch scalars. Mean and variance are computed again for each comparison."""
    normal = torch.distributions.Normal(0.0, 1.0)
    rewards = torch.zeros_like(scores)
    for i in range(len(scores)):
        for k in range(scores.shape[1]):
            total = torch.zeros(())
            for j in range(len(scores)):
                if i == j:
                    continue
                std = torch.sqrt(scores[i].var() + scores[j].var() + GAMMA)
                p = normal.cdf((scores[i, k] - scores[j].mean()) / std)
                true = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
                total += torch.sqrt(true * p) + torch.sqrt((1 - true) * (1 - p))
            rewards[i, k] = total / (len(scores) - 1)
    return rewards


def loop_of_floats(scores: list[list[float]], mos: list[float]) -> list[list[float]]:
    """The same in Python's floats. The moments of each image are computed once."""
    mean, variance = [statistics.fmean(s) for s in scores], [statistics.variance(s) for s in scores]
    rewards = [[0.0] * len(s) for s in scores]
    for i, responses in enumerate(scores):
        for k, score in enumerate(responses):
            for j in range(len(scores)):
                if i == j:
                    continue
                z = (score - mean[j]) / math.sqrt(variance[i] + variance[j] + GAMMA)
                better = 0.5 * math.erfc(-z / math.sqrt(2))
                worse = 0.5 * math.erfc(z / math.sqrt(2))
                true = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
                fidelity = math.sqrt(true * better) + math.sqrt((1 - true) * worse)
                rewards[i][k] += fidelity / (len(scores) - 1)
    return rewards


def measure(batch: int, repeats: int) -> list[Row]:
    generator = torch.Generator().manual_seed(batch)
    mos = 1 + 4 * torch.rand(batch, generator=generator)
    scores = (mos[:, None] + torch.randn(batch, K, generator=generator)).clamp(1, 5)
    as_floats = scores.double().tolist()

    def ours() -> Tensor:
        return fidelity_reward(scores, mos)

    ours()  # the first call loads kernels
    expected = torch.tensor(loop_of_floats(as_floats, mos.tolist()))
    torch.testing.assert_close(ours(), expected, atol=1e-3, rtol=0)
    # For larger batches the loop of tensors takes seconds: it is checked on the smallest alone.
    if batch <= 8:
        torch.testing.assert_close(ours(), loop_of_tensors(scores, mos), atol=1e-3, rtol=0)
    rows = []
    for name, loop, times in (
        ("PyTorch scalars", lambda: loop_of_tensors(scores, mos), 1 if batch > 32 else repeats),
        ("Python floats", lambda: loop_of_floats(as_floats, mos.tolist()), repeats),
    ):
        medians(ours, ours, 3)  # the loop before has emptied the caches
        fast, slow = medians(ours, loop, times)
        rows.append(row(f"B = {batch}, K = {K}, loop of {name}", 1e3 * fast, 1e3 * slow, "ms"))
    return rows


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = [line for batch in (8, 32, 128) for line in measure(batch, 3 if args.short else 9)]
    finish("Fidelity reward: one broadcast against a triple loop", rows, args)


if __name__ == "__main__":
    main()
