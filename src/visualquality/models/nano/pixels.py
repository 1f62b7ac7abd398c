"""Statistics of an image's pixels that a convolution network averages away: its histogram and its fine texture.

A tone curve, a palette or a shift leaves gaps, teeth and steps in the histogram (Stamm and Liu 2010, "Forensic
detection of image manipulation using statistical intrinsic fingerprints"). Noise, blur and compression change the
differences between neighbouring pixels, as in BRISQUE and NIQE (`classics.nss`), and the spectrum. A pasted block is
flat to the last bit. These are plain numbers, made without weights. The processor cuts images to the tower's stride
where it can, since resampling would remove most of these traces.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

# Of the 256 levels of a histogram.
BINS = 32
ZONES = 8
EDGES = (0, 2, 4, 8, 12, 16, 24, 32)  # levels from either end; the share of pixels up to each
RARE = 2e-5  # share of the pixels below which a level at the ends counts as empty
SIZES = 3  # texture is measured in full size, half and a quarter
LAGS = (1, 2, 4, 8)  # pixels
GRID = 8  # side of JPEG's blocks, in pixels
# Of the spectrum, by frequency and by direction.
RINGS = 24
RAYS = 8
BAND = (0.08, 0.4)  # cycles a pixel, where directions are compared
CORNER_STEP = 12  # levels that a corner of a pasted block must differ by from what is beside it
# How many numbers the functions below give.
PIXEL_WIDTH = sum(
    (
        4 * (BINS + 2 * len(EDGES) + 4 + 2 * ZONES),  # tones
        1,  # palette
        6 * SIZES + 4,  # texture
        8 * len(LAGS),  # directions
        2 * (GRID + 1),  # grid
        RINGS + 1 + RAYS + 1,  # spectrum
        5,  # flat
    )
)

Levels = Int[Tensor, "planes h w"]  # uint8
Luma = Float[Tensor, "h w"]  # from 0 to 1
Places = Bool[Tensor, "_ _"]


def pixel_statistics(image: Float[Tensor, "3 h w"]) -> Float[Tensor, " m"]:
    """The m = PIXEL_WIDTH numbers of RGB in [0, 255], both sides at least 32."""
    red, green, blue = image
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # as in JPEG (ITU-R BT.601)
    # Colour noise and JPEG's coarser colours hardly show in luma, hence the two differences.
    planes = torch.stack([luma, blue - luma, red - luma])
    planes = planes / 255
    levels = image.round().clamp(0, 255).to(torch.uint8)
    luma_levels = luma.round().to(torch.uint8)
    # The order is part of the weights: each number has its own mean and scale in the projector.
    parts = [
        *tones(torch.cat([levels, luma_levels[None]])),
        palette(levels),
        *texture(planes),
        *directions(planes[0]),
        *grid(planes[0]),
        *spectrum(planes[0]),
        *flat(levels),
    ]
    return torch.cat([part.flatten() for part in parts])


def tones(levels: Levels) -> list[Tensor]:
    """For each plane's histogram: coarse shares, its two ends, and gaps and teeth by zone."""
    counts = []
    for plane in levels:
        counts.append(torch.bincount(plane.flatten(), minlength=256))
    shares = torch.stack(counts) / levels[0].numel()  # (planes, 256)
    reverse = shares.flip(1)

    # Cumulated from black and from white: clipping and lost contrast.
    edges = torch.tensor(EDGES, device=levels.device)
    from_black = shares.cumsum(1)[:, edges]
    from_white = reverse.cumsum(1)[:, edges]

    # The first and the last level in use, and how full they are: a shift of all tones moves them.
    first = first_filled(shares)
    last = 255 - first_filled(reverse)
    at_first = shares.gather(1, first[:, None])
    at_last = shares.gather(1, last[:, None])

    # Teeth: levels that differ from the mean of their two neighbours, as where a curve merged levels.
    here = shares[:, 1:-1]
    below = shares[:, :-2]
    above = shares[:, 2:]
    smooth = (below + 2 * here + above) / 4
    teeth = (here - (below + above) / 2).abs()
    # Levels 0 and 255 lack a neighbour.
    smooth_by_zone = group_sums(F.pad(smooth, (1, 1)), ZONES)
    teeth_by_zone = group_sums(F.pad(teeth, (1, 1)), ZONES)

    # Gaps: empty levels near well filled ones, as where a curve stretched contrast.
    nearby = F.max_pool1d(shares[:, None], 5, stride=1, padding=2)[:, 0]
    gaps = (shares == 0) & (nearby > 1e-3)

    return [
        group_sums(shares, BINS).sqrt(),  # the root brings small shares closer to large ones
        log(from_black, 1e-4),
        log(from_white, 1e-4),
        torch.stack([first, last], 1) / 255,
        log(at_first, 1e-4),
        log(at_last, 1e-4),
        # Relative to the pixels of each zone, so that a sparsely filled zone shows its teeth too.
        teeth_by_zone / (smooth_by_zone + 1e-3),
        group_sums(gaps.float(), ZONES) / (256 / ZONES),
    ]


def first_filled(shares: Tensor) -> Tensor:
    filled = shares > RARE
    return filled.float().argmax(1)  # the first of equal values


def group_sums(values: Tensor, groups: int) -> Tensor:
    """(planes, 256) -> (planes, groups), of neighbouring levels."""
    grouped = values.view(len(values), groups, -1)
    return grouped.sum(2)


def palette(levels: Levels) -> Float[Tensor, ""]:
    """Log of the number of colours (64 levels a channel) per pixel, counted over every fifth pixel."""
    sample = levels.flatten(1)[:, ::5]
    red, green, blue = (sample >> 2).int()
    # Counting all 2^18 possible colours is faster than sorting the pixels for `unique`.
    colours = (red << 12) | (green << 6) | blue
    counts = torch.bincount(colours, minlength=1 << 18)
    used = (counts > 0).sum()
    return (used / len(red)).log()


def texture(planes: Float[Tensor, "3 h w"]) -> list[Tensor]:
    """How far pixels are from the mean of their four neighbours, in luma and colour.

    Mean and root mean square at three sizes, and the mean in four zones of brightness.
    """
    found = []
    for size in range(SIZES):
        centre = planes[:, 1:-1, 1:-1]
        up = planes[:, :-2, 1:-1]
        down = planes[:, 2:, 1:-1]
        neighbours = up + down
        # In place, since a new tensor for each sum costs more time than the sum.
        neighbours += planes[:, 1:-1, :-2]
        neighbours += planes[:, 1:-1, 2:]
        apart = torch.sub(centre, neighbours, alpha=0.25)
        found += distances(apart)
        if size == 0:
            # Noise of a camera depends on brightness, added noise does not. A quarter of the pixels is enough.
            luma = centre[0, ::2, ::2]
            luma_apart = apart[0, ::2, ::2].abs()
            zone = (luma * 4).long().clamp(0, 3)
            by_zone = means(zone, luma_apart, 4)
            found.append(log(by_zone, 1e-4))
        # Halved, fine noise averages out and coarse blur comes into view.
        planes = F.avg_pool2d(planes, 2)
    return found


def distances(apart: Float[Tensor, "*planes h w"]) -> list[Tensor]:
    """Log of the mean and of the root mean square of differences."""
    height, width = apart.shape[-2:]
    number = height * width
    sides = (-2, -1)
    # Norms need no copy for |x| and x².
    mean = torch.linalg.vector_norm(apart, 1, dim=sides) / number
    norm = torch.linalg.vector_norm(apart, dim=sides)
    root_mean_square = norm / math.sqrt(number)
    return [log(mean), log(root_mean_square)]


def directions(luma: Luma) -> list[Tensor]:
    """How far pixels are from others at a few distances across, down and along both diagonals."""
    found = []
    for lag in LAGS:
        # All four, since motion blur brings pixels closer along its own direction only.
        found += distances(luma[:, lag:] - luma[:, :-lag])
        found += distances(luma[lag:] - luma[:-lag])
        found += distances(luma[lag:, lag:] - luma[:-lag, :-lag])
        found += distances(luma[lag:, :-lag] - luma[:-lag, lag:])
    return found


def grid(luma: Luma) -> list[Tensor]:
    """Steps between neighbours at each of the 8 places of a JPEG block, over their mean, the largest first.

    Sorted, so that it does not matter where the grid begins. And the share of neighbours without any step.
    """
    found = []
    for plane in (luma, luma.T):  # steps across, then down
        steps = (plane[:, 1:] - plane[:, :-1]).abs()
        by_column = steps.mean(0)
        # What fills no whole block is left out: each place gets equally many columns.
        whole = len(by_column) // GRID * GRID
        by_place = by_column[:whole].view(-1, GRID).mean(0)
        average = by_place.mean().clamp(min=1e-6)  # 0 in an image of one colour
        ranked = (by_place / average).sort(descending=True).values
        without_step = steps < 1e-4  # far less than one level, 1 / 255
        found.append(log(ranked, 1e-3))
        found.append(without_step.float().mean())
    return found


def spectrum(luma: Luma) -> list[Tensor]:
    """Log power by frequency, from 0 to half a cycle a pixel and into the corners; and how it differs by direction."""
    height, width = luma.shape
    # Windowed, or the step between opposite borders would show as a bright cross.
    down = torch.hann_window(height, device=luma.device)
    across = torch.hann_window(width, device=luma.device)
    windowed = (luma - luma.mean()) * down[:, None] * across
    transform = torch.fft.rfft2(windowed)
    power = transform.abs().square() / luma.numel()

    found = frequencies(height, width)
    ring, middle, ray = (places.to(luma.device) for places in found)
    by_ring = means(ring, power, RINGS + 1)
    # Logs before the mean: a few strong frequencies of an edge would outweigh all others of its ray.
    log_power = log(power.flatten()[middle], 1e-12)
    by_ray = means(ray, log_power, RAYS)
    # Sorted, so that it does not matter which direction stands out.
    uneven = (by_ray - by_ray.mean()).abs()
    return [
        log(by_ring, 1e-9),
        uneven.sort(descending=True).values,
        by_ray.max() - by_ray.min(),
    ]


@lru_cache(maxsize=16)
def frequencies(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ring of each place of a spectrum; the indices of the places in `BAND`, and the ray of each of these."""
    # In cycles a pixel; of a real image the other half of the columns would be the same again.
    down = torch.fft.fftfreq(height)[:, None]
    across = torch.fft.rfftfreq(width)[None]
    radius = (down.square() + across.square()).sqrt()
    ring = (radius * (2 * RINGS)).long()
    # Low frequencies are too few for a direction; the highest are mostly noise.
    in_band = (radius > BAND[0]) & (radius < BAND[1])
    middle = in_band.flatten().nonzero()[:, 0]
    angle = torch.atan2(down.expand_as(radius), across.expand_as(radius))
    half_turn = angle / math.pi + 0.5  # from 0 to 1
    ray = (half_turn * RAYS).long().clamp(0, RAYS - 1)
    # The corners, beyond half a cycle a pixel, share the last ring.
    return ring.clamp(max=RINGS), middle, ray.flatten()[middle]


def flat(levels: Levels) -> list[Tensor]:
    """Shares of windows of 3 x 3 and 5 x 5 pixels of one colour, middle tones and clipped ones (of green) apart.

    And the share of corners of flat blocks that differ from what is to the left and above: a pasted block has one.
    """
    red, green, blue = levels.int()
    # Three channels in one number, so that one comparison is enough.
    colour = (red << 16) | (green << 8) | blue
    same_right = colour[:, 1:] == colour[:, :-1]
    same_below = colour[1:] == colour[:-1]
    green = green.short()  # half the memory of int and, unlike uint8, with a sign
    # Over- and underexposed areas of a good photo are flat as well.
    clipped = (green <= 2) | (green >= 253)
    found = []
    for side in (3, 5):
        # One colour: all neighbours in the window's rows and in its columns are equal.
        rows_equal = eroded(same_right, side - 1, 1)
        columns_equal = eroded(same_below, side - 1, 0)
        window = eroded(rows_equal, side, 0) & eroded(columns_equal, side, 1)
        height, width = window.shape
        window_clipped = clipped[:height, :width]  # its first pixel stands for all
        middle_tones = window & ~window_clipped
        found.append(log_share(middle_tones))
        found.append(log_share(window & window_clipped))
        if side == 3:
            found.append(log_share(corners(middle_tones, green)))
    return found


def corners(window: Places, green: Tensor) -> Places:
    """Which flat windows differ clearly from the pixels to the left of and above their first pixel."""
    height, width = window.shape
    step_left = (green[:, 1:] - green[:, :-1]).abs() > CORNER_STEP
    step_above = (green[1:] - green[:-1]).abs() > CORNER_STEP
    # Without the first row and column, which have nothing above or to the left.
    window = window[1:, 1:]
    step_left = step_left[1:height, : width - 1]
    step_above = step_above[: height - 1, 1:width]
    return window & step_left & step_above


def eroded(x: Places, count: int, axis: int) -> Places:
    """Whether `count` places in a row, from each place on along `axis`, all hold."""
    length = x.shape[axis] - count + 1
    result = x.narrow(axis, 0, length).clone()
    for offset in range(1, count):
        result &= x.narrow(axis, offset, length)
    return result


def means(groups: Tensor, values: Tensor, count: int) -> Float[Tensor, " count"]:
    """The mean of each group's values; 0 for one that is empty. `groups` has the shape of `values`."""
    groups = groups.flatten()
    sums = torch.bincount(groups, weights=values.flatten(), minlength=count)
    sizes = torch.bincount(groups, minlength=count)
    average = sums / sizes.clamp(min=1)
    # `bincount` sums weights that are not float32 in float64.
    return average.to(values.dtype)


def log(values: Tensor, least: float = 1e-6) -> Tensor:
    """The logarithm of values from 0 on; `least` is added, so that 0 has one."""
    return (values + least).log()


def log_share(places: Places) -> Tensor:
    return log(places.float().mean())
