"""Pixels -> statistics -> image tokens: all of `nano` that comes before its decoder.

The tower turns an image into *statistics*: mean and standard deviation of each of five stages over the whole image
(3552 numbers), and of four stages over each cell of about 128 px (992 numbers a cell). `nano`, which is `extended`, has
more of them in between, all at native resolution: the pixels' own (`pixels.py`), those of natural scenes (`scene.py`)
with the size of the image, and those of the tower's stages. From all of these its readers (`readers.py`) form an
opinion of the quality. Training with a frozen tower computes the statistics once an image and passes them in as
`vision_features`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import NanoConfig, cells
from .pixels import PIXEL_WIDTH, pixel_statistics
from .readers import LIMIT, STAGE_WIDTHS, Readers, Rows, Values, standardised
from .scene import SCENE_WIDTH, scene_statistics
from .tones import tone_statistics
from .tower import MIDDLE, SPREAD, STRIDE, TAP_CHANNELS, Tower

CELL_WIDTH = 2 * sum(TAP_CHANNELS)
SIZED_SCENE_WIDTH = SCENE_WIDTH + 1
# Statistics of an image that is looked at in every way, in their order.
WHOLE, PIXELS, SCENE, TONES, NATIVE = slice(0, 5), 5, 6, 7, slice(8, 13)
# Lowest and highest of what the decoder is told in numbers: tones, then the quality and how far it may be off.
TONE_RANGES = ((0.0, 255.0), (0.0, 128.0), (0.0, 160.0))
QUALITY_RANGES = ((1.0, 5.0), (0.0, 1.5))

# Shapes that several functions share.
Patches = Float[Tensor, "patches d"]  # of all images; d = 3 * 32 * 32
Grids = Int[Tensor, "images 3"]  # (1, rows, columns) of each image, in patches
Statistics = Float[Tensor, " m"]  # of an image; how many depends on its number of cells


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


class NumbersToken(nn.Module):
    """A few numbers -> one hidden state.

    Each number is spread over bumps along its range, (lowest, highest): the decoder is to say it exactly, so two close
    values must look different to it.
    """

    BUMPS = 33

    def __init__(self, ranges: Sequence[tuple[float, float]], hidden: int):
        super().__init__()
        self.ranges = tuple(ranges)
        self.projector = nn.Linear(self.BUMPS * len(self.ranges), hidden)

    def forward(self, numbers: Rows) -> Rows:
        spread = []
        for values, (low, high) in zip(numbers.float().unbind(1), self.ranges, strict=True):
            spread.append(bumps(values, low, high, self.BUMPS))
        return self.projector(torch.cat(spread, 1).to(self.projector.weight.dtype))


def bumps(values: Values, low: float, high: float, count: int) -> Rows:
    """(n,) -> (n, count): Gaussians around `count` centres from `low` to `high`, as wide as they are apart."""
    centres = torch.linspace(low, high, count, device=values.device)
    apart = (high - low) / (count - 1)
    bounded = values.float().clamp(low, high)
    return (-((bounded[:, None] - centres) / apart).square() / 2).exp()


class Vision(nn.Module):
    """Pixels -> statistics -> image tokens."""

    def __init__(self, config: NanoConfig):
        super().__init__()
        hidden = config.text_config.hidden_size
        self.cell = config.cell
        self.max_cells = config.max_cells
        self.tower = Tower()
        self.extended = config.extended
        self.widths = STAGE_WIDTHS
        if config.extended:
            self.widths += (PIXEL_WIDTH, SIZED_SCENE_WIDTH, len(TONE_RANGES), *STAGE_WIDTHS)
        self.whole_width = sum(self.widths)
        # nano-base was trained without a bound.
        limit = LIMIT if config.extended else math.inf
        # One token each for the image as a whole. The native stages have none: the readers see them.
        self.stages = nn.ModuleList()
        for width in self.widths[:TONES]:
            self.stages.append(Projector(width, hidden, limit))
        self.cells = Projector(CELL_WIDTH, hidden, limit)
        if config.extended:
            self.tones = NumbersToken(TONE_RANGES, hidden)
            self.readers = Readers()
            self.quality = NumbersToken(QUALITY_RANGES, hidden)

    def statistics(self, view: "View") -> Statistics:
        """One image's statistics, flat, in the order of `widths`; then the cells' row by row."""
        maps = self.tower(view.whole[None])  # (1, channels, rows, columns) each
        parts = stage_moments(maps)
        if self.extended:
            native, native_maps = view.whole[None], maps
            if len(view.windows):
                native, native_maps = view.windows, self.tower(view.windows)
            # Back to levels from 0 to 255: the pixels as they are in the file, exactly in bfloat16 too.
            levels = (native * SPREAD + MIDDLE).float()
            parts.append(torch.stack([pixel_statistics(window) for window in levels]).mean(0))
            parts.append(torch.cat([scene_statistics(levels), view.log_side[None]]))
            parts.append(tone_statistics((view.whole * SPREAD + MIDDLE).float()))
            parts += stage_moments(native_maps)
        # No cells of the head: it is computed place by place from the stage before it, which has them.
        _, height, width = view.whole.shape
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
        parts.append(local_map.flatten(1).T.flatten())
        return torch.cat([part.to(maps[0].dtype) for part in parts])

    def encode(
        self,
        pixel_values: Patches,
        image_grid_thw: Grids,
        window_values: Patches | None = None,
        window_grid: Grids | None = None,
        image_sizes: Int[Tensor, "images 2"] | None = None,
    ) -> list[Statistics]:
        """Each image's statistics. The last three arguments are for the extended model (`NanoImageProcessor`).

        Raises ValueError where that one does not get them.
        """
        dtype = self.tower.stem.weight.dtype
        wholes = images_of(pixel_values.to(dtype), image_grid_thw)
        windows = [whole[:, :0] for whole in wholes]
        sides = [wholes[0].new_zeros(()) for _ in wholes]
        if self.extended:
            if window_values is None or window_grid is None or image_sizes is None:
                raise ValueError(
                    "an extended nano takes window_values, window_grid and image_sizes beside pixel_values"
                )
            windows = images_of(window_values.to(dtype), window_grid)
            sides = list(image_sizes.float().log().mean(1))
        result = []
        # One image at a time: images differ in size, and batches of large maps are slower on a CPU.
        for whole, own_windows, side in zip(wholes, windows, sides, strict=True):
            result.append(self.statistics(View(whole[0], own_windows, side)))
        return result

    def forward(self, features: list[Statistics]) -> Float[Tensor, "tokens hidden"]:
        """The tokens of all images, one image after another: those of the whole image, then its cells."""
        whole = torch.stack([numbers[: self.whole_width] for numbers in features])
        parts = whole.split(self.widths, 1)
        tokens = [stage(numbers) for stage, numbers in zip(self.stages, parts, strict=False)]
        if self.extended:
            tokens.append(self.tones(parts[TONES]))
            tokens.append(self.quality(self.readers(parts)))
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


class View(NamedTuple):
    """What is looked at of one image: the whole, (3, h, w); native windows, (n, 3, h, w); log of the mean side."""

    whole: Tensor
    windows: Tensor
    log_side: Tensor


def images_of(values: Patches, grids: Grids) -> list[Float[Tensor, "n 3 h w"]]:
    """Patches -> the images, or windows of one size, of each (n, rows, columns) of `grids`."""
    result = []
    for patches, (n, rows, columns) in zip(
        values.split(grids.prod(1).tolist()), grids.tolist(), strict=True
    ):
        # (n * rows * columns, 3 * 32 * 32) -> (n, 3, rows * 32, columns * 32)
        images = patches.view(n, rows, columns, 3, STRIDE, STRIDE)
        images = images.permute(0, 3, 1, 4, 2, 5)
        result.append(images.reshape(n, 3, rows * STRIDE, columns * STRIDE))
    return result


def stage_moments(maps: list[Float[Tensor, "n c h w"]]) -> list[Float[Tensor, " m"]]:
    """Means and standard deviations of each stage over all windows of one image, a vector a stage."""
    parts = []
    for stage in maps:
        mean, deviation = moments(stage, lambda x: x.mean((0, 2, 3)))
        parts.append(torch.cat([mean, deviation]))
    return parts
