"""`nano` as a Hugging Face model: it goes through exactly the code that a 7 B model goes through.

Pixels arrive as those of Qwen2-VL do: flat patches (here 32 x 32) with a grid (1, rows, columns) for each image. The
tower turns an image into *statistics*: mean and standard deviation of each of five stages over the whole image (3552
numbers), and of four stages over each cell of about 128 px (992 numbers a cell). Where the configuration says so, the
pixels' own statistics (`pixels.py`) stand between them. Training with a frozen tower computes these statistics once an
image and passes them in as `vision_features`.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration import NanoConfig, cells
from .pixels import PIXEL_WIDTH, pixel_statistics
from .tower import HEAD_CHANNELS, MIDDLE, SPREAD, STRIDE, TAP_CHANNELS, Tower

STAGE_WIDTHS = tuple(2 * channels for channels in (*TAP_CHANNELS, HEAD_CHANNELS))
GLOBAL_WIDTH = sum(STAGE_WIDTHS)
CELL_WIDTH = 2 * sum(TAP_CHANNELS)
LIMIT = 8.0  # standard deviations, to which what a projector reads is bounded
LATER = slice(2, 5)  # the later stages: those at strides 16 and 32, and the head


def root(variance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard deviation; of a constant map it is 1e-5, since the gradient of a root at 0 is infinite."""
    return variance.clamp(min=1e-10).sqrt()


def moments(x: Tensor, average: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Mean and standard deviation under an average."""
    mean = average(x)
    # E[x²] - E[x]² is three times as fast as `var` on a CPU.
    return [mean, root(average(x.square()) - mean.square())]


def standardised(
    x: Float[Tensor, "n m"], mean: Float[Tensor, " m"], scale: Float[Tensor, " m"], limit: float
) -> Float[Tensor, "n m"]:
    """`x` in standard deviations from the mean, bounded to ± `limit`."""
    # In float32 whatever the weights are: a mean may be many standard deviations away from 0.
    return ((x.float() - mean.float()) / scale.float()).clamp(-limit, limit)


class Projector(nn.Module):
    """Statistics -> hidden states: standardise, bound, and two layers.

    The bound keeps an image unlike all training images from drowning the rest of the prompt.
    """

    def __init__(self, inputs: int, outputs: int, limit: float):
        super().__init__()
        self.limit = limit
        # Mean and standard deviation over the training images; set once, before training.
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.up = nn.Linear(inputs, outputs)
        self.down = nn.Linear(outputs, outputs)

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        return self.project(self.standardised(x))

    def standardised(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n inputs"]:
        """What `project` takes."""
        return standardised(x, self.mean, self.scale, self.limit).to(self.up.weight.dtype)

    def project(self, standardised: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        return self.down(F.gelu(self.up(standardised)))


class LinearQuality(nn.Module):
    """A linear regression of quality on the later stages, and the hidden state that shows it to the decoder.

    Early stages and pixels predict quality well on images like the training images, and badly on others
    (benchmarks/transfer.py); the later stages carry over better. The regression is fitted by recipes/nano/ridge.py.
    """

    def __init__(self, hidden: int):
        super().__init__()
        inputs = sum(STAGE_WIDTHS[LATER])
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("weights", torch.zeros(inputs))
        self.projector = Projector(1, hidden, LIMIT)

    def levelled(self, stages: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "n inputs"]:
        """Each image's statistics of a later stage with mean 0 and variance 1, then standardised."""
        x = torch.cat([F.layer_norm(stage.float(), stage.shape[1:]) for stage in stages[LATER]], 1)
        return standardised(x, self.mean, self.scale, LIMIT)

    def read(self, stages: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, " n"]:
        """Quality, higher is better, on a scale of its own."""
        return self.levelled(stages) @ self.weights.float()

    def forward(self, stages: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "n hidden"]:
        return self.projector(self.read(stages)[:, None])


class Vision(nn.Module):
    """Pixels -> statistics -> image tokens."""

    def __init__(self, config: NanoConfig):
        super().__init__()
        hidden = config.text_config.hidden_size
        self.cell, self.max_cells = config.cell, config.max_cells
        self.tower = Tower()
        self.pixels = config.pixels
        # One token each for the image as a whole.
        self.widths = STAGE_WIDTHS
        if config.pixels:
            self.widths += (PIXEL_WIDTH,)
        self.whole_width = sum(self.widths)
        # nano-base, which does not read the pixels' statistics, was trained without a bound.
        limit = LIMIT if config.pixels else math.inf
        self.stages = nn.ModuleList(Projector(width, hidden, limit) for width in self.widths)
        self.cells = Projector(CELL_WIDTH, hidden, limit)
        self.quality = LinearQuality(hidden) if config.linear_quality else None

    def statistics(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, " m"]:
        """One image's statistics, flat: first the five stages, then the pixels', then the cells row by row."""
        maps = self.tower(image[None])
        whole = [torch.cat(moments(m, lambda x: x.mean((2, 3))), 1)[0] for m in maps]
        if self.pixels:
            whole.append(pixel_statistics((image * SPREAD + MIDDLE).float()))
        rows, columns = cells(
            image.shape[1] // STRIDE, image.shape[2] // STRIDE, self.cell, self.max_cells
        )
        local = []
        for m in maps[:-1]:
            local += moments(m, lambda x: F.adaptive_avg_pool2d(x, (rows, columns)))
        by_cell = torch.cat(local, 1)[0].flatten(1).T
        return torch.cat([*whole, by_cell.flatten()])

    def encode(
        self, pixel_values: Float[Tensor, "patches d"], image_grid_thw: Int[Tensor, "images 3"]
    ) -> list[Float[Tensor, " m"]]:
        """Each image's statistics."""
        sizes = image_grid_thw.prod(1).tolist()
        # One image at a time: batches of large maps are slower on a CPU.
        result = []
        for patches, (_, rows, columns) in zip(
            pixel_values.split(sizes), image_grid_thw.tolist(), strict=True
        ):
            image = patches.view(rows, columns, 3, STRIDE, STRIDE).permute(2, 0, 3, 1, 4)
            image = image.reshape(3, rows * STRIDE, columns * STRIDE).to(
                self.tower.stem.weight.dtype
            )
            result.append(self.statistics(image))
        return result

    def forward(self, features: list[Float[Tensor, " m"]]) -> Float[Tensor, "tokens hidden"]:
        whole = torch.stack([f[: self.whole_width] for f in features])
        parts = whole.split(self.widths, 1)
        tokens = [stage(x) for stage, x in zip(self.stages, parts, strict=True)]
        if self.quality is not None:
            tokens[-1] = tokens[-1] + self.quality(parts)
        by_cell = [f[self.whole_width :].view(-1, CELL_WIDTH) for f in features]
        local = self.cells(torch.cat(by_cell)).split([len(x) for x in by_cell])
        return torch.cat(
            [x for pair in zip(torch.stack(tokens, 1), local, strict=True) for x in pair]
        )


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

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        pixel_values: Float[Tensor, "patches d"] | None = None,
        image_grid_thw: Int[Tensor, "images 3"] | None = None,
        vision_features: Float[Tensor, " m"] | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Either `pixel_values` or `vision_features` (the statistics of all images, one after another)."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features = None
        if vision_features is not None:
            features = list(vision_features.split(self.feature_sizes(image_grid_thw)))
        elif pixel_values is not None:
            features = self.vision.encode(pixel_values, image_grid_thw)
        if features is not None:
            tokens = self.vision(features).to(inputs_embeds.dtype)
            where = input_ids == self.config.image_token_id
            if int(where.sum()) != len(tokens):
                raise ValueError(
                    f"the prompt has {int(where.sum())} image tokens and the images give {len(tokens)}"
                )
            inputs_embeds = inputs_embeds.masked_scatter(where[..., None], tokens)
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )

    def feature_sizes(self, image_grid_thw: Int[Tensor, "images 3"]) -> list[int]:
        """Number of statistics of each image."""
        grids = [
            cells(h, w, self.config.cell, self.config.max_cells)
            for _, h, w in image_grid_thw.tolist()
        ]
        return [self.vision.whole_width + rows * columns * CELL_WIDTH for rows, columns in grids]


class NanoForConditionalGeneration(NanoPreTrainedModel, GenerationMixin):
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: NanoConfig):
        super().__init__(config)
        self.model = NanoModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @torch.no_grad()
    def frozen_vision_features(
        self, pixel_values: Float[Tensor, "patches d"], image_grid_thw: Int[Tensor, "images 3"]
    ) -> list[Float[Tensor, " m"]]:
        """What a frozen tower gives for each image; concatenated, a forward takes it as `vision_features`."""
        return self.model.vision.encode(pixel_values, image_grid_thw)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "b l"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "b l hidden"] | None = None,
        labels: Int[Tensor, "b l"] | None = None,
        pixel_values: Float[Tensor, "patches d"] | None = None,
        image_grid_thw: Int[Tensor, "images 3"] | None = None,
        vision_features: Float[Tensor, " m"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        loss_kwargs = {k: kwargs.pop(k) for k in ("num_items_in_batch",) if k in kwargs}
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            vision_features=vision_features,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.text_config.vocab_size, **loss_kwargs
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
            inputs["pixel_values"] = inputs["vision_features"] = None
        return inputs


AutoModelForImageTextToText.register(NanoConfig, NanoForConditionalGeneration)
