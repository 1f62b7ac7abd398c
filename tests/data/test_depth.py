"""Samples of any number of bits become the same 8 bits, by the header of their file, or by `assume_bits`."""

import io

import numpy as np
import pytest
from PIL import Image

from odd_images import DEFLATE, LONG, SHORT, png_of, tiff
from visualquality.data.images import image_digest, open_image, read_image
from visualquality.errors import UserError

LEVELS = np.arange(256).reshape(16, 16)
COLOURS = np.stack([LEVELS, LEVELS[::-1], LEVELS.T], axis=-1)
WHITE_IS_ZERO, RGB, CMYK = 0, 2, 5  # PhotometricInterpretation
SIGNED, FLOAT = 2, 3  # SampleFormat


def scaled(values: np.ndarray, white: int) -> np.ndarray:
    return np.rint(values * (white / 255)).astype(np.int64)


def written(tmp_path, data: bytes):
    path = tmp_path / "image"
    path.write_bytes(data)
    return path


def pixels(path, **options) -> np.ndarray:
    return np.asarray(open_image(path, **options)).astype(int)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


LAYOUTS = [
    {},
    {"order": ">"},
    {"compression": DEFLATE, "rows_per_strip": 5},
    {"compression": DEFLATE, "predictor": 2, "tile": (16, 32), "order": ">"},
    {"fill_order": 2},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bits", [*range(9, 17), 20, 24, 31, 32])
def test_tiff_of_more_than_8_bits_is_the_same_image(tmp_path, bits, layout):
    white = 2**bits - 1
    path = written(tmp_path, tiff(scaled(LEVELS, white), bits, **layout))
    assert (pixels(path) == grey(LEVELS)).all()
    assert read_image(path).warnings == ()
    inverted = tiff(white - scaled(LEVELS, white), bits, photometric=WHITE_IS_ZERO, **layout)
    assert (pixels(written(tmp_path, inverted)) == grey(LEVELS)).all()


@pytest.mark.parametrize("bits", range(1, 8))
def test_tiff_of_fewer_bits_keeps_all_of_its_levels(tmp_path, bits):
    white = 2**bits - 1
    levels = np.arange(256).reshape(16, 16) % (white + 1)
    path = written(tmp_path, tiff(levels, bits))
    assert (pixels(path) == grey(np.rint(levels * (255 / white)))).all()
    if bits > 1:
        colours = np.stack([levels, levels[::-1], levels.T], axis=-1)
        path = written(tmp_path, tiff(colours, bits, photometric=RGB))
        assert (pixels(path) == np.rint(colours * (255 / white))).all()


@pytest.mark.parametrize("layout", [*LAYOUTS, {"planar": True}], ids=str)
@pytest.mark.parametrize("bits", [10, 12, 16, 32])
def test_colour_tiff_of_more_than_8_bits(tmp_path, bits, layout):
    deep = tiff(scaled(COLOURS, 2**bits - 1), bits, photometric=RGB, **layout)
    assert (pixels(written(tmp_path, deep)) == COLOURS).all()


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_values_are_black_at_0(tmp_path, bits):
    white = 2 ** (bits - 1) - 1
    stored = scaled(LEVELS, white)
    path = written(tmp_path, tiff(stored, bits, kind=SIGNED))
    assert (pixels(path) == grey(np.rint(stored * (255 / white)))).all()


def test_values_below_0_have_no_black(tmp_path):
    path = written(tmp_path, tiff(LEVELS * 128 - 9, 16, kind=SIGNED))
    with pytest.raises(UserError, match="values below 0"):
        open_image(path)
    # Of 8 bits everybody takes them for unsigned ones.
    path = written(tmp_path, tiff(LEVELS, 8, kind=SIGNED))
    assert (pixels(path) == grey(LEVELS)).all()
    assert "signed" in read_image(path).warnings[0]


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("layout", [{}, {"compression": DEFLATE, "predictor": 3, "order": ">"}])
def test_floats_are_white_at_1(tmp_path, bits, layout):
    path = written(tmp_path, tiff(COLOURS / 255, bits, kind=FLOAT, photometric=RGB, **layout))
    assert (pixels(path) == COLOURS).all()
    inverted = tiff(1 - LEVELS / 255, bits, kind=FLOAT, photometric=WHITE_IS_ZERO, **layout)
    assert (pixels(written(tmp_path, inverted)) == grey(LEVELS)).all()


def test_every_kind_of_16_bit_file_is_the_same_image(tmp_path):
    """As palette, RGBA and CMYK of 8 bits are: to the last digit."""
    alpha = np.full((16, 16, 1), 255)
    ink = np.concatenate([255 - grey(LEVELS), 0 * alpha], axis=-1)
    header = b"P5 16 16 65535\n"
    files = [
        tiff(LEVELS * 257, 16),
        tiff(grey(LEVELS) * 257, 16, photometric=RGB),
        tiff(np.concatenate([grey(LEVELS), alpha], -1) * 257, 16, photometric=RGB),
        tiff(ink * 257, 16, photometric=CMYK),
        png_of(LEVELS * 257),
        png_of(np.concatenate([LEVELS[..., None], alpha], -1) * 257),
        png_of(grey(LEVELS) * 257),
        header + (LEVELS * 257).astype(">u2").tobytes(),
        b"P6" + header[2:] + (grey(LEVELS) * 257).astype(">u2").tobytes(),
    ]
    for mode in ("L", "RGB", "RGBA", "P", "CMYK"):
        file = io.BytesIO()
        Image.fromarray(LEVELS.astype(np.uint8)).convert(mode).save(file, "TIFF")
        files.append(file.getvalue())
    digests = {image_digest(open_image(written(tmp_path, data))) for data in files}
    assert digests == {image_digest(open_image(LEVELS.astype(np.uint8)))}


@pytest.mark.parametrize("maxval", [100, 1023, 4095, 16383])
def test_maxval_of_a_pgm_is_white(tmp_path, maxval):
    size = 1 if maxval < 256 else 2
    for kind, levels in ((b"P5", LEVELS), (b"P6", COLOURS)):
        stored = scaled(levels, maxval)
        data = kind + b" 16 16 %d\n" % maxval + stored.astype(f">u{size}").tobytes()
        found = pixels(written(tmp_path, data), assume_bits=16)
        right = np.rint(stored * (255 / maxval))
        # Pillow rounds to 16 bits first, or 8.
        assert np.abs(found - (grey(right) if kind == b"P5" else right)).max() <= 1
        assert read_image(written(tmp_path, data)).warnings == ()


def containers(bits: int) -> dict[str, bytes]:
    """Files that hold `bits` in more, and do not say so."""
    values, colours = scaled(LEVELS, 2**bits - 1), scaled(COLOURS, 2**bits - 1)
    pam = b" 16 16 65535\n"
    return {
        "TIFF 16": tiff(values, 16),
        "TIFF 32": tiff(values, 32),
        "TIFF 32 signed": tiff(values, 32, kind=SIGNED),
        "TIFF colour": tiff(colours, 16, photometric=RGB),
        "PNG": png_of(values),
        "PNG colour": png_of(colours),
        "PNG alpha": png_of(np.concatenate([colours, colours[..., :1] * 0 + 65535], -1)),
        "PGM": b"P5" + pam + values.astype(">u2").tobytes(),
        "PPM": b"P6" + pam + colours.astype(">u2").tobytes(),
    }


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", containers(8))
def test_a_depth_that_the_header_leaves_open_is_a_warning_and_can_be_said(tmp_path, name, bits):
    path = written(tmp_path, containers(bits)[name])
    opened = read_image(path)
    (warning,) = opened.warnings
    assert f"--assume-bits {bits}" in warning
    assert np.asarray(opened.image).max() < 70  # as the header says: nearly black
    told = read_image(path, assume_bits=bits)
    assert told.warnings == ()
    right = COLOURS if "colour" in name or "alpha" in name or name == "PPM" else grey(LEVELS)
    assert (np.asarray(told.image) == right).all()
    with pytest.raises(UserError, match=r"7 bits cannot hold.*leave --assume-bits out"):
        open_image(path, assume_bits=7)


def test_arrays_may_hold_fewer_bits_too():
    values = scaled(LEVELS, 4095).astype(np.uint16)
    assert "--assume-bits 12" in read_image(values).warnings[0]
    assert (np.asarray(open_image(values, assume_bits=12)) == grey(LEVELS)).all()
    # Black is black in any number of bits.
    assert read_image(np.zeros((4, 4), np.uint16)).warnings == ()


def test_a_header_that_states_fewer_bits_is_believed(tmp_path):
    stated = tiff(scaled(LEVELS, 4095), 16, more={281: (SHORT, [4095])})
    assert (pixels(written(tmp_path, stated)) == grey(LEVELS)).all()
    # Some write the largest value that there is, which need not be of the form 2^n - 1.
    other = tiff(scaled(LEVELS, 4095), 16, more={281: (SHORT, [4000])})
    assert "--assume-bits 12" in read_image(written(tmp_path, other)).warnings[0]


def test_32_bits_of_unknown_white_are_refused_until_it_is_said(tmp_path):
    path = written(tmp_path, tiff(scaled(LEVELS, 2**20 - 1), 32))
    with pytest.raises(UserError, match=r"unknown white point.*--assume-bits"):
        open_image(path)
    assert (pixels(path, assume_bits=20) == grey(LEVELS)).all()


def test_deep_tiff_is_turned_upright(tmp_path):
    path = written(tmp_path, tiff(scaled(LEVELS, 4095)[:7], 12, more={274: (SHORT, [6])}))
    assert (pixels(path) == grey(np.rot90(LEVELS[:7], -1))).all()


def test_alpha_of_deep_files_is_composited_on_white(tmp_path):
    alpha = np.tile(np.arange(0, 256, 16), (16, 1))
    right = np.rint(COLOURS * (alpha / 255)[..., None] + 255 - alpha[..., None])
    stored = np.concatenate([COLOURS, alpha[..., None]], -1) * 257
    for data in (tiff(stored, 16, photometric=RGB, more={338: (SHORT, [2])}), png_of(stored)):
        assert np.abs(pixels(written(tmp_path, data)) - right).max() <= 1
    premultiplied = np.concatenate([COLOURS * alpha[..., None] // 255, alpha[..., None]], -1) * 257
    data = tiff(premultiplied, 16, photometric=RGB, more={338: (SHORT, [1])})
    assert np.abs(pixels(written(tmp_path, data)) - right).max() <= 2


def test_a_header_cannot_ask_for_more_memory_than_its_image_needs(tmp_path):
    many = {277: (SHORT, [60_000]), 258: (SHORT, [16])}
    huge = {322: (LONG, [2**20]), 323: (LONG, [2**20])}
    for more in (many, huge):
        deep = tiff(LEVELS * 257, 16, tile=(16, 16), more=more)
        with pytest.raises(UserError):
            open_image(written(tmp_path, deep))
