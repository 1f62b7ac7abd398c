"""Native windows of a large image, and the borders that are cut off before anything is looked at."""

import io

import numpy as np
import pytest
from PIL import Image

from conftest import picture
from visualquality.models.nano import NanoImageProcessor
from visualquality.models.nano.tower import STRIDE
from visualquality.models.nano.views import (
    MOST_BORDER,
    WINDOW,
    WINDOWS,
    native_windows,
    trimmed,
)

MOST = 256 * 256


def with_places(width: int, height: int) -> Image.Image:
    """An image whose pixels say where they are."""
    y, x = np.mgrid[:height, :width]
    high = (x >> 8) | ((y >> 8) << 4)
    return Image.fromarray(np.stack([x & 255, high, y & 255], 2).astype(np.uint8))


def places(window: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The columns and rows of `with_places` that a window's pixels come from."""
    low_x, high, low_y = np.asarray(window).astype(int).transpose(2, 0, 1)
    return low_x + ((high & 15) << 8), low_y + ((high >> 4) << 8)


@pytest.mark.parametrize("size", [(1500, 1100), (700, 330), (321, 3000), (2000, 40), (270, 260)])
def test_windows_are_native_pixels_inside_the_image_that_do_not_overlap(size):
    windows = native_windows(with_places(*size), MOST)
    assert 1 <= len(windows) <= WINDOWS
    seen = np.zeros(size[::-1], dtype=int)
    for window in windows:
        assert window.size == windows[0].size
        assert all(side % STRIDE == 0 and 0 < side <= WINDOW for side in window.size)
        x, y = places(window)
        # Neighbours in the window are neighbours in the image: nothing was resized.
        assert (np.diff(x, axis=1) == 1).all()
        assert (np.diff(y, axis=0) == 1).all()
        np.add.at(seen, (y, x), 1)
    assert seen.max() == 1
    assert seen.sum() == sum(window.width * window.height for window in windows)


@pytest.mark.parametrize("size", [(256, 256), (64, 1024), (258, 257), (32, 32), (5, 5)])
def test_an_image_that_fits_has_no_windows(size):
    assert native_windows(picture(0, size), MOST) == []


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("row", range(3))
def test_the_part_with_most_detail_is_among_them(column, row):
    """Detail in one tile of a smooth image; the other tiles have little, so that the choice matters."""
    smooth = np.asarray(
        picture(1, (4, 3)).resize((4 * WINDOW, 3 * WINDOW), Image.Resampling.BICUBIC)
    )
    pixels = smooth.copy()
    part = slice(row * WINDOW, (row + 1) * WINDOW), slice(column * WINDOW, (column + 1) * WINDOW)
    noise = np.random.default_rng(0).integers(-40, 40, (WINDOW, WINDOW, 3))
    pixels[part] = np.clip(pixels[part] + noise, 0, 255)
    windows = native_windows(Image.fromarray(pixels), MOST)
    assert any(np.array_equal(np.asarray(window), pixels[part]) for window in windows)


def test_the_same_windows_each_time():
    image = picture(2, (1000, 700))
    first, second = (native_windows(image, MOST) for _ in range(2))
    assert [w.tobytes() for w in first] == [w.tobytes() for w in second]


@pytest.mark.parametrize(
    "size", [(1, 5000), (5000, 1), (20000, 3), (3, 20000), (31, 9000), (33, 9000), (1, 1)]
)
def test_strips_are_taken_too(size):
    """As the model takes them: whole, and in windows where a window fits."""
    found = NanoImageProcessor(max_pixels=96 * 96, extended=True)(picture(0, size))
    rows = found["window_grid"].prod(1).sum()
    assert len(found["window_values"]) == rows
    assert (rows > 0) == (min(size) >= STRIDE)
    assert found["image_sizes"].shape == (1, 2)
    assert len(found["pixel_values"]) == found["image_grid_thw"].prod() > 0


# Borders


def photo(width: int = 240, height: int = 180) -> Image.Image:
    """Shapes of moderate colour, with grain in luma, as most photos have it.

    JPEG's blocks are 8 pixels wide in luma and 16 in colour: beside vivid colours up to 16 pixels of a border may stay.
    """
    rng = np.random.default_rng(3)
    shapes = rng.integers(45, 210, (6, 8, 1)) + rng.integers(-25, 26, (6, 8, 3))
    small = Image.fromarray(shapes.astype(np.uint8))
    smooth = small.resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(4).normal(0, 12, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def framed(image: Image.Image, colour, left=0, top=0, right=0, bottom=0) -> Image.Image:
    size = (image.width + left + right, image.height + top + bottom)
    result = Image.new("RGB", size, colour)
    result.paste(image, (left, top))
    return result


def saved(image: Image.Image) -> Image.Image:
    """As a JPEG of quality 75, which rings beside the edge of a border."""
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=75)
    return Image.open(memory).convert("RGB")


BORDERS = {
    "white frame": ((255, 255, 255), (30, 30, 30, 30)),
    "black frame": ((0, 0, 0), (26, 18, 24, 20)),
    "letterbox": ((0, 0, 0), (0, 45, 0, 42)),
    "pillarbox": ((0, 0, 0), (70, 0, 66, 0)),
    "margin of a scan": ((235, 230, 215), (18, 26, 20, 27)),
}


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("encode", [lambda x: x, saved], ids=["as drawn", "as JPEG"])
def test_a_border_is_cut_off(name, encode):
    colour, (left, top, right, bottom) = BORDERS[name]
    image = encode(framed(photo(), colour, left, top, right, bottom))
    found = trimmed(image)
    assert all(0 <= side - own <= 16 for side, own in zip(found.size, photo().size, strict=True))
    # Where it was cut: the one place of the image where these pixels are.
    pixels, part = np.asarray(image), np.asarray(found)
    corners = [
        (x, y)
        for y in range(image.height - found.height + 1)
        for x in range(image.width - found.width + 1)
        if np.array_equal(pixels[y : y + 4, x : x + found.width], part[:4])
        and np.array_equal(pixels[y : y + found.height, x : x + found.width], part)
    ]
    assert len(corners) == 1
    assert 0 <= left - corners[0][0] <= 8
    assert 0 <= top - corners[0][1] <= 8
    assert 0 <= corners[0][0] + found.width - (left + photo().width) <= 8
    assert 0 <= corners[0][1] + found.height - (top + photo().height) <= 8


def test_a_photo_without_a_border_is_left_as_it_is():
    image = photo()
    assert trimmed(image) is image
    jpeg = saved(image)
    assert trimmed(jpeg) is jpeg


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 120, 30)])
def test_an_image_of_one_colour_is_left_as_it_is(colour):
    for size in ((200, 100), (1, 1), (1, 300)):
        image = Image.new("RGB", size, colour)
        assert trimmed(image) is image


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_what_is_plain_on_one_side_is_a_part_of_the_picture(side):
    """A sky without a cloud, for instance, or a table."""
    for width in (6, 20, 60):
        image = framed(photo(), (250, 250, 252), **{side: width})
        assert trimmed(image) is image
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    uneven = framed(photo(), (250, 250, 252), **{side: 60, opposite: 40})
    assert trimmed(uneven) is uneven
    even = framed(photo(), (250, 250, 252), **{side: 60, opposite: 56})
    assert trimmed(even).size == photo().size


@pytest.mark.parametrize("sides", [("left", "right"), ("top", "bottom")])
def test_a_product_on_a_wide_ground_is_left_as_it_is(sides):
    for share, cut in ((MOST_BORDER - 0.03, True), (MOST_BORDER + 0.03, False)):
        width = round(share / (1 - 2 * share) * 180)
        image = framed(photo(180, 180), (255, 255, 255), **dict.fromkeys(sides, width))
        assert trimmed(image).size == ((180, 180) if cut else image.size)
        assert (trimmed(image) is image) != cut


def test_bars_of_a_smooth_picture_end_where_it_begins_to_change():
    """Sky above and water below that grow brighter: only lines that hardly differ are taken for bars."""
    levels = np.linspace(120, 220, 60)
    rows = levels[:, None, None].repeat(240, 1).repeat(3, 2).astype(np.uint8)
    pixels = np.concatenate([rows, np.asarray(photo()), rows[::-1]])
    lost = (len(pixels) - trimmed(Image.fromarray(pixels)).height) // 2
    assert levels[lost] - levels[0] < 13


def test_nano_base_was_trained_with_borders_and_keeps_them():
    image = framed(photo(192, 128), (0, 0, 0), 32, 64, 32, 64)
    grids = [
        NanoImageProcessor(extended=e)(image)["image_grid_thw"].tolist() for e in (True, False)
    ]
    assert grids == [[[1, 4, 6]], [[1, 8, 8]]]
