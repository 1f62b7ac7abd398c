"""A loaded image, or samples of any depth, -> 8-bit sRGB of the same size, composited on white."""

from typing import BinaryIO

import numpy as np
from PIL import Image, Jpeg2KImagePlugin, PpmImagePlugin, TiffImagePlugin

from . import profiles, sixteen, tiff
from .depth import Samples, to_8_bit, warnings_of, white

PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def deep_samples(
    image: Image.Image, file: BinaryIO | None, assume_bits: int | None
) -> Samples | None:
    """The samples of an image of other than 8 bits; None for one that Pillow's 8 bits are right for.

    file: where it is read from; without it, `image` is a PIL image of a user's, and may be loaded already. Raises what
    decoders raise.
    """
    waiting = bool(getattr(image, "tile", ()))  # to be decoded
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (found := tiff.layout(image.tag_v2)):
        source = file or (image.fp if waiting else None)
        if source is not None:
            return tiff.read_samples(source, image.tag_v2, found)
        if image.mode.startswith(("I", "F")):
            inverted = found.photometric == tiff.WHITE_IS_ZERO
            stated = found.bits not in (16, 32)
            return Samples(np.asarray(image), "L", found.bits, stated, inverted)
    if file is not None and sixteen.is_deep(image):
        profile = image.info.get("icc_profile")
        # Of PNG all 16 bits only where they are needed: they are decoded twice.
        needed = assume_bits is not None or (profile and profiles.changes(profile, image.mode))
        if (needed or image.format == "PPM") and (read := sixteen.read_samples(file, image)):
            return read
    if not image.mode.startswith(("I", "F")):
        return None
    stated = isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile)
    bits = 32 if image.mode == "I" else 16
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I":
        # Pillow scales other maxvals to 16 bits.
        bits, stated = 16, waiting and sixteen.states_fewer_bits(image)
    values = np.asarray(image)  # this loads it
    if bits == 16 and image.mode != "F":
        values = values.astype(np.uint16)
    return Samples(values, "L", bits, stated)


def from_samples(
    samples: Samples, name: str, assume_bits: int | None, profile: bytes | None
) -> tuple[Image.Image, list[str]]:
    """Samples -> RGB, and what to warn of. Raises UserError for values of unknown white, naming the file as `name`."""
    most, notes = white(samples, name, assume_bits)
    alpha = None
    if samples.mode in ("LA", "RGBA"):
        alpha = samples.values[..., -1]
    colours = samples.colours
    if alpha is not None and samples.mode == "LA":
        colours = colours[..., 0]
    found = None
    if profile and samples.mode != "CMYK":
        found = profiles.deep_to_srgb(colours, most, samples.inverted, profile)
        profile = None if found is not None else profile
    if found is None:
        found = to_8_bit(colours, most, inverted=samples.inverted)
    size = (found.shape[1], found.shape[0])
    image = (
        Image.frombytes("CMYK", size, found) if samples.mode == "CMYK" else Image.fromarray(found)
    )
    if alpha is not None:
        # In files that hold fewer bits than they say, alpha may be of either size.
        opaque = most if alpha.max() <= most else 2**samples.bits - 1
        image.putalpha(Image.fromarray(to_8_bit(alpha, opaque)))
    rgb, more = to_rgb(image, profile)
    return rgb, [*samples.notes, *notes, *more]


def from_image(image: Image.Image, *, own: bool, high_bytes: bool) -> tuple[Image.Image, list[str]]:
    """A loaded image of 8 bits a sample -> RGB, a new image, and what to warn of.

    own: it belongs to the reader, and may be changed: a large one is not copied. high_bytes: its file has 16 bits.
    """
    notes = []
    if high_bytes:
        # High bytes alone, and of alpha they tell nothing.
        highest = int(np.max(image.convert("RGB").getextrema()))
        notes += warnings_of(highest << 8 | 255, 16)
    profile = image.info.get("icc_profile") or None
    if image.mode in PREMULTIPLIED:
        pixels = image.convert(PREMULTIPLIED[image.mode])
    elif image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        pixels = image.convert("RGBA")
    elif image.mode == "1":
        pixels = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        # Of these, such as LAB, a profile would be for other numbers; a palette's colours are RGB.
        profile = profile if image.mode == "P" else None
        pixels = image.convert("RGB")
    else:
        # Without its class, which has the file's metadata.
        pixels = Image.Image()._new(image.im) if own else image.copy()
    rgb, more = to_rgb(pixels, profile)
    return rgb, notes + more


def to_rgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """An image of mode L, LA, RGB, RGBA or CMYK -> sRGB on white, and what to warn of. It may be overwritten."""
    notes: list[str] = []
    if profile:
        image, notes = profiles.to_srgb(image, profile)
    if image.mode in ("LA", "RGBA"):
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    return (image if image.mode == "RGB" else image.convert("RGB")), notes
