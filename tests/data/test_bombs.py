"""Images that are made to take all memory or hours end in one sentence before their pixels are decoded."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from torture.bombs import BOMBS, MAY_OPEN, jpeg_scans, jpeg_segments
from visualquality.data.images import image_faults, open_image
from visualquality.errors import UserError

# Those that take a second to make, or 100 MB, are for tests/torture/bombs.py alone.
SLOW = {name for name in BOMBS if "1 GB" in name or "of 1 MB" in name or "98 MP" in name}


@pytest.mark.parametrize("name", sorted(BOMBS.keys() - SLOW))
def test_a_bomb_is_one_sentence_at_once(name, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name]())
    started = time.perf_counter()
    if name in MAY_OPEN:
        assert max(open_image(path).size) <= 100
    else:
        with pytest.raises(UserError, match=r".*bomb\S* .+: .+") as found:
            open_image(path)
        assert "\n" not in str(found.value)
    # Decoded, each takes a minute or gigabytes.
    assert time.perf_counter() - started < 20


def test_a_tiled_tiff_whose_tiles_are_far_larger_than_it_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS["tiff LZW tile of 2 GB"]())
    (fault,) = image_faults([path])
    assert "tiles of 2,048,000,000 pixels" in str(fault)


def test_honest_files_are_still_read(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "made here"
    # Flat, and as large as a photo of 24 megapixels: a few hundred bytes are enough for it.
    flat = Image.new("RGB", (6000, 4000))
    cases = [
        (photo, {"format": "JPEG", "progressive": True, "exif": exif}),
        (photo, {"format": "TIFF", "compression": "tiff_deflate"}),
        (flat, {"format": "WEBP", "lossless": True}),
        (photo, {"format": "PPM"}),
    ]
    for number, (image, options) in enumerate(cases):
        path = tmp_path / str(number)
        image.save(path, **options)
        assert open_image(path).size == image.size


@pytest.mark.parametrize("scans", [1, 99])
def test_a_progressive_jpeg_may_have_many_scans(scans, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_scans(64, scans))
    assert open_image(path).size == (64, 64)


def test_a_few_segments_of_exif_are_no_bomb(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_segments(0xE1, b"Exif\0\0", 3))
    assert open_image(path).size == (16, 16)


def test_a_ppm_with_a_comment_is_read(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n# made by hand\n40 40\n255\n" + bytes(40 * 40 * 3))
    assert open_image(path).size == (40, 40)


def test_nothing_of_exif_is_in_a_copy():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    Image.new("RGB", (64, 32)).save(buffer := io.BytesIO(), "JPEG", exif=exif, comment="here")
    opened = open_image(Image.open(buffer))
    assert opened.size == (32, 64)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        opened.save(copy := io.BytesIO(), kind)
        assert b"Maker" not in copy.getvalue()
        assert not dict(Image.open(copy).getexif().get_ifd(0x8825))
