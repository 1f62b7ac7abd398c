"""Stage 9 of build.py: fit the readers of quality (models/nano/readers.py), each on what it learns from.

The home reader learns from the rated photos, the tower, native and scene readers from ranks within chains, and the two
distances from sets of photos. How they are joined was chosen on the transfer panel (benchmarks/panel.py), never on a
test set: SHARES and THRESHOLD. The line to the scale from 1 to 5 and the expected error are fitted on held-out ratings.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from visualquality.coefficients import srcc
from visualquality.models.nano.readers import (
    AXES,
    HIDDEN,
    LIMIT,
    NAMES,
    PRISTINE_AXES,
    Distance,
    LinearReader,
    PerceptronReader,
    Readers,
    levelled,
    standardised,
)
from visualquality.models.nano.scene import PATCH_WIDTH, SCENE_WIDTH

from .chains import Picture
from .tower import plcc_loss

# Of the readers in NAMES; their sum is above 1, since a mean of opinions varies less than each of them. And the
# distance at which the home reader counts as much as they do together, and the width of that change.
SHARES = (0.72, 0.08, 0.72, 0.08)
THRESHOLD = (1.25, 0.15)
# The home reader: networks in it, and how they are trained.
NETWORKS = 3
STEPS, BATCH, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 1500, 192, 0.6, 1e-3, 0.05
RANK_WEIGHT = 0.3
# The readers of ranks. The tower's statistics are ten times as many as those of scenes, and are held back more.
RANK_PAIRS, RANK_ENDS, RANK_LEARNING_RATE = 256, 128, 3e-3
TOWER_STEPS, TOWER_DECAY = 700, 30.0
SCENE_STEPS, SCENE_DECAY = 4000, 1.0
LEAST_SCALE = 1e-3  # a constant statistic must not be divided by 0
AXIS_FLOOR = 0.05  # share of the mean variance that every axis of a distance has at least

Parts = Sequence[Tensor]  # statistics of n images, as `Vision.widths` parts them


@torch.no_grad()
def set_scale(reader: nn.Module, x: Tensor) -> Tensor:
    """Take over mean and standard deviation of `x` (n, inputs), and return `x` standardised."""
    reader.mean.copy_(x.mean(0))
    reader.scale.copy_(x.std(0).clamp(min=LEAST_SCALE))
    return standardised(x, reader.mean, reader.scale, LIMIT)


def fit_home(
    reader: PerceptronReader, x: Tensor, mos: Tensor, chained: Tensor, pictures: Sequence[Picture]
) -> None:
    """Train NETWORKS small networks on the ratings and on ranks within chains, and put them into one.

    The loss is 1 - PLCC of a batch of rated photos, and a logistic one of pairs of pictures of a chain.
    """
    inputs = set_scale(reader, x)
    chain_inputs = standardised(chained, reader.mean, reader.scale, LIMIT)
    pairs, _, _ = pairs_of(pictures)
    width = HIDDEN // NETWORKS
    networks = []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Linear(x.shape[1], width), nn.GELU(), nn.Linear(width, 1)
        )
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
        for _ in range(STEPS):
            chosen = torch.randint(len(inputs), (BATCH,))
            better, worse = pairs[torch.randint(len(pairs), (BATCH,))].T
            ranks = network(chain_inputs[torch.cat([better, worse])])[:, 0].view(2, -1)
            loss = plcc_loss(network(inputs[chosen])[:, 0], mos[chosen])
            loss = loss + RANK_WEIGHT * F.softplus(ranks[1] - ranks[0]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        networks.append(network.eval())
    with torch.no_grad():
        parts = []
        for network in networks:
            # Each to the same spread, since PLCC leaves the scale open.
            predicted = network(inputs)[:, 0]
            parts.append((network[1], network[3], predicted.std() * NETWORKS, predicted.mean()))
        reader.up.copy_(torch.cat([up.weight for up, *_ in parts]))
        reader.up_bias.copy_(torch.cat([up.bias for up, *_ in parts]))
        reader.down.copy_(torch.cat([down.weight[0] / spread for _, down, spread, _ in parts]))
        reader.bias.copy_(sum((down.bias[0] - mean) / spread for _, down, spread, mean in parts))


def pairs_of(pictures: Sequence[Picture]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of pictures: (pairs, 2) of one chain, the better one first; undamaged ones; the last of their chains."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        members[picture.chain].append(index)
    pairs, clean, last = [], [], []
    for chain in members.values():
        ordered = sorted(chain, key=lambda index: pictures[index].place)
        pairs += [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
        clean.append(ordered[0])
        last.append(ordered[-1])
    return torch.tensor(pairs), torch.tensor(clean), torch.tensor(last)


def fit_ranks(
    reader: LinearReader, x: Tensor, pictures: Sequence[Picture], *, steps: int, decay: float
) -> None:
    """Learn ranks within chains: a logistic loss on pairs of a chain, and on undamaged pictures against last ones."""
    inputs = set_scale(reader, x)
    pairs, clean, last = pairs_of(pictures)
    torch.manual_seed(0)
    linear = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=RANK_LEARNING_RATE, weight_decay=decay)
    for _ in range(steps):
        within = pairs[torch.randint(len(pairs), (RANK_PAIRS,))]
        ends = torch.stack([pool[torch.randint(len(pool), (RANK_ENDS,))] for pool in (clean, last)])
        better, worse = torch.cat([within.T, ends], 1)
        loss = F.softplus(linear(inputs[worse]) - linear(inputs[better])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        reader.weights.copy_(linear.weight[0])
        reader.bias.copy_(linear.bias[0])


@torch.no_grad()
def fit_distance(distance: Distance, x: Tensor, axes: int) -> None:
    """The `axes` principal axes of `x` (n, inputs), whitened; weak axes are not trusted to be as weak as they look."""
    inputs = set_scale(distance, x)
    centred = (inputs - inputs.mean(0)).double()
    _, values, directions = torch.linalg.svd(centred / len(x) ** 0.5, full_matrices=False)
    variances = values[:axes].square()
    floor = AXIS_FLOOR * variances.mean()
    distance.whitening.copy_(directions[:axes] / (variances + floor).sqrt()[:, None])


def fit_readers(
    readers: Readers,
    rated: Parts,
    mos: Tensor,
    held_out: Parts,
    held_out_mos: Tensor,
    chains: Parts,
    pictures: Sequence[Picture],
) -> dict[str, float]:
    """Fit all of `readers`; return the SRCC of each opinion, and of the quality, on the held-out photos.

    mos: those of the rated photos. held_out_mos: in [1, 5].
    """
    scene = rated[6][:, :SCENE_WIDTH]
    home, chained = (
        torch.cat([*parts[:5], parts[5], parts[6][:, :SCENE_WIDTH]], 1) for parts in (rated, chains)
    )
    fit_home(readers.home, home, mos, chained, pictures)
    tower = {"steps": TOWER_STEPS, "decay": TOWER_DECAY}
    fit_ranks(readers.tower, levelled(chains[:5]), pictures, **tower)
    fit_ranks(readers.native, levelled(chains[8:13]), pictures, **tower)
    fit_ranks(readers.scene, chains[6], pictures, steps=SCENE_STEPS, decay=SCENE_DECAY)
    undamaged = torch.tensor([picture.place == 0 for picture in pictures])
    fit_distance(readers.pristine, chains[6][undamaged, :PATCH_WIDTH], PRISTINE_AXES)
    fit_distance(readers.familiarity, torch.cat([levelled(rated[:5]), scene], 1), AXES)
    with torch.no_grad():
        raw = readers.raw_opinions(rated)
        readers.centre.copy_(raw.mean(0))
        readers.spread.copy_(raw.std(0))
        readers.shares.copy_(torch.tensor(SHARES))
        readers.threshold.copy_(torch.tensor(THRESHOLD))
        join(readers, held_out, held_out_mos)
        opinions = readers.opinions(held_out)
        names = ("home", *NAMES)
        found = {
            n: srcc(opinions[:, i].tolist(), held_out_mos.tolist()) for i, n in enumerate(names)
        }
        found["quality"] = srcc(readers(held_out)[:, 0].tolist(), held_out_mos.tolist())
    return found


def join(readers: Readers, parts: Parts, mos: Tensor) -> None:
    """Fit the line from the joined opinion to a score, and the error to expect, on held-out ratings in [1, 5]."""
    readers.line.copy_(torch.tensor([1.0, 3.0]))
    # Of the line 1 x + 3 the joined opinion comes back exactly.
    joined = 2 * torch.atanh(((readers(parts)[:, 0] - 3) / 2).clamp(-0.999, 0.999))
    target = 2 * torch.atanh(((mos - 3) / 2).clamp(-0.97, 0.97))
    slope, intercept = np.polyfit(joined.numpy(), target.numpy(), 1)
    # `squashed` bends around the middle of the scale, 3, and `target` is counted from there.
    readers.line.copy_(torch.tensor([slope, intercept + 3]))
    errors = (readers(parts)[:, 0] - mos).abs()
    opinions = readers.opinions(parts)
    disagreement = (opinions[:, 0] - opinions[:, 1:] @ readers.shares).abs()
    causes = torch.stack([torch.ones_like(errors), disagreement, readers.strangeness(parts)], 1)
    # Not negative, so that no cause makes a score look surer. The mean size of a Gaussian error is √(2/π) of its std.
    weights, _ = nnls(causes.double().numpy(), errors.double().numpy() * np.sqrt(np.pi / 2))
    readers.error.copy_(torch.tensor(weights))
