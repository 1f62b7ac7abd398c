"""Stage 11 of build.py: how good the tower's later stages find an image, by a ridge regression of the ratings.

On images like those it was fitted on it is worse than what `nano` learns from all that it sees; on images of another
kind it is better (benchmarks/transfer.py).
"""

from collections.abc import Sequence

import torch
from reading import Seen

from visualquality.models.nano.vision import LinearQuality

SHRINKAGE = 0.01  # for each image and number that is read, all of standard deviation 1


@torch.no_grad()
def fit(sets: Sequence[Seen], hidden: int) -> LinearQuality:
    """The regression of the differences within each set, whatever its scale: no two sets are compared.

    The decoder sees nothing of it yet.
    """
    quality = LinearQuality(hidden)
    together = [torch.cat(parts) for parts in zip(*(one.statistics for one in sets), strict=True)]
    raw = quality.levelled(together)
    quality.mean.copy_(raw.mean(0))
    quality.scale.copy_(raw.std(0) + 1e-3)
    x, y = [], []
    for one in sets:
        levelled, mos = quality.levelled(one.statistics).double(), one.mos.double()
        x.append(levelled - levelled.mean(0))
        y.append((mos - mos.mean()) / mos.std())
    inputs = torch.cat(x)
    penalty = (
        SHRINKAGE * len(inputs) * inputs.shape[1] * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    )
    quality.weights.copy_(torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ torch.cat(y)))
    found = quality.read(together)
    quality.projector.mean.copy_(found.mean())
    quality.projector.scale.copy_(found.std())
    torch.nn.init.zeros_(quality.projector.down.weight)
    torch.nn.init.zeros_(quality.projector.down.bias)
    return quality
