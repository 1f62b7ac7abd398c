"""`nano` as a Hugging Face model: it goes through exactly the code that a 7 B model goes through.

Pixels arrive as those of Qwen2-VL do: flat patches (here 32 x 32) with a grid (1, rows, columns) for each image.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    GenerationMixin,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration import NanoConfig, cells
from .vision import CELL_WIDTH, Grids, Patches, Statistics, Vision

TokenIds = Int[Tensor, "b l"]


class NanoPreTrainedModel(PreTrainedModel):
    config_class = NanoConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules = ("LlamaDecoderLayer",)


class NanoModel(NanoPreTrainedModel):
    def __init__(self, config: NanoConfig):
        super().__init__(config)
        self.vision = Vision(config)
        self.language_model = LlamaModel._from_config(config.text_config)
        self.post_init()

    def forward(
        self,
        input_ids: TokenIds | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        pixel_values: Patches | None = None,
        image_grid_thw: Grids | None = None,
        window_values: Patches | None = None,
        window_grid: Grids | None = None,
        image_sizes: Int[Tensor, "images 2"] | None = None,
        vision_features: Statistics | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Either pixels (as `NanoImageProcessor` gives them) or `vision_features`, the statistics of all images.

        The decoder takes what is left: mask, positions, cache. Raises ValueError where the prompt has not as many
        image tokens as the images give.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features = None
        if vision_features is not None:
            sizes = self.feature_sizes(image_grid_thw)
            features = list(vision_features.split(sizes))
        elif pixel_values is not None:
            features = self.vision.encode(
                pixel_values, image_grid_thw, window_values, window_grid, image_sizes
            )
        # Without images it is text alone, or a later token: the images are in the cache by then.
        if features is not None:
            tokens = self.vision(features).to(inputs_embeds.dtype)
            is_image = input_ids == self.config.image_token_id
            expected = int(is_image.sum())
            # `masked_scatter` would silently leave out the tokens that are too many.
            if expected != len(tokens):
                raise ValueError(
                    f"the prompt has {expected} image tokens and the images give {len(tokens)}"
                )
            inputs_embeds = inputs_embeds.masked_scatter(is_image[..., None], tokens)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)

    def feature_sizes(self, image_grid_thw: Grids) -> list[int]:
        """Number of statistics of each image."""
        sizes = []
        for _, height, width in image_grid_thw.tolist():
            rows, columns = cells(height, width, self.config.cell, self.config.max_cells)
            sizes.append(self.vision.whole_width + rows * columns * CELL_WIDTH)
        return sizes


class NanoForConditionalGeneration(NanoPreTrainedModel, GenerationMixin):
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: NanoConfig):
        super().__init__(config)
        self.model = NanoModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    @torch.no_grad()
    def frozen_vision_features(self, images: dict[str, Tensor]) -> list[Statistics]:
        """What a frozen tower gives for each image; concatenated, a forward takes it as `vision_features`.

        images: the tensors that `NanoImageProcessor` gives.
        """
        return self.model.vision.encode(**images)

    def forward(
        self,
        # `generate` reads these names to see what the model takes.
        input_ids: TokenIds | None = None,
        attention_mask: Tensor | None = None,
        position_ids: TokenIds | None = None,
        pixel_values: Patches | None = None,
        image_grid_thw: Grids | None = None,
        window_values: Patches | None = None,
        window_grid: Grids | None = None,
        image_sizes: Int[Tensor, "images 2"] | None = None,
        vision_features: Statistics | None = None,
        labels: TokenIds | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            window_values=window_values,
            window_grid=window_grid,
            image_sizes=image_sizes,
            vision_features=vision_features,
            **kwargs,
        )
        keep = logits_to_keep
        if isinstance(logits_to_keep, int):
            keep = slice(-logits_to_keep, None)  # of 0 it is slice(0, None), which is all of them
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            # It shifts the labels by one token itself.
            loss = self.loss_function(
                logits,
                labels,
                vocab_size=self.config.text_config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, **kwargs
    ):
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        # From the second token on, the images are in the cache.
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in ("pixel_values", "window_values", "vision_features"):
                inputs[name] = None
        return inputs


AutoModelForImageTextToText.register(NanoConfig, NanoForConditionalGeneration)
