"""What is scored: an image, or an image with the reference image that it is rated against."""

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.find import MAX_IMAGE_PIXELS
from ..data.images import Picture, image_digest, read_image
from ..errors import UserError


@dataclass(frozen=True)
class Referenced:
    """An image to rate and its reference image, which need not be pristine, nor of the same size."""

    image: Picture
    reference: Picture


Source = Picture | Referenced


def name_of(source: Source) -> str:
    """The name of an image in its rating: the path as given, or "image" or "array" for one without a file."""
    if isinstance(source, Referenced):
        return name_of(source.image)
    if isinstance(source, Image.Image):
        # Only an image that Pillow opened from a file has this attribute.
        return getattr(source, "filename", "") or "image"
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, str | os.PathLike):
        return str(source)
    return type(source).__name__  # what cannot be opened; its text may be pages of numbers


class OpenedSource(NamedTuple):
    """The images of a source in the order of the prompt (the reference first), and the digest of all their pixels.

    `warnings`: what its user should know of how they were read, a sentence each.
    """

    images: tuple[Image.Image, ...]
    digest: str
    warnings: tuple[str, ...] = ()


def open_source(
    source: Source,
    *,
    reference: bool,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    assume_bits: int | None = None,
) -> OpenedSource:
    """The images of a source, read as `read_image` does.

    Raises UserError for an image that cannot be opened, for a missing reference image where `reference` is set, and
    for one that is given where it is not.
    """
    if reference and not isinstance(source, Referenced):
        raise UserError(
            f"{name_of(source)} is given without a reference image: give Referenced(image, reference)"
        )
    if not reference and isinstance(source, Referenced):
        raise UserError(
            f"{name_of(source)} is given with a reference image: set reference=True to use it"
        )
    pictures = (source.reference, source.image) if isinstance(source, Referenced) else (source,)
    images, warnings = [], []
    for place, picture in enumerate(pictures, start=1):
        opened = read_image(picture, max_image_pixels=max_image_pixels, assume_bits=assume_bits)
        images.append(opened.image)
        of = "" if place == len(pictures) else "its reference image: "
        warnings += [of + sentence for sentence in opened.warnings]
    # The digest of a single image is that of `image_digest` alone: scores without a reference depend on it.
    return OpenedSource(tuple(images), "/".join(map(image_digest, images)), tuple(warnings))
