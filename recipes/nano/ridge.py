"""Stage 11 of build.py: a ridge regression from the tower's later stages to the ratings.

On images like those it was fitted on, it predicts worse than what `nano` learns from all its inputs. On images of
another kind it predicts better (benchmarks/transfer.py).
"""

from collections.abc import Sequence

import torch

from visualquality.models.nano.vision import LinearQuality

from .features import ImageStatistics

SHRINKAGE = 0.01  # ridge penalty for each image and input, all inputs having standard deviation 1


@torch.no_grad()
def fit(sets: Sequence[ImageStatistics], hidden: int) -> LinearQuality:
    """The regression on all sets together, `hidden` being the width of the decoder.

    Each set is centred and its MOS standardised, so sets of different scales are never compared with one another.
    The projector into the decoder starts at zero: the decoder does not see the prediction yet.
    """
    quality = LinearQuality(hidden)
    together = [torch.cat(parts) for parts in zip(*(one.statistics for one in sets), strict=True)]
    raw = quality.levelled(together)
    quality.mean.copy_(raw.mean(0))
    quality.scale.copy_(raw.std(0) + 1e-3)
    # Float64: the products below are sums over thousands of images.
    x, y = [], []
    for one in sets:
        levelled, mos = quality.levelled(one.statistics).double(), one.mos.double()
        x.append(levelled - levelled.mean(0))
        y.append((mos - mos.mean()) / mos.std())
    inputs = torch.cat(x)
    images, width = inputs.shape
    penalty = SHRINKAGE * images * width * torch.eye(width, dtype=inputs.dtype)
    quality.weights.copy_(torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ torch.cat(y)))
    predicted = quality.read(together)
    quality.projector.mean.copy_(predicted.mean())
    quality.projector.scale.copy_(predicted.std())
    # The projector's output layer at zero: the decoder sees nothing of the prediction yet.
    torch.nn.init.zeros_(quality.projector.down.weight)
    torch.nn.init.zeros_(quality.projector.down.bias)
    return quality
