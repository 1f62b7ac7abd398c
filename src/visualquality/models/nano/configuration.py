"""Configuration of `nano`, the embedded model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

# One for each stage of the tower: mean and standard deviation over the whole image.
GLOBAL_TOKENS = 5


class NanoConfig(PreTrainedConfig):
    """An EfficientNet-Lite0 tower, a projector, and a small Llama-style decoder.

    `cell` is the side, in tower strides of 32 px, of the square that one spatial image token covers;
    `max_cells` bounds their number. With `pixels` there is one token more, of the pixels' own statistics. With
    `linear_quality` the last global token also holds the quality that a linear regression on the tower's later stages
    predicts.
    """

    model_type = "visualquality_nano"
    sub_configs: ClassVar = {"text_config": LlamaConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        cell: int = 4,
        max_cells: int = 59,
        pixels: bool = False,
        linear_quality: bool = False,
        image_token_id: int | None = None,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ):
        numbers = {"cell": cell, "max_cells": max_cells, "image_token_id": image_token_id}
        for name, value in numbers.items():
            if value is not None and not (type(value) is int and 0 < value < 2**31):
                raise ValueError(f"{name} of nano is {value!r}, not a whole number above 0")
        # config.json gives a plain dictionary, and transformers builds a configuration without any arguments too.
        if not isinstance(text_config, LlamaConfig):
            text_config = LlamaConfig(**(text_config or {}))
        self.text_config = text_config
        self.cell = cell
        self.max_cells = max_cells
        self.pixels = pixels
        self.linear_quality = linear_quality
        self.image_token_id = image_token_id
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


def cells(height: int, width: int, cell: int, max_cells: int) -> tuple[int, int]:
    """Rows and columns of spatial tokens for an image of (height, width) tower strides, at its own aspect.

    >>> cells(16, 16, cell=4, max_cells=59), cells(1, 256, cell=4, max_cells=59)
    ((4, 4), (1, 59))
    """
    rows = max(1, round(height / cell))
    columns = max(1, round(width / cell))
    # Columns first: of a long strip they alone could be more than all cells together.
    columns = min(columns, max_cells)
    return min(rows, max_cells // columns), columns


def image_tokens(height: int, width: int, cell: int, max_cells: int, pixels: bool) -> int:
    """Number of tokens of an image of (height, width) tower strides.

    There is one for each stage of the tower, one for the pixels' own statistics where they are read too, and the
    spatial ones.

    >>> [image_tokens(16, 16, cell=4, max_cells=59, pixels=pixels) for pixels in (False, True)]
    [21, 22]
    """
    rows, columns = cells(height, width, cell, max_cells)
    return GLOBAL_TOKENS + int(pixels) + rows * columns


AutoConfig.register(NanoConfig.model_type, NanoConfig)
