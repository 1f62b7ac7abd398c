"""Images and text for `nano`. Pillow alone prepares the pixels: the same ones on every machine."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin

from .configuration import NanoConfig, image_tokens
from .tower import MIDDLE, SPREAD, STRIDE

IMAGE_TOKEN = "<|image|>"
# An image with a shorter side is resized, not cut: a cut might take more than a fifth of that side.
SHORTEST_TO_CUT = 4 * STRIDE


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Sides that are multiples of 32, close to the image's own aspect, of at most about `max_pixels` in all.

    An image is made smaller where it must be, and larger only to fill one stride.

    >>> target_size(512, 512, 512 * 512), target_size(4000, 3000, 512 * 512), target_size(1, 1, 512 * 512)
    ((512, 512), (576, 448), (32, 32))
    """
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    sides = [max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (width, height)]
    # A strip one stride high may not grow without bound.
    longest = max(STRIDE, max_pixels // STRIDE**2 * STRIDE)
    return min(sides[0], longest), min(sides[1], longest)


def cut(image: Image.Image, max_pixels: int) -> Image.Image:
    """The middle of an image, its pixels unchanged, with sides that are multiples of 32.

    The image itself where the middle would be too large or leave too much out.
    """
    width, height = (side // STRIDE * STRIDE for side in image.size)
    if width * height > max_pixels or min(image.size) < SHORTEST_TO_CUT:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class NanoImageProcessor(BaseImageProcessor):
    """RGB images -> `pixel_values` (patches, 3 * 32 * 32) and `image_grid_thw` (images, 3).

    With `pixels`, where the pixels' own statistics are read, an image that fits is cut, not resized.
    """

    model_input_names: ClassVar = ["pixel_values", "image_grid_thw"]

    def __init__(
        self,
        max_pixels: int = 512 * 512,
        cell: int = 4,
        max_cells: int = 59,
        pixels: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.max_pixels, self.cell, self.max_cells, self.pixels = (
            max_pixels,
            cell,
            max_cells,
            pixels,
        )

    def tokens(self, height: int, width: int) -> int:
        """Number of image tokens for height × width strides."""
        return image_tokens(height, width, self.cell, self.max_cells, self.pixels)

    def patches(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int, int]]:
        image = image.convert("RGB")
        if self.pixels:
            image = cut(image, self.max_pixels)
        size = target_size(*image.size, self.max_pixels)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        columns, rows = size[0] // STRIDE, size[1] // STRIDE
        pixels = (np.asarray(image, dtype=np.float32) - MIDDLE) / SPREAD
        pixels = pixels.reshape(rows, STRIDE, columns, STRIDE, 3).transpose(0, 2, 4, 1, 3)
        return pixels.reshape(rows * columns, 3 * STRIDE * STRIDE), (1, rows, columns)

    def __call__(
        self, images: Any, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        return self.preprocess(images, return_tensors=return_tensors, **kwargs)

    def preprocess(
        self, images: Any, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        pixels, grids = zip(*[self.patches(image) for image in flatten(images)], strict=True)
        data = {"pixel_values": np.concatenate(pixels), "image_grid_thw": np.array(grids)}
        return BatchFeature(data, tensor_type=return_tensors)


class NanoProcessor(ProcessorMixin):
    """The image processor and the tokenizer together, as Hugging Face expects them."""

    def __init__(
        self, image_processor=None, tokenizer=None, chat_template: str | None = None, **kwargs: Any
    ):
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def __call__(
        self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        texts = [text] if isinstance(text, str) else list(text or [])
        return_tensors = kwargs.pop("return_tensors", None)
        vision = BatchFeature()
        if images is not None:
            vision = self.image_processor(images, return_tensors=return_tensors or "np")
            counts = iter(
                [self.image_processor.tokens(h, w) for _, h, w in vision["image_grid_thw"].tolist()]
            )
            texts = [self._expand(one, counts) for one in texts]
        encoded = self.tokenizer(texts, return_tensors=return_tensors, **kwargs)
        return BatchFeature({**encoded, **vision}, tensor_type=return_tensors)

    def _expand(self, text: str, counts) -> str:
        head, *rest = text.split(self.image_token)
        return head + "".join(self.image_token * next(counts) + part for part in rest)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]


def flatten(images: Any) -> list[Image.Image]:
    """PIL images out of one image or (nested) lists of them."""
    if isinstance(images, (list, tuple)):
        return [image for nested in images for image in flatten(nested)]
    return [images]


AutoImageProcessor.register(NanoConfig, slow_image_processor_class=NanoImageProcessor)
AutoProcessor.register(NanoConfig, NanoProcessor)
