"""Readers of quality: what `nano` thinks of an image before its decoder says it.

A reader that learnt from the ratings of one set of photos is the best judge of such photos, and a poor one of other
kinds of pictures. Readers that learnt without ratings are weaker at home and carry over better: ranks within chains of
damage, read off the tower or off the statistics of natural scenes, and the distance from undamaged photos (as NIQE).
So there are both, and the less an image is like the rated photos, the more the second kind counts.

Everything here is fitted by recipes/nano/readers.py and never changed by training: buffers, not parameters.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .pixels import PIXEL_WIDTH
from .scene import PATCH_WIDTH, SCENE_WIDTH
from .tower import HEAD_CHANNELS, TAP_CHANNELS

STAGE_WIDTHS = tuple(2 * channels for channels in (*TAP_CHANNELS, HEAD_CHANNELS))
GLOBAL_WIDTH = sum(STAGE_WIDTHS)
LATER = slice(2, 5)  # the later stages: those at strides 16 and 32, and the head
LATER_WIDTH = sum(STAGE_WIDTHS[LATER])
LIMIT = 8.0  # what a projector or a reader takes is bounded to ± this many standard deviations

Rows = Float[Tensor, "n m"]  # one for each of n images
Values = Float[Tensor, " n"]
Stages = Sequence[Float[Tensor, "n _"]]  # statistics of n images, stage by stage


def standardised(
    x: Rows,
    mean: Float[Tensor, " m"],
    scale: Float[Tensor, " m"],
    limit: float,
) -> Rows:
    """`x` in standard deviations from the mean, bounded to ± `limit`."""
    # In float32 whatever the weights are: a mean may be many standard deviations away from 0.
    deviations = (x.float() - mean.float()) / scale.float()
    return deviations.clamp(-limit, limit)


def levelled(stages: Stages) -> Rows:
    """The later stages, each brought to mean 0 and variance 1 within each image.

    Only the pattern counts then and not the strength, which contrast changes too.
    """
    normed = [F.layer_norm(stage.float(), stage.shape[1:]) for stage in stages[LATER]]
    return torch.cat(normed, 1)


class LinearReader(nn.Module):
    """A linear function of standardised inputs."""

    def __init__(self, inputs: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("weights", torch.zeros(inputs))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, x: Rows) -> Values:
        bounded = standardised(x, self.mean, self.scale, LIMIT)
        return bounded @ self.weights.float() + self.bias.float()


class PerceptronReader(nn.Module):
    """Standardised inputs, one hidden layer, one number: the mean of several small networks stands in one."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("up", torch.zeros(hidden, inputs))
        self.register_buffer("up_bias", torch.zeros(hidden))
        self.register_buffer("down", torch.zeros(hidden))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, x: Rows) -> Values:
        bounded = standardised(x, self.mean, self.scale, LIMIT)
        hidden = F.gelu(bounded @ self.up.float().T + self.up_bias.float())
        return hidden @ self.down.float() + self.bias.float()


class Distance(nn.Module):
    """How far an image is from a set of images: the Mahalanobis distance on fixed axes, by the root of their number.

    About 1 for the images of the set. As in NIQE, but for the covariance of the image's own patches: what is inverted
    is fixed when the reader is fitted, so nothing has to be inverted here.
    """

    def __init__(self, inputs: int, axes: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        # Each row is an axis, divided by the set's standard deviation along it.
        self.register_buffer("whitening", torch.zeros(axes, inputs))

    def forward(self, x: Rows) -> Values:
        bounded = standardised(x, self.mean, self.scale, LIMIT)
        return (bounded @ self.whitening.float().T).square().mean(1).clamp(min=1e-8).sqrt()


# Of `Readers`.
HIDDEN = 192
AXES = 64  # of the distance from the rated photos
PRISTINE_AXES = 36  # of the distance from undamaged photos, as many as NIQE has features
NAMES = ("tower", "native", "scene", "pristine")  # readers that no rating went into


class Readers(nn.Module):
    """All readers, and the rule that joins them.

    home: learnt from ratings. tower, native: ranks within chains, read off the later stages of the whole image and of
    its native windows. scene: such ranks, read off the statistics of natural scenes and the size. pristine: distance
    from undamaged photos. familiarity: distance from the rated photos.
    """

    def __init__(self) -> None:
        super().__init__()
        rated = GLOBAL_WIDTH + PIXEL_WIDTH + SCENE_WIDTH
        self.home = PerceptronReader(rated, HIDDEN)
        self.tower = LinearReader(LATER_WIDTH)
        self.native = LinearReader(LATER_WIDTH)
        self.scene = LinearReader(SCENE_WIDTH + 1)
        self.pristine = Distance(PATCH_WIDTH, PRISTINE_AXES)
        self.familiarity = Distance(LATER_WIDTH + SCENE_WIDTH, AXES)
        # Mean and standard deviation over the rated photos of the home reader and of those in NAMES.
        self.register_buffer("centre", torch.zeros(1 + len(NAMES)))
        self.register_buffer("spread", torch.ones(1 + len(NAMES)))
        self.register_buffer("shares", torch.zeros(len(NAMES)))  # of the others, in their mean
        self.register_buffer(
            "threshold", torch.zeros(2)
        )  # distance at which both sides count alike; its width
        self.register_buffer("line", torch.zeros(2))  # joined opinion -> score: slope and intercept
        self.register_buffer(
            "error", torch.zeros(3)
        )  # expected error: constant, disagreement, distance

    def opinions(self, parts: Sequence[Rows]) -> Rows:
        """(n, 1 + len(NAMES)): the home reader and the others, in standard deviations over the rated photos."""
        return standardised(self.raw_opinions(parts), self.centre, self.spread, LIMIT)

    def raw_opinions(self, parts: Sequence[Rows]) -> Rows:
        """The same, each on a scale of its own."""
        whole, native = parts[:5], parts[8:13]
        sized_scene = parts[6]
        scene = sized_scene[:, :SCENE_WIDTH]
        found = [
            self.home(torch.cat([*whole, parts[5], scene], 1)),
            self.tower(levelled(whole)),
            self.native(levelled(native)),
            self.scene(sized_scene),
            # The mean over patches: its deviation and the mean of sharp ones are left to the reader before.
            -self.pristine(scene[:, :PATCH_WIDTH]),
        ]
        return torch.stack(found, 1)

    def strangeness(self, parts: Sequence[Rows]) -> Values:
        """How unlike the rated photos an image is; about 1 for them."""
        return self.familiarity(torch.cat([levelled(parts[:5]), parts[6][:, :SCENE_WIDTH]], 1))

    def forward(self, parts: Sequence[Rows]) -> Float[Tensor, "n 2"]:
        """Quality from 1 to 5, and how far it may be off (a standard deviation), of the parts of `Vision.widths`."""
        opinions = self.opinions(parts)
        home, others = opinions[:, 0], opinions[:, 1:] @ self.shares.float()
        distance = self.strangeness(parts)
        middle, width = self.threshold.float()
        trust = torch.sigmoid((middle - distance) / width)
        joined = trust * home + (1 - trust) * others
        slope, intercept = self.line.float()
        quality = squashed(slope * joined + intercept)
        causes = torch.stack([torch.ones_like(home), (home - others).abs(), distance], 1)
        return torch.stack([quality, causes @ self.error.float()], 1)


def squashed(score: Values) -> Values:
    """A score without bounds -> one between 1 and 5, in the same order: straight in the middle, bent at the ends."""
    return 3 + 2 * torch.tanh((score - 3) / 2)
