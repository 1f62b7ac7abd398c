"""Configuration of `nano`, the embedded model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

# One for each stage of the tower: mean and standard deviation over the whole image.
STAGE_TOKENS = 5
# Pixels, scene, tones and quality, where they are read (`extended`).
EXTENDED_TOKENS = 4


class NanoConfig(PreTrainedConfig):
    """An EfficientNet-Lite0 tower, a projector, and a small Llama-style decoder.

    `cell` is the side, in tower strides of 32 px, of the square that one spatial image token covers;
    `max_cells` bounds their number. nano is `extended`: beside the whole image it looks at windows of it at native
    resolution, at the pixels' own statistics and at those of natural scenes, and it has readers of quality
    (`readers.py`). nano-base is not. `version` tells weights of the same name apart in the ratings that they give.
    """

    model_type = "visualquality_nano"
    sub_configs: ClassVar = {"text_config": LlamaConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        cell: int = 4,
        max_cells: int = 59,
        extended: bool = False,
        version: str | None = None,
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
        self.extended = extended
        self.version = version
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


def image_tokens(height: int, width: int, cell: int, max_cells: int, extended: bool) -> int:
    """Number of tokens of an image of (height, width) tower strides: those of the whole image, and the spatial ones.

    >>> [image_tokens(16, 16, cell=4, max_cells=59, extended=extended) for extended in (False, True)]
    [21, 25]
    """
    rows, columns = cells(height, width, cell, max_cells)
    return STAGE_TOKENS + EXTENDED_TOKENS * extended + rows * columns


AutoConfig.register(NanoConfig.model_type, NanoConfig)
