"""What of a picture `nano` looks at besides the whole: its native pixels, and not its plain borders.

A picture that is larger than the whole view is made smaller for it, and faint noise, compression and softness vanish.
So a few windows are cut out of it and read as they are.
"""

import numpy as np
from PIL import Image

from .tower import STRIDE

WINDOWS = 4
WINDOW = 10 * STRIDE  # pixels of a side
FIT = 1.02  # a picture at most this many times `max_pixels` counts as native: its sides are rounded to strides
ACTIVE = 640  # pixels of the shorter side, about, of the copy on which detail is measured
# A border: rows or columns of one colour, up to so many levels, as after JPEG; at most this share of a side, and on
# opposite sides equally wide, up to so many pixels or this share.
PLAIN = 10
MOST_BORDER = 0.35
UNEVEN, UNEVEN_SHARE = 16, 0.1
COLUMNS, ROWS = 0, 1  # as in a size of Pillow
LINES = 32


def native_windows(image: Image.Image, max_pixels: int) -> list[Image.Image]:
    """Up to WINDOWS windows of equal size, a multiple of 32 pixels each way; none if the whole view is native.

    Of a grid of windows that do not overlap, those with the most detail are taken: softness, noise and blocks show
    there, as in NIQE, and not in a sky.
    """
    if image.width * image.height <= FIT * max_pixels:
        return []
    width, height = (min(WINDOW, side // STRIDE * STRIDE) for side in image.size)
    if not (width and height):  # a strip thinner than a stride: the whole view is all there is
        return []
    corners = [
        (left, top)
        for top in spread(image.height - height, image.height // height)
        for left in spread(image.width - width, image.width // width)
    ]
    detail = detail_of(image, corners, (width, height))
    # A stable sort: of equal windows the upper left ones are taken.
    best = sorted(range(len(corners)), key=lambda i: -detail[i])[:WINDOWS]
    boxes = [(*corners[i], corners[i][0] + width, corners[i][1] + height) for i in sorted(best)]
    return [image.crop(box) for box in boxes]


def spread(room: int, count: int) -> list[int]:
    """`count` positions from 0 to `room`, evenly spread."""
    return [round(position) for position in np.linspace(0, room, count)]


def detail_of(
    image: Image.Image, corners: list[tuple[int, int]], size: tuple[int, int]
) -> list[float]:
    """The mean step between neighbouring pixels of each window, on a reduced copy."""
    factor = max(1, round(min(image.size) / ACTIVE))
    small = np.asarray(image.reduce(factor).convert("L"), dtype=np.float32)
    steps = np.abs(np.diff(small, axis=1))[:-1] + np.abs(np.diff(small, axis=0))[:, :-1]
    found = []
    for left, top in corners:
        rows = slice(top // factor, max(top // factor + 1, (top + size[1]) // factor))
        columns = slice(left // factor, max(left // factor + 1, (left + size[0]) // factor))
        part = steps[rows, columns]
        found.append(float(part.mean()) if part.size else 0.0)
    return found


def trimmed(image: Image.Image) -> Image.Image:
    """The RGB image without plain borders: bars of a film, a frame, the margin of a scan.

    Bars come in pairs. What is plain on one side only, or wider there, is taken for a part of the picture, such as a
    sky. The image itself where there is no border.
    """
    top, bottom = bars(image, ROWS)
    left, right = bars(image, COLUMNS)
    if not (top or left):
        return image
    return image.crop((left, top, image.width - right, image.height - bottom))


def bars(image: Image.Image, axis: int) -> tuple[int, int]:
    """How many of the first and of the last rows (or columns) are bars; (0, 0) where they are none."""
    first, last = plain_lines(image, axis, from_end=False), plain_lines(image, axis, from_end=True)
    wider, narrower = max(first, last), min(first, last)
    even = wider - narrower <= max(UNEVEN, UNEVEN_SHARE * wider)
    # Where all of the image is plain, both are all of it.
    if narrower > 0 and even and wider <= MOST_BORDER * image.size[axis]:
        return first, last
    return 0, 0


def plain_lines(image: Image.Image, axis: int, *, from_end: bool) -> int:
    """How many rows (or columns) from one side have the colour of the outermost, which must be of one colour."""
    length = image.size[axis]
    colour = None
    # A few lines at a time: most pictures have no border, and a large one need not be copied as a whole.
    for start in range(0, length, LINES):
        lines = (start, min(start + LINES, length))
        if from_end:
            lines = (length - lines[1], length - lines[0])
        box = (0, lines[0], image.width, lines[1])
        if axis == COLUMNS:
            box = (lines[0], 0, lines[1], image.height)
        block = np.asarray(image.crop(box), dtype=np.int16)
        if axis == COLUMNS:
            block = block.transpose(1, 0, 2)
        if from_end:
            block = block[::-1]
        if colour is None:
            if np.ptp(block[0], axis=0).max() > PLAIN:
                return 0
            colour = np.median(block[0], axis=0)
        differs = np.abs(block - colour).max((1, 2)) > PLAIN
        if differs.any():
            return start + int(differs.argmax())
    return length
