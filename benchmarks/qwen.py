"""Randomly initialised Qwen2.5-VL models: speed and memory do not depend on trained weights."""

from importlib import resources
from pathlib import Path

import common  # noqa: F401 - puts tests/ on the path
import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from small_models import QWEN_SPECIAL, byte_bpe
from visualquality.models.families import ImageOnlyQwenVLProcessor

# Text: hidden, layers, heads, key-value heads, MLP, vocabulary, tied. Vision: hidden, layers, heads, MLP, and the
# layers whose attention is over the whole image. 3b and 7b are the published configurations.
SIZES = {
    "10m": ((320, 6, 5, 5, 1024, 512, True), (128, 4, 4, 256, [3])),
    "3b": ((2048, 36, 16, 2, 11008, 151936, True), (1280, 32, 16, 3420, [7, 15, 23, 31])),
    "7b": ((3584, 28, 28, 4, 18944, 152064, False), (1280, 32, 16, 3420, [7, 15, 23, 31])),
}
IDS = {
    name: QWEN_SPECIAL.index(f"<|{name}|>")
    for name in ("vision_start", "vision_end", "image_pad", "video_pad")
}
PAD, EOS = QWEN_SPECIAL.index("<|endoftext|>"), QWEN_SPECIAL.index("<|im_end|>")
TEXT = 78  # tokens of a prompt beside those of the image
PATCH = 28  # pixels a side of an image token


def random_qwen(size: str, device: str = "cpu") -> Qwen2_5_VLForConditionalGeneration:
    """A model with random weights: float32 on a CPU, bfloat16 on CUDA."""
    (
        (hidden, layers, heads, kv, mlp, vocabulary, tied),
        (width, depth, vision_heads, vision_mlp, whole),
    ) = SIZES[size]
    # A rotary position has half a head's width: a quarter of it for time, the rest shared by height and width.
    half = hidden // heads // 2
    time, height = half // 4, (half - half // 4) // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "intermediate_size": mlp,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [time, height, half - time - height],
            },
            "tie_word_embeddings": tied,
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        vision_config={
            "depth": depth,
            "hidden_size": width,
            "num_heads": vision_heads,
            "intermediate_size": vision_mlp,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": whole,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        tie_word_embeddings=tied,
        image_token_id=IDS["image_pad"],
        video_token_id=IDS["video_pad"],
        vision_start_token_id=IDS["vision_start"],
        vision_end_token_id=IDS["vision_end"],
    )
    torch.manual_seed(0)
    # Made on the device: 7b in float32 would take 30 GB of the machine's memory first.
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            config,
            dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
            attn_implementation="sdpa",
        )
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    return model


def prompts(batch: int, side: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The model's inputs, as the processor gives them, for `batch` prompts with an image of `side`² pixels each."""
    grid = side // PATCH * 2
    image = [IDS["image_pad"]] * (grid // 2) ** 2
    text = torch.randint(20, 500, (batch, TEXT - 2), generator=torch.Generator().manual_seed(0))
    framed = torch.tensor([IDS["vision_start"], *image, IDS["vision_end"]]).expand(batch, -1)
    ids = torch.cat([framed, text], 1)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IDS["image_pad"]).long(),
        "pixel_values": torch.randn(
            batch * grid**2, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1)
        ),
        "image_grid_thw": torch.tensor([[1, grid, grid]] * batch),
    }
    return {key: value.to(device) for key, value in inputs.items()}


def processor(size: str = "10m") -> ImageOnlyQwenVLProcessor:
    """A processor for a model of this size; the tokenizer has about 500 tokens."""
    tokenizer = byte_bpe(QWEN_SPECIAL, SIZES[size][0][5])
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 4 * PATCH**2, "longest_edge": 1280 * PATCH**2},
        patch_size=14,
        merge_size=2,
    )
    template = (resources.files("trl") / "chat_templates" / "qwen2_5_vl.jinja").read_text()
    return ImageOnlyQwenVLProcessor(images, tokenizer, chat_template=template)


def save(folder: Path, size: str = "10m") -> Path:
    """Save a model with a processor in `folder`, in the hub's layout."""
    random_qwen(size).save_pretrained(folder)
    processor(size).save_pretrained(folder)
    return folder
