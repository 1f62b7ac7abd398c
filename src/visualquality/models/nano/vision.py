"""Pixels -> statistics -> image tokens: all of `nano` that comes before its decoder.

The tower turns an image into *statistics*: mean and standard deviation of each of five stages over the whole image
(3552 numbers), and of four stages over each cell of about 128 px (992 numbers a cell). Where the configuration says so,
the pixels' own statistics (`pixels.py`) stand between them. Training with a frozen tower computes these statistics once
an image and passes them in as `vision_features`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import NanoConfig, cells
from .pixels import PIXEL_WIDTH, pixel_statistics
from .tower import HEAD_CHANNELS, MIDDLE, SPREAD, STRIDE, TAP_CHANNELS, Tower

STAGE_WIDTHS = tuple(2 * channels for channels in (*TAP_CHANNELS, HEAD_CHANNELS))
GLOBAL_WIDTH = sum(STAGE_WIDTHS)
CELL_WIDTH = 2 * sum(TAP_CHANNELS)
LIMIT = 8.0  # what a projector reads is bounded to ± this many standard deviations
LATER = slice(2, 5)  # the later stages: those at strides 16 and 32, and the head

# Shapes that several functions share.
Patches = Float[Tensor, "patches d"]  # of all images; d = 3 * 32 * 32
Grids = Int[Tensor, "images 3"]  # (1, rows, columns) of each image, in patches
Statistics = Float[Tensor, " m"]  # of an image; how many depends on its number of cells
Stages = Sequence[Float[Tensor, "n _"]]  # statistics of n images, stage by stage
Rows = Float[Tensor, "n m"]  # one for each of n images or cells


def root(variance: Tensor) -> Tensor:
    """Standard deviation; of a constant map it is 1e-5, since the gradient of a root at 0 is infinite."""
    # Rounding may also make E[x²] - E[x]² slightly negative.
    return variance.clamp(min=1e-10).sqrt()


def moments(x: Tensor, average: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Mean and standard deviation under an average."""
    mean = average(x)
    # E[x²] - E[x]² is three times as fast as `var` on a CPU.
    variance = average(x.square()) - mean.square()
    return [mean, root(variance)]


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


class Projector(nn.Module):
    """Statistics -> hidden states: standardise, bound, and two layers.

    The bound keeps an image unlike all training images from drowning the rest of the prompt.
    """

    def __init__(self, inputs: int, outputs: int, limit: float):
        super().__init__()
        self.limit = limit
        # Mean and standard deviation over the training images; set once, before training.
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.up = nn.Linear(inputs, outputs)
        self.down = nn.Linear(outputs, outputs)

    def forward(self, x: Rows) -> Rows:
        return self.project(self.standardised(x))

    def standardised(self, x: Rows) -> Rows:
        """What `project` takes, in the number format of the weights."""
        bounded = standardised(x, self.mean, self.scale, self.limit)
        return bounded.to(self.up.weight.dtype)

    def project(self, standardised: Rows) -> Rows:
        """(n, inputs) -> (n, outputs)."""
        hidden = F.gelu(self.up(standardised))
        return self.down(hidden)


class LinearQuality(nn.Module):
    """A linear regression of quality on the later stages, and the hidden state that shows it to the decoder.

    Early stages and pixels predict quality well on images like the training images, and badly on others
    (benchmarks/transfer.py); the later stages carry over better. The regression is fitted by recipes/nano/ridge.py.
    """

    def __init__(self, hidden: int):
        super().__init__()
        inputs = sum(STAGE_WIDTHS[LATER])
        # Buffers, not parameters: they are solved for in closed form, and training leaves them alone.
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("weights", torch.zeros(inputs))
        self.projector = Projector(1, hidden, LIMIT)

    def levelled(self, stages: Stages) -> Rows:
        """Each image's statistics of a later stage with mean 0 and variance 1, then standardised."""
        normed = []
        for stage in stages[LATER]:
            # Within each image, so that only the pattern counts and not the strength, which contrast changes too.
            normed.append(F.layer_norm(stage.float(), stage.shape[1:]))
        together = torch.cat(normed, 1)
        return standardised(together, self.mean, self.scale, LIMIT)

    def read(self, stages: Stages) -> Float[Tensor, " n"]:
        """Quality, higher is better, on a scale of its own."""
        return self.levelled(stages) @ self.weights.float()

    def forward(self, stages: Stages) -> Rows:
        quality = self.read(stages)
        return self.projector(quality[:, None])


class Vision(nn.Module):
    """Pixels -> statistics -> image tokens."""

    def __init__(self, config: NanoConfig):
        super().__init__()
        hidden = config.text_config.hidden_size
        self.cell = config.cell
        self.max_cells = config.max_cells
        self.tower = Tower()
        self.pixels = config.pixels
        # One token each for the image as a whole.
        self.widths = STAGE_WIDTHS
        if config.pixels:
            self.widths += (PIXEL_WIDTH,)
        self.whole_width = sum(self.widths)
        # nano-base, which does not read the pixels' statistics, was trained without a bound.
        limit = LIMIT if config.pixels else math.inf
        self.stages = nn.ModuleList()
        for width in self.widths:
            self.stages.append(Projector(width, hidden, limit))
        self.cells = Projector(CELL_WIDTH, hidden, limit)
        self.quality = None
        if config.linear_quality:
            self.quality = LinearQuality(hidden)

    def statistics(self, image: Float[Tensor, "3 h w"]) -> Statistics:
        """One image's statistics, flat: first the five stages, then the pixels', then the cells row by row."""
        _, height, width = image.shape
        maps = self.tower(image[None])  # (1, channels, rows, columns) each
        whole = []
        for stage in maps:
            whole += moments(stage, lambda x: x.mean((2, 3)))
        result = torch.cat(whole, 1)[0]
        if self.pixels:
            # Back to levels from 0 to 255: the pixels as they are in the file, exactly in bfloat16 too.
            levels = (image * SPREAD + MIDDLE).float()
            result = torch.cat([result, pixel_statistics(levels)])
        # No cells of the head: it is computed place by place from the stage before it, which has them.
        rows, columns = cells(
            height // STRIDE,
            width // STRIDE,
            self.cell,
            self.max_cells,
        )
        local = []
        for stage in maps[:-1]:
            local += moments(stage, lambda x: F.adaptive_avg_pool2d(x, (rows, columns)))
        # (CELL_WIDTH, rows, columns) -> (rows * columns, CELL_WIDTH)
        local_map = torch.cat(local, 1)[0]
        by_cell = local_map.flatten(1).T
        return torch.cat([result, by_cell.flatten()])

    def encode(self, pixel_values: Patches, image_grid_thw: Grids) -> list[Statistics]:
        """Each image's statistics."""
        sizes = image_grid_thw.prod(1).tolist()
        grids = image_grid_thw.tolist()
        by_image = pixel_values.split(sizes)
        dtype = self.tower.stem.weight.dtype
        result = []
        # One image at a time: images differ in size, and batches of large maps are slower on a CPU.
        for patches, (_, rows, columns) in zip(by_image, grids, strict=True):
            # (rows * columns, 3 * 32 * 32) -> (3, rows * 32, columns * 32)
            image = patches.view(rows, columns, 3, STRIDE, STRIDE)
            image = image.permute(2, 0, 3, 1, 4)
            image = image.reshape(3, rows * STRIDE, columns * STRIDE)
            result.append(self.statistics(image.to(dtype)))
        return result

    def forward(self, features: list[Statistics]) -> Float[Tensor, "tokens hidden"]:
        """The tokens of all images, one image after another: those of the whole image, then its cells."""
        whole = torch.stack([numbers[: self.whole_width] for numbers in features])
        parts = whole.split(self.widths, 1)
        tokens = []
        for stage, numbers in zip(self.stages, parts, strict=True):
            tokens.append(stage(numbers))
        if self.quality is not None:
            # Added to a token that is there already, so that the prompt keeps its length.
            tokens[-1] = tokens[-1] + self.quality(parts)
        whole_tokens = torch.stack(tokens, 1)  # (images, tokens, hidden)
        # Images have different numbers of cells. All go through the projector in one call.
        local = [numbers[self.whole_width :] for numbers in features]
        by_cell = torch.cat(local).view(-1, CELL_WIDTH)
        counts = [len(numbers) // CELL_WIDTH for numbers in local]
        cell_tokens = self.cells(by_cell).split(counts)
        result: list[Tensor] = []
        for pair in zip(whole_tokens, cell_tokens, strict=True):
            result += pair
        return torch.cat(result)
