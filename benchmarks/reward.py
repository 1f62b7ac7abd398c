"""The vectorised fidelity reward (Eq. 1 to 3) against a straightforward triple loop.

    python benchmarks/reward.py --json benchmarks/results/reward.json

Two loops over images, responses and partners, one after another as one would write Eq. 1 to 3 down: with PyTorch
scalars (the authors' published code is of this kind), and with Python's own floats. All give the same rewards.
"""

import math
import statistics

import torch
from common import Row, finish, interleaved, parser, row
from torch import Tensor

from visualquality.rl2r import GAMMA, fidelity_reward

K = 6


def loop_of_tensors(scores: Tensor, mos: Tensor) -> Tensor:
    """(B, K) in PyTorch scalars: mean and variance are taken anew for each comparison."""
    normal = torch.distributions.Normal(0.0, 1.0)
    rewards = torch.zeros_like(scores)
    for i in range(len(scores)):
        for k in range(scores.shape[1]):
            total = torch.zeros(())
            for j in range(len(scores)):
                if i == j:
                    continue
                spread = torch.sqrt(scores[i].var() + scores[j].var() + GAMMA)
                p = normal.cdf((scores[i, k] - scores[j].mean()) / spread)
                true = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
                total += torch.sqrt(true * p) + torch.sqrt((1 - true) * (1 - p))
            rewards[i, k] = total / (len(scores) - 1)
    return rewards


def loop_of_floats(scores: list[list[float]], mos: list[float]) -> list[list[float]]:
    """The same in Python's floats, with the moments of each image found once."""
    mean, variance = [statistics.fmean(s) for s in scores], [statistics.variance(s) for s in scores]
    rewards = [[0.0] * len(s) for s in scores]
    for i, responses in enumerate(scores):
        for k, score in enumerate(responses):
            for j in range(len(scores)):
                if i == j:
                    continue
                z = (score - mean[j]) / math.sqrt(variance[i] + variance[j] + GAMMA)
                better, worse = (
                    0.5 * math.erfc(-z / math.sqrt(2)),
                    0.5 * math.erfc(z / math.sqrt(2)),
                )
                true = 1.0 if mos[i] > mos[j] else 0.5 if mos[i] == mos[j] else 0.0
                rewards[i][k] += (math.sqrt(true * better) + math.sqrt((1 - true) * worse)) / (
                    len(scores) - 1
                )
    return rewards


def measure(batch: int, repeats: int) -> list[Row]:
    generator = torch.Generator().manual_seed(batch)
    mos = 1 + 4 * torch.rand(batch, generator=generator)
    scores = (mos[:, None] + torch.randn(batch, K, generator=generator)).clamp(1, 5)
    as_floats = scores.double().tolist()

    def ours() -> Tensor:
        return fidelity_reward(scores, mos)

    ours()  # the first call loads kernels
    torch.testing.assert_close(
        ours(), torch.tensor(loop_of_floats(as_floats, mos.tolist())), atol=1e-3, rtol=0
    )
    if batch <= 8:
        torch.testing.assert_close(ours(), loop_of_tensors(scores, mos), atol=1e-3, rtol=0)
    rows = []
    for name, loop, times in (
        ("PyTorch scalars", lambda: loop_of_tensors(scores, mos), 1 if batch > 32 else repeats),
        ("Python floats", lambda: loop_of_floats(as_floats, mos.tolist()), repeats),
    ):
        interleaved(ours, ours, 3)
        fast, slow = interleaved(ours, loop, times)
        rows.append(row(f"B = {batch}, K = {K}, loop of {name}", 1e3 * fast, 1e3 * slow, "ms"))
    return rows


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = [line for batch in (8, 32, 128) for line in measure(batch, 3 if args.short else 9)]
    finish("Fidelity reward: one broadcast against a triple loop", rows, args)


if __name__ == "__main__":
    main()
