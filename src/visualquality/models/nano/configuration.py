"""Configuration of `nano`, the embedded model."""

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig


class NanoConfig(PreTrainedConfig):
    """An EfficientNet-Lite0 tower, a projector, and a small Llama-style decoder.

    `cell` is the side, in tower strides of 32 px, of the square that one spatial image token covers;
    `max_cells` bounds their number. With `pixels` there is one token more, of the pixels' own statistics. With
    `linear_quality` the last global token also says how good a linear regression on the tower's later stages finds the
    image.
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
        if not isinstance(text_config, LlamaConfig):
            text_config = LlamaConfig(**(text_config or {}))
        self.text_config = text_config
        self.cell = cell
        self.max_cells = max_cells
        self.pixels = pixels
        self.linear_quality = linear_quality
        self.image_token_id = image_token_id
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


AutoConfig.register(NanoConfig.model_type, NanoConfig)
