"""What is scored: an image, or an image with the reference that it is rated against."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import image_digest, open_image
from ..errors import UserError

Picture = str | Path | Image.Image | np.ndarray  # what `open_image` takes


@dataclass(frozen=True)
class Referenced:
    """An image to rate and its reference, which need not be pristine, nor of the same size."""

    image: Picture
    reference: Picture


Source = Picture | Referenced


def name_of(source: Source) -> str:
    """What the user called an image."""
    if isinstance(source, Referenced):
        return name_of(source.image)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "image"
    return "array" if isinstance(source, np.ndarray) else str(source)


def open_source(source: Source, *, reference: bool) -> tuple[tuple[Image.Image, ...], str]:
    """The images of a source in the order of the prompt, a reference first, and the digest of all their pixels.

    Raises UserError for an image that cannot be opened, and where there is a reference just if none is asked for.
    """
    if isinstance(source, Referenced) is not reference:
        mend = "Referenced(image, reference) has one" if reference else "ask for reference=True"
        raise UserError(
            f"{name_of(source)} is given {'without' if reference else 'with'} a reference image: {mend}"
        )
    pictures = (source.reference, source.image) if isinstance(source, Referenced) else (source,)
    images = tuple(map(open_image, pictures))
    return images, "/".join(map(image_digest, images))
