"""`open_image` on everything that users' folders hold; digests."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageSequence, PngImagePlugin

from odd_images import png
from visualquality.data.images import image_digest, image_faults, open_image
from visualquality.errors import UserError

WHITE, RED = (255, 255, 255), (255, 0, 0)


@pytest.fixture(autouse=True)
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def photo(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 9, columns * 7, rows * columns], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent_palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return image


def pixels(image: Image.Image) -> list[tuple[int, int, int]]:
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


GREY_16 = np.array([[0, 200, 32896, 65535]], dtype=np.uint16)
UNIT = np.array([[0, 1 / 255, 128 / 255, 1]], dtype=np.float32)
GREYS = [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("16 bit.png", encoded(Image.fromarray(GREY_16), "PNG"), GREYS),
        ("16 bit.tif", encoded(Image.fromarray(GREY_16), "TIFF"), GREYS),
        ("mode I.tif", encoded(Image.fromarray(GREY_16.astype(np.int32)), "TIFF"), GREYS),
        ("mode I.pgm", encoded(Image.fromarray(GREY_16), "PPM"), GREYS),
        ("float.tif", encoded(Image.fromarray(UNIT), "TIFF"), GREYS),
        ("16 bit colour.png", png(16, 2, 1, 1, b"\0" + struct.pack(">3H", 257, 0, 65535)), [(1, 0, 255)]),
        ("bilevel.png", encoded(Image.new("1", (1, 1), 1), "PNG"), [WHITE]),
        ("cmyk.tif", encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [RED]),
        ("palette.png", encoded(transparent_palette(), "PNG"), [RED, (0, 0, 255)]),
        ("palette index.png", encoded(transparent_palette(), "PNG", transparency=1), [RED, WHITE]),
        ("palette bytes.png", encoded(transparent_palette(), "PNG", transparency=b"\xff\x00"), [RED, WHITE]),
        ("palette.gif", encoded(transparent_palette(), "GIF", transparency=1), [RED, WHITE]),
        ("alpha.png", encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "PNG"), [(255, 204, 204)]),
        ("alpha.webp", encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", lossless=True), [WHITE]),
        ("grey alpha.png", encoded(Image.new("LA", (1, 1), (0, 51)), "PNG"), [(204, 204, 204)]),
        ("key.png", png(8, 2, 2, 1, b"\0\x09\x09\x09\xff\0\0", (b"tRNS", b"\0\x09" * 3)), [WHITE, RED]),
        ("no such suffix", encoded(Image.new("RGB", (1, 1), RED), "BMP"), [RED]),
    ],
)  # fmt: skip
def test_every_kind_of_pixel_becomes_rgb(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    assert pixels(open_image(path)) == expected
    with Image.open(path) as lazy:
        assert pixels(open_image(lazy)) == expected
    assert image_faults([path]) == [None]


# EXIF 2.3, tag 274, values 1 to 8: the side of the upright photo that row 0, and column 0, of the file is.
ROW_0 = ("top", "top", "bottom", "bottom", "left", "right", "right", "left")
COLUMN_0 = ("left", "right", "right", "left", "top", "top", "bottom", "bottom")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, kind, orientation):
    upright = Image.new("RGB", (64, 32), "white")  # four corners that no turn leaves in place
    for corner, colour in {(0, 0): "red", (32, 0): "lime", (0, 16): "blue"}.items():
        upright.paste(colour, (*corner, corner[0] + 32, corner[1] + 16))
    row_0, column_0 = ROW_0[orientation - 1], COLUMN_0[orientation - 1]
    stored = np.asarray(upright)
    if row_0 in ("left", "right"):
        stored = stored.transpose(1, 0, 2)
    stored = stored[::-1] if row_0 in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column_0 in ("right", "bottom") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo"
    path.write_bytes(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif))
    opened = open_image(path)
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(upright)).mean() < 8  # lossy kinds
    assert open_image(opened).tobytes() == opened.tobytes()
    with Image.open(path) as lazy:
        assert open_image(lazy).tobytes() == opened.tobytes()


def test_colour_spaces_that_round():
    white = open_image(Image.new("LAB", (1, 1), (255, 128, 128)))
    assert min(pixels(white)[0]) > 250
    with Image.open(
        io.BytesIO(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    ) as printed:
        assert np.abs(np.array(pixels(open_image(printed))) - RED).max() < 9


def test_damaged_exif_is_no_orientation(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03"))
    assert open_image(path).size == photo().size
    assert image_faults([path]) == [None]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "moving"
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert set(pixels(open_image(path))) == {RED}
    with Image.open(path) as lazy:  # and a PIL image the frame it stands at
        last = list(ImageSequence.Iterator(lazy))[-1]
        assert set(pixels(open_image(last))) == {(0, 0, 255)}


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_sizes(tmp_path, size):
    path = tmp_path / "strip (1) copy.png"
    Image.new("RGB", size, RED).save(path)
    assert open_image(path).size == size


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [(0, 0, 0), WHITE]),
        (np.array([[[0], [255]]], np.uint8), [(0, 0, 0), WHITE]),
        (np.array([[[255, 0, 0]]], np.uint8)[:, ::-1], [RED]),
        (np.array([[[255, 0, 0, 51]]], np.uint8), [(255, 204, 204)]),
        (GREY_16, GREYS),
        (np.full((1, 1, 3), 65535, ">u2"), [WHITE]),
        (np.array([[True, False]]), [WHITE, (0, 0, 0)]),
        (np.array([[[1, 0, 0]]], np.float32), [RED]),
        (np.array([[0.25, 1]], np.float64), [(64, 64, 64), WHITE]),
    ],
)
def test_arrays(array, expected):
    assert pixels(open_image(array)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 2), np.int64), "dtype int64"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros(5, np.uint8), "shape"),
        (np.zeros((1, 1, 1, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((1, 1), 1.5), r"outside \[0, 1\]"),
        (np.full((1, 1), np.nan), r"outside \[0, 1\]"),
        (Image.new("RGB", (0, 3)), "no pixels"),
        (Image.new("I", (1, 1), 70_000), "32-bit"),
        (Image.new("I", (1, 1), -1), "below 0"),
        (Image.new("F", (1, 1), 200.0), r"outside \[0, 1\]"),
        (b"bytes", "not as bytes"),
    ],
)
def test_values_of_unknown_meaning_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        open_image(given)


def test_the_callers_image_is_not_changed():
    for mode in ("RGB", "La", "RGBa", "PA", "I;16", "YCbCr", "HSV", "RGBX"):
        mine = Image.new(mode, (2, 2))
        before = mine.tobytes()
        opened = open_image(mine)
        opened.putpixel((0, 0), (1, 2, 3))
        assert (mine.mode, mine.tobytes()) == (mode, before)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.97])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("AVIF", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("GIF", {}), ("PPM", {}),
    ],
)  # fmt: skip
def test_truncated(tmp_path, capfd, kind, options, fraction):
    data = encoded(photo(64, 64), kind, **options)
    path = tmp_path / "cut (1).img"
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(UserError, match=r"cut \(1\)\.img is truncated"):
        open_image(path)
    assert capfd.readouterr().err == ""


BOMB = png(8, 0, 60_000, 60_000, b"")
TEXT_BOMB = png(8, 0, 1, 1, b"\0\0", (b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000))))
VECTOR = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
LARGE = png(8, 0, 10_000, 10_001, b"")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.png", b"", "is empty"),
        ("text.png", b"<html>404</html>" * 9, "is not an image that can be read"),
        ("zeros.jpg", bytes(500), "is not an image that can be read"),
        ("vector.eps", VECTOR, r"a drawing or a document \(\.eps\), which is not read"),
        ("bomb.png", BOMB, "60000 × 60000 pixels, more than"),
        ("text bomb.png", TEXT_BOMB, "damaged"),
        ("large.png", LARGE, "10000 × 10001 pixels, more than the 100,000,000 allowed.*--max-image-pixels"),
    ],
)  # fmt: skip
def test_refused_from_the_header(tmp_path, monkeypatch, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("pixels were decoded")
    )
    with pytest.raises(UserError, match=message) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert [str(error) for error in image_faults([path])] == [str(caught.value)]


def test_max_pixels_holds_for_every_kind_of_image_and_can_be_raised(tmp_path):
    path = tmp_path / "a.png"
    photo(10, 10).save(path)
    for image in (path, photo(10, 10), np.zeros((10, 10, 3), np.uint8)):
        assert open_image(image, max_image_pixels=100).size == (10, 10)
        with pytest.raises(UserError, match="10 × 10 pixels, more than the 99 allowed"):
            open_image(image, max_image_pixels=99)
    between = tmp_path / "between.png"  # where Pillow would warn, but we allow
    between.write_bytes(png(1, 0, 9_600, 9_600, b""))
    assert image_faults([between]) == [None]


def test_paths_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("loop.png", tmp_path / "loop.png")
    (tmp_path / "file").touch()
    for name, message in {
        "missing.png": "missing.png does not exist",
        "file/a.png": "does not exist",
        ".": "is a folder",
        "pipe.png": "is a device or pipe",
        "loop.png": "cannot be read",
        "n" * 300: "cannot be read",
        "a\0b.png": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=message):
            open_image(str(tmp_path / name))


def test_digest_is_of_the_pixels_and_the_size(tmp_path):
    assert image_digest(open_image(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))) == PINNED
    digests = set()
    for kind, options in [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]:
        (tmp_path / kind).write_bytes(encoded(photo(), kind, **options))
        digests.add(image_digest(open_image(tmp_path / kind)))
    assert len(digests) == 1
    changed = photo()
    changed.putpixel((3, 3), (1, 1, 1))
    shapes = [Image.new("RGB", size) for size in [(4, 1), (1, 4), (2, 2)]]  # the same bytes
    assert len(digests | {image_digest(image) for image in [changed, *shapes]}) == 5
    with pytest.raises(ValueError, match="mode L"):
        image_digest(Image.new("L", (1, 1)))


PINNED = "05aa0b3c9fb42a93e9cb7fab63c88510"
