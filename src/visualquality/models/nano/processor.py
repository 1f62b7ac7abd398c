"""Images and text for `nano`. Pillow alone prepares the pixels: the same ones on every machine."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

# Not by its public name: that of transformers 5.16 stands for an error where there is no torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import ProcessorMixin

from .configuration import NanoConfig, image_tokens
from .tower import MIDDLE, SPREAD, STRIDE
from .views import native_windows, trimmed

IMAGE_TOKEN = "<|image|>"
# An image with a shorter side is resized, not cut: a cut might take more than a fifth of that side.
SHORTEST_TO_CUT = 4 * STRIDE


def target_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Sides that are multiples of 32, close to the image's own aspect, of at most about `max_pixels` in all.

    An image is made smaller where it must be, and larger only to fill one stride.

    >>> target_size(512, 512, 512 * 512), target_size(4000, 3000, 512 * 512), target_size(1, 1, 512 * 512)
    ((512, 512), (576, 448), (32, 32))
    """
    fitting = math.sqrt(max_pixels / (width * height))
    scale = min(1.0, fitting)
    # A strip one stride high may not grow without bound.
    longest = max(STRIDE, max_pixels // STRIDE**2 * STRIDE)
    sides = []
    for side in (width, height):
        strides = max(1, round(side * scale / STRIDE))
        sides.append(min(strides * STRIDE, longest))
    return sides[0], sides[1]


def cut(image: Image.Image, max_pixels: int) -> Image.Image:
    """The middle of an image, its pixels unchanged, with sides that are multiples of 32.

    The image itself where the middle would be too large or leave too much out.
    """
    width = image.width // STRIDE * STRIDE
    height = image.height // STRIDE * STRIDE
    if width * height > max_pixels or min(image.size) < SHORTEST_TO_CUT:
        return image
    left = (image.width - width) // 2
    top = (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class NanoImageProcessor(BaseImageProcessor):
    """RGB images -> the tensors that `nano` takes.

    pixel_values: (patches, 3 * 32 * 32) of each whole image, within `max_pixels`; image_grid_thw: (images, 3), each
    (1, rows, columns). Where it is `extended`, plain borders are cut off first, an image that fits is cut, not resized,
    and there are, of images that do not fit, native windows:
    window_values: (patches, 3 * 32 * 32); window_grid: (images, 3), each (windows, rows, columns), without windows
    (0, 0, 0); image_sizes: (images, 2), height and width in pixels.
    """

    def __init__(
        self,
        max_pixels: int = 512 * 512,
        cell: int = 4,
        max_cells: int = 59,
        extended: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.max_pixels = max_pixels
        # Not needed for pixels, but for the number of image tokens that the prompt must have.
        self.cell = cell
        self.max_cells = max_cells
        self.extended = extended

    @property
    def model_input_names(self) -> list[str]:
        names = ["pixel_values", "image_grid_thw"]
        if self.extended:
            names += ["window_values", "window_grid", "image_sizes"]
        return names

    def tokens(self, height: int, width: int) -> int:
        """Number of image tokens for height × width strides."""
        return image_tokens(height, width, self.cell, self.max_cells, self.extended)

    def whole(self, image: Image.Image) -> Image.Image:
        """The whole image, within `max_pixels`, with sides that are multiples of 32."""
        if self.extended:
            # Resampling would remove most of the traces that the pixels' statistics look for.
            image = cut(image, self.max_pixels)
        size = target_size(*image.size, self.max_pixels)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        found: dict[str, list] = {name: [] for name in self.model_input_names}
        for image in flatten(images):
            # Not where it is RGB already: that would be a second copy of a large photo.
            if image.mode != "RGB":
                image = image.convert("RGB")
            if self.extended:
                image = trimmed(image)
            whole = self.whole(image)
            found["pixel_values"].append(patches(whole))
            found["image_grid_thw"].append((1, whole.height // STRIDE, whole.width // STRIDE))
            if not self.extended:
                continue
            windows = native_windows(image, self.max_pixels)
            rows, columns = 0, 0
            if windows:
                columns, rows = (side // STRIDE for side in windows[0].size)
            found["window_values"] += [patches(window) for window in windows]
            found["window_grid"].append((len(windows), rows, columns))
            found["image_sizes"].append((image.height, image.width))
        # An empty start, since there may be no window at all.
        nothing = np.zeros((0, 3 * STRIDE * STRIDE), dtype=np.float32)
        data = {}
        for name, values in found.items():
            joined = name.endswith("_values")
            data[name] = np.concatenate([nothing, *values]) if joined else np.array(values)
        return BatchFeature(data, tensor_type=return_tensors)


def patches(image: Image.Image) -> np.ndarray:
    """An image's patches, (rows * columns, 3 * 32 * 32), row by row; its sides are multiples of 32."""
    columns = image.width // STRIDE
    rows = image.height // STRIDE
    pixels = np.asarray(image, dtype=np.float32)
    pixels = (pixels - MIDDLE) / SPREAD
    # (H, W, 3) -> (rows, columns, 3, 32, 32), as the patches of Qwen2-VL have their channels first.
    pixels = pixels.reshape(rows, STRIDE, columns, STRIDE, 3)
    pixels = pixels.transpose(0, 2, 4, 1, 3)
    return pixels.reshape(rows * columns, 3 * STRIDE * STRIDE)


class NanoProcessor(ProcessorMixin):
    """The image processor and the tokenizer together, as Hugging Face expects them."""

    # Hugging Face finds the parts to save and to load by the names of these parameters.
    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        **kwargs: Any,
    ):
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if isinstance(text, str):
            text = [text]
        texts = list(text or [])
        return_tensors = kwargs.pop("return_tensors", None)
        vision = BatchFeature()
        if images is not None:
            vision = self.image_processor(images, return_tensors=return_tensors or "np")
            grids = vision["image_grid_thw"].tolist()
            counts = [self.image_processor.tokens(h, w) for _, h, w in grids]
            # One iterator for all texts: each takes as many images as it has places for.
            remaining = iter(counts)
            texts = [self._expand(one, remaining) for one in texts]
        encoded = self.tokenizer(texts, return_tensors=return_tensors, **kwargs)
        return BatchFeature({**encoded, **vision}, tensor_type=return_tensors)

    def _expand(self, text: str, counts: Iterator[int]) -> str:
        """The text with each image's one placeholder repeated, once for each of its tokens."""
        head, *rest = text.split(self.image_token)
        expanded = (self.image_token * next(counts) + part for part in rest)
        return head + "".join(expanded)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def flatten(images: Any) -> list[Image.Image]:
    """PIL images out of one image or (nested) lists of them."""
    if not isinstance(images, (list, tuple)):
        return [images]
    found = []
    for nested in images:
        found += flatten(nested)
    return found


AutoImageProcessor.register(NanoConfig, slow_image_processor_class=NanoImageProcessor)
AutoProcessor.register(NanoConfig, NanoProcessor)
