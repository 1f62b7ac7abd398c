"""Stage 7 of build.py: a model with a given tower and an untrained decoder, and the vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from visualquality.models.nano import (
    NanoConfig,
    NanoForConditionalGeneration,
    NanoImageProcessor,
    NanoProcessor,
)
from visualquality.models.nano.vision import CELL_WIDTH, Vision
from visualquality.response import prompt_text

from .tokenizer import TEMPLATE, train_tokenizer

VERSION = "2"  # of nano: a new one gives other scores
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


def vocabulary(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer trained on such responses, and on the prompts."""
    prompts = [prompt_text(name, form) for name in ("paper", "released") for form in (True, False)]
    # There are only four prompts: they are repeated, so that their pieces are frequent enough to be learnt.
    return train_tokenizer([*texts, *prompts * max(1, len(texts) // 60)])


def initial(
    tokenizer: PreTrainedTokenizerFast,
    tower: dict[str, torch.Tensor],
    folder: Path,
    *,
    extended: bool,
) -> Path:
    """Save a model with this tower and an untrained decoder in `folder`, and return it.

    extended: nano, which looks at more than the whole image; nano-base does not. Its projectors have no scale yet.
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
        extended=extended,
        version=VERSION if extended else None,
    )
    model = NanoForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.model.vision.tower.load_state_dict(tower)
    model.model.vision.tower.half().float()  # float16 is shipped: the decoder learns on exactly that
    max_pixels = MAX_PIXELS if extended else MAX_PIXELS_BASE
    image_processor = NanoImageProcessor(max_pixels=max_pixels, extended=extended)
    processor = NanoProcessor(image_processor, tokenizer, chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)  # last: its file says that the folder is complete
    return folder


@torch.no_grad()
def set_scale(vision: Vision, features: Sequence[torch.Tensor]) -> None:
    """Write the mean and standard deviation of every statistic over some images into the projectors.

    features: the statistics of each image, flat, as `Vision.statistics` gives them. About 600 images are enough.
    """
    whole = torch.stack([numbers[: vision.whole_width] for numbers in features])
    local = torch.cat([numbers[vision.whole_width :].view(-1, CELL_WIDTH) for numbers in features])
    parts = whole.split(list(vision.widths), 1)
    pairs = [*zip(vision.stages, parts, strict=False), (vision.cells, local)]
    for projector, values in pairs:
        projector.mean.copy_(values.mean(0))
        # A statistic that is constant over these images must not be divided by 0.
        projector.scale.copy_(values.std(0).clamp(min=1e-3))
