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

BINS, ZONES = 32, 8  # of the 256 levels
EDGES = (0, 2, 4, 8, 12, 16, 24, 32)  # levels from either end; the share of pixels up to each
RARE = 2e-5  # share of the pixels below which a level at the ends counts as empty
SIZES = 3  # texture is measured in full size, half and a quarter
LAGS = (1, 2, 4, 8)  # pixels
GRID = 8  # side of JPEG's blocks, in pixels
RINGS, RAYS = 24, 8  # of the spectrum, by frequency and by direction
BAND = (0.08, 0.4)  # cycles a pixel, where directions are compared
WIDTHS = {  # how many numbers each function below gives
    "tones": 4 * (BINS + 2 * len(EDGES) + 4 + 2 * ZONES),
    "palette": 1,
    "texture": 6 * SIZES + 4,
    "directions": 8 * len(LAGS),
    "grid": 2 * (GRID + 1),
    "spectrum": RINGS + 1 + RAYS + 1,
    "flat": 5,
}
PIXEL_WIDTH = sum(WIDTHS.values())


def pixel_statistics(image: Float[Tensor, "3 h w"]) -> Float[Tensor, " m"]:
    """The m = PIXEL_WIDTH numbers of RGB in [0, 255], both sides at least 32."""
    levels = image.round().clamp(0, 255).to(torch.uint8)
    luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    planes = torch.stack([luma, image[2] - luma, image[0] - luma]) / 255
    parts = [*tones(torch.cat([levels, luma.round().to(torch.uint8)[None]])), palette(levels)]
    parts += [
        *texture(planes),
        *directions(planes[0]),
        *grid(planes[0]),
        *spectrum(planes[0]),
        *flat(levels),
    ]
    return torch.cat([part.flatten() for part in parts])


def tones(levels: Int[Tensor, "planes h w"]) -> list[Tensor]:
    """For each plane's histogram: coarse shares, its two ends, and gaps and teeth by zone."""
    shares = (
        torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in levels])
        / levels[0].numel()
    )
    edges = torch.tensor(EDGES, device=levels.device)
    ends = [log(part.cumsum(1)[:, edges], 1e-4) for part in (shares, shares.flip(1))]
    filled = (shares > RARE).float()
    first, last = filled.argmax(1), 255 - filled.flip(1).argmax(1)
    at_ends = [log(shares.gather(1, at[:, None]), 1e-4) for at in (first, last)]
    around = F.pad((shares[:, :-2] + 2 * shares[:, 1:-1] + shares[:, 2:]) / 4, (1, 1))
    teeth = F.pad((shares[:, 1:-1] - (shares[:, :-2] + shares[:, 2:]) / 2).abs(), (1, 1))
    gaps = ((shares == 0) & (F.max_pool1d(shares[:, None], 5, 1, 2)[:, 0] > 1e-3)).float()

    def zones(values: Tensor) -> Tensor:
        return values.view(len(values), ZONES, -1).sum(2)

    return [
        shares.view(len(shares), BINS, -1).sum(2).sqrt(),
        *ends,
        torch.stack([first, last], 1) / 255,
        *at_ends,
        zones(teeth) / (zones(around) + 1e-3),
        zones(gaps) / (256 / ZONES),
    ]


def palette(levels: Int[Tensor, "3 h w"]) -> Float[Tensor, ""]:
    """Log of the number of colours (64 levels a channel) per pixel, counted over every fifth pixel."""
    red, green, blue = (levels.flatten(1)[:, ::5] >> 2).int()
    colours = torch.bincount((red << 12) | (green << 6) | blue, minlength=1 << 18)
    return ((colours > 0).sum() / len(red)).log()


def texture(planes: Float[Tensor, "3 h w"]) -> list[Tensor]:
    """How far pixels are from the mean of their four neighbours, in luma and colour.

    Mean and root mean square at three sizes, and the mean in four zones of brightness.
    """
    found, x = [], planes
    for size in range(SIZES):
        centre = x[:, 1:-1, 1:-1]
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1]
        around += x[:, 1:-1, :-2]
        around += x[:, 1:-1, 2:]
        apart = torch.sub(centre, around, alpha=0.25)
        found += distances(apart)
        if size == 0:
            zone = (centre[0, ::2, ::2] * 4).long().clamp(0, 3)
            found.append(log(means(zone, apart[0, ::2, ::2].abs(), 4), 1e-4))
        x = F.avg_pool2d(x, 2)
    return found


def distances(apart: Float[Tensor, "*planes h w"]) -> list[Tensor]:
    """Log of the mean and of the root mean square of differences, in two passes and without a copy."""
    number = apart.shape[-2] * apart.shape[-1]
    mean = torch.linalg.vector_norm(apart, 1, dim=(-2, -1)) / number
    return [log(mean), log(torch.linalg.vector_norm(apart, dim=(-2, -1)) / math.sqrt(number))]


def directions(luma: Float[Tensor, "h w"]) -> list[Tensor]:
    """How far pixels are from others at a few distances across, down and along both diagonals."""
    found = []
    for lag in LAGS:
        pairs = (
            (luma[:, lag:], luma[:, :-lag]),
            (luma[lag:], luma[:-lag]),
            (luma[lag:, lag:], luma[:-lag, :-lag]),
            (luma[lag:, :-lag], luma[:-lag, lag:]),
        )
        for a, b in pairs:
            found += distances(a - b)
    return found


def grid(luma: Float[Tensor, "h w"]) -> list[Tensor]:
    """Steps between neighbours at each of the 8 places of a JPEG block, over their mean, the largest first.

    Sorted, so that it does not matter where the grid begins. And the share of neighbours without any step.
    """
    found = []
    for plane in (luma, luma.T):
        steps = (plane[:, 1:] - plane[:, :-1]).abs()
        by_column = steps.mean(0)
        by_place = by_column[: len(by_column) // GRID * GRID].view(-1, GRID).mean(0)
        ranked = (by_place / by_place.mean().clamp(min=1e-6)).sort(descending=True).values
        found += [log(ranked, 1e-3), (steps < 1e-4).float().mean()]
    return found


def spectrum(luma: Float[Tensor, "h w"]) -> list[Tensor]:
    """Log power by frequency, from 0 to half a cycle a pixel and into the corners; and how it differs by direction."""
    windows = [torch.hann_window(side, device=luma.device) for side in luma.shape]
    power = (
        torch.fft.rfft2((luma - luma.mean()) * windows[0][:, None] * windows[1]).abs().square()
        / luma.numel()
    )
    ring, middle, ray = (places.to(luma.device) for places in frequencies(*luma.shape))
    by_ring = means(ring, power, RINGS + 1)
    by_ray = means(ray, log(power.flatten()[middle], 1e-12), RAYS)
    return [
        log(by_ring, 1e-9),
        (by_ray - by_ray.mean()).abs().sort(descending=True).values,
        by_ray.max() - by_ray.min(),
    ]


@lru_cache(maxsize=16)
def frequencies(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ring of each place of a spectrum; which places are in `BAND`, and the ray of each of these."""
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    radius = (down.square() + across.square()).sqrt()
    middle = ((radius > BAND[0]) & (radius < BAND[1])).flatten().nonzero()[:, 0]
    angle = (
        torch.atan2(down.expand_as(radius), across.expand_as(radius)) / math.pi + 0.5
    )  # 0 to 1 for half a turn
    ray = (angle * RAYS).long().clamp(0, RAYS - 1).flatten()[middle]
    return (radius * (2 * RINGS)).long().clamp(max=RINGS), middle, ray


def flat(levels: Int[Tensor, "3 h w"]) -> list[Tensor]:
    """Shares of windows of 3 x 3 and 5 x 5 pixels of one colour, middle tones and clipped ones (of green) apart.

    And the share of corners of flat blocks that differ from what is to the left and above: a pasted block has one.
    """
    red, green, blue = levels.int()
    colour = (red << 16) | (green << 8) | blue
    right, below = colour[:, 1:] == colour[:, :-1], colour[1:] == colour[:-1]
    green = green.short()
    clipped = (green <= 2) | (green >= 253)
    found = []
    for side in (3, 5):
        window = eroded(eroded(right, side - 1, 1), side, 0)
        window &= eroded(eroded(below, side - 1, 0), side, 1)
        ends = clipped[: window.shape[0], : window.shape[1]]
        found += [log((window & ~ends).float().mean()), log((window & ends).float().mean())]
        if side == 3:
            left, above = (green[:, 1:] - green[:, :-1]).abs(), (green[1:] - green[:-1]).abs()
            rows, columns = window.shape
            corner = (window & ~ends)[1:, 1:]
            corner &= (left[1:rows, : columns - 1] > 12) & (above[: rows - 1, 1:columns] > 12)
            found.append(log(corner.float().mean()))
    return found


def eroded(x: Bool[Tensor, "h w"], count: int, axis: int) -> Bool[Tensor, "_ _"]:
    """Whether `count` places in a row, from each place on along `axis`, all hold."""
    length = x.shape[axis] - count + 1
    result = x.narrow(axis, 0, length).clone()
    for offset in range(1, count):
        result &= x.narrow(axis, offset, length)
    return result


def means(
    groups: Int[Tensor, "*shape"], values: Float[Tensor, "*shape"], count: int
) -> Float[Tensor, " count"]:
    """The mean of each group's values; 0 for one that is empty."""
    total = torch.bincount(groups.flatten(), weights=values.flatten(), minlength=count)
    return (total / torch.bincount(groups.flatten(), minlength=count).clamp(min=1)).to(values.dtype)


def log(values: Tensor, least: float = 1e-6) -> Tensor:
    """Of values from 0 on; `least` is what can be told from 0."""
    return (values + least).log()
