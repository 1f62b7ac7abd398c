"""Stages 2 and 6 of build.py: a model with a given tower and an untrained decoder, and the vocabulary."""

from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest
from visualquality.models.nano import (
    NanoConfig,
    NanoForConditionalGeneration,
    NanoImageProcessor,
    NanoProcessor,
)
from visualquality.models.nano.vision import CELL_WIDTH
from visualquality.models.prompt import encode_prompt
from visualquality.response import prompt_text
from visualquality.train.supervised import target_text

from .tokenizer import TEMPLATE, train_tokenizer

MAX_PIXELS = 640 * 640  # of one image, for nano
MAX_PIXELS_BASE = 512 * 512  # for nano-base
DECODER = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}


def vocabulary(described: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of both models, trained on the sentences and on the prompts."""
    rows = Manifest.read(described, check_images=False).rows
    prompts = [prompt_text(name, form) for name in ("paper", "released") for form in (True, False)]
    # There are only four prompts: they are repeated, so that their pieces are frequent enough to be learnt.
    return train_tokenizer(
        [target_text(r.mos, r.reasoning) for r in rows] + prompts * max(1, len(rows) // 60)
    )


def initial(
    tokenizer: PreTrainedTokenizerFast,
    tower: dict[str, torch.Tensor],
    typical: Path,
    folder: Path,
    console: Console,
    *,
    pixels: bool,
) -> Path:
    """Save a model with this tower and an untrained decoder in `folder`, and return it.

    `typical` is a manifest of images, whose mean statistics and their scale go into the projectors. `pixels`: the model
    also gets statistics of the pixels.
    """
    if (folder / "model.safetensors").exists():
        return folder
    torch.manual_seed(0)  # for the decoder's initial weights
    config = NanoConfig(
        text_config={
            **DECODER,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        pixels=pixels,
    )
    model = NanoForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.model.vision.tower.load_state_dict(tower)
    model.model.vision.tower.half().float()  # float16 is shipped: the decoder learns on exactly that
    max_pixels = MAX_PIXELS if pixels else MAX_PIXELS_BASE
    image_processor = NanoImageProcessor(max_pixels=max_pixels, pixels=pixels)
    processor = NanoProcessor(image_processor, tokenizer, chat_template=TEMPLATE)
    console.print("measuring the statistics of images")
    images = [r.image for r in Manifest.read(typical, check_images=False).rows]
    # About 600 images are enough for a mean and a standard deviation.
    set_scale(model, processor, images[:: max(1, len(images) // 600)])
    processor.save_pretrained(folder)
    model.save_pretrained(folder)  # last: its file says that the folder is complete
    return folder


@torch.no_grad()
def set_scale(
    model: NanoForConditionalGeneration, processor: NanoProcessor, paths: list[Path]
) -> None:
    """Write the mean and standard deviation of every statistic over these images into the projectors."""
    # Statistics of the whole image, and of each of its cells, of all images together.
    whole, local, vision = [], [], model.model.vision
    for path in paths:
        encoded = encode_prompt(processor, [open_image(path)], "")
        (features,) = model.frozen_vision_features(
            encoded.images["pixel_values"], encoded.images["image_grid_thw"]
        )
        whole.append(features[: vision.whole_width])
        local.append(features[vision.whole_width :].view(-1, CELL_WIDTH))
    parts = [*torch.stack(whole).split(vision.widths, 1), torch.cat(local)]
    for projector, values in zip([*vision.stages, vision.cells], parts, strict=True):
        projector.mean.copy_(values.mean(0))
        # A statistic that is constant over these images must not be divided by 0.
        projector.scale.copy_(values.std(0).clamp(min=1e-3))
