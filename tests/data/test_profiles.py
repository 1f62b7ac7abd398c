"""Embedded ICC profiles become sRGB, sRGB itself changes nothing, and what cannot be used is said."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from odd_images import UNDEFINED, iccp, png_of, profile, tiff
from visualquality.data.formats import profiles
from visualquality.data.images import image_digest, open_image, read_image

LEVELS = np.arange(256).reshape(16, 16)
COLOURS = np.stack([LEVELS, LEVELS[::-1], LEVELS.T], axis=-1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR, LINEAR_GREY = profile(1.0), profile(1.0, grey=True)


def linear(levels: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255] -> linear light in [0, 1] (IEC 61966-2-1)."""
    unit = levels / 255
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)


def saved(tmp_path, levels: np.ndarray, embedded: bytes, kind: str = "PNG", mode=None, **options):
    path = tmp_path / "image"
    image = Image.fromarray(levels.astype(np.uint8))
    if mode:
        image = image.convert(mode)
    image.save(path, kind, icc_profile=embedded, **options)
    return path


def pixels(path) -> np.ndarray:
    return np.asarray(open_image(path)).astype(int)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_linear_light_becomes_srgb(tmp_path, kind, options):
    path = saved(tmp_path, np.rint(linear(COLOURS) * 255), LINEAR, kind, **options)
    # 8 bits of linear light are few: dark tones are 13 levels apart.
    assert np.abs(pixels(path) - COLOURS).mean() < 2
    assert np.abs(pixels(path)[COLOURS > 100] - COLOURS[COLOURS > 100]).max() <= 2
    with Image.open(path) as lazy:  # and of a PIL image, which is left as it is
        assert (np.asarray(open_image(lazy)) == pixels(path)).all()
        assert (np.asarray(lazy) != np.asarray(open_image(lazy))).any()


def test_16_bits_of_linear_light_lose_nothing(tmp_path):
    deep, grey = np.rint(linear(COLOURS) * 65535), np.rint(linear(LEVELS) * 65535)
    more = {34675: (UNDEFINED, list(LINEAR))}
    same = np.repeat(LEVELS[..., None], 3, -1)
    for right, data in (
        (COLOURS, png_of(deep, iccp(LINEAR))),
        (COLOURS, tiff(deep.astype(int), 16, photometric=2, more=more)),
        (same, png_of(grey, iccp(LINEAR_GREY))),
        (same, png_of(grey, iccp(LINEAR))),
    ):
        (tmp_path / "image").write_bytes(data)
        assert np.abs(pixels(tmp_path / "image") - right).max() <= 1
        assert read_image(tmp_path / "image").warnings == ()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_srgb_leaves_pixels_exactly_as_they_are(tmp_path, mode):
    plain = open_image(Image.fromarray(COLOURS.astype(np.uint8)).convert(mode))
    path = saved(tmp_path, COLOURS, SRGB, mode=mode)
    assert image_digest(open_image(path)) == image_digest(plain)
    assert read_image(path).warnings == ()


def test_srgb_of_a_maker_who_rounds_is_srgb_too(tmp_path, monkeypatch):
    rounded = profile(None)
    assert (pixels(saved(tmp_path, COLOURS, rounded)) == COLOURS).all()
    # Taken for another profile, it would change some colours by a level.
    monkeypatch.setattr(profiles, "SRGB_TOLERANCE", -1)
    profiles._conversion.cache_clear()
    changed = np.abs(pixels(saved(tmp_path, COLOURS, rounded)) - COLOURS).max()
    profiles._conversion.cache_clear()
    assert 0 < changed <= 2


def test_grey_and_cmyk_profiles(tmp_path):
    path = saved(tmp_path, np.rint(linear(LEVELS) * 255), LINEAR_GREY)
    found = pixels(path)
    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0] - LEVELS)[LEVELS > 100].max() <= 2
    # No CMYK profile can be made here; one for other colours is not used, and the row says so.
    ink = saved(tmp_path, COLOURS, LINEAR, "TIFF", "CMYK")
    assert "for RGB, which its pixels are not" in read_image(ink).warnings[0]
    bare = Image.fromarray(COLOURS.astype(np.uint8)).convert("CMYK")
    assert image_digest(open_image(ink)) == image_digest(open_image(bare))


@pytest.mark.parametrize(
    "broken", [b"none", LINEAR[:200], bytes(3000), LINEAR[:16] + b"XXXX" + LINEAR[20:]]
)
def test_a_broken_profile_is_ignored_and_said(tmp_path, broken):
    path = saved(tmp_path, COLOURS, broken)
    assert (pixels(path) == COLOURS).all()
    assert read_image(path).warnings == ("its colour profile is damaged and was ignored",)


def test_transparency_survives_a_conversion(tmp_path):
    rgba = np.concatenate([np.rint(linear(COLOURS) * 255), np.zeros((16, 16, 1))], -1)
    assert (pixels(saved(tmp_path, rgba, LINEAR)) == 255).all()


def test_the_curves_are_those_of_littlecms():
    """Of the two ways, one for 8 bits and one for more, on a profile of other primaries and a parametric curve."""
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for embedded in (profile(1.8), profile(2.4)):
        one, _ = profiles.to_srgb(Image.fromarray(levels.copy()), embedded)
        other = profiles.deep_to_srgb(levels, 255, False, embedded)
        assert np.abs(np.asarray(one).astype(int) - other).max() <= 1


def test_transforms_are_looked_up_once(tmp_path, monkeypatch):
    path = saved(tmp_path, COLOURS, profile(1.7))
    open_image(path)
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *_: pytest.fail("built again"))
    open_image(path)


def test_a_gamma_without_a_profile_is_said(tmp_path):
    file = io.BytesIO()
    Image.fromarray(COLOURS.astype(np.uint8)).save(file, "PNG")
    data = file.getvalue()
    for gamma, warnings in ((100_000, 1), (45_455, 0)):
        chunk = b"gAMA" + gamma.to_bytes(4, "big")
        made = (4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        (tmp_path / "image").write_bytes(data[:33] + made + data[33:])
        assert len(read_image(tmp_path / "image").warnings) == warnings
