"""Small random models of each family, architecture-identical to the real ones, saved to disk as the hub has them."""

from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from visualquality.models.families import ImageOnlyQwenVLProcessor
from visualquality.models.nano import (
    NanoConfig,
    NanoForConditionalGeneration,
    NanoImageProcessor,
    NanoProcessor,
)
from visualquality.models.nano.readers import Readers
from visualquality.response import prompt_text

TEXTS = [
    *(prompt_text(name, form) for name in ("paper", "released") for form in (True, False)),
    "<think>The image is sharp, blurry, noisy.</think><answer>3.45</answer>",
    "system user assistant You are a helpful assistant.\n",
] * 20


def byte_bpe(special: list[str], size: int = 400) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=special[0],
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        model_max_length=4096,
    )


def small_nano(folder: Path, seed: int = 0) -> Path:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}<|image|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_bpe(["<|pad|>", "<|im_start|>", "<|im_end|>", "<|image|>"])
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    model = NanoForConditionalGeneration(
        NanoConfig(
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
            extended=True,
        )
    )
    give_opinions(model.model.vision.readers, seed)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    # So few pixels that one of the tests' pictures has native windows.
    images = NanoImageProcessor(max_pixels=96 * 96, extended=True)
    NanoProcessor(images, tokenizer, chat_template=template).save_pretrained(folder)
    return folder


def give_opinions(readers: Readers, seed: int) -> None:
    """Make readers, which say the same of every image before they are fitted, say something of each."""
    drawn = torch.Generator().manual_seed(seed)
    for name, buffer in readers.named_buffers():
        if name.endswith(("weights", "up", "down", "whitening")):
            buffer.normal_(0, buffer.shape[-1] ** -0.5, generator=drawn)
    readers.shares.fill_(0.25)
    readers.threshold.copy_(torch.tensor([1.0, 0.5]))
    readers.line.copy_(torch.tensor([0.5, 3.0]))
    readers.error.copy_(torch.tensor([0.2, 0.1, 0.05]))


QWEN_SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]


def small_qwen(folder: Path, family: str, seed: int = 0, *, head_size: int = 16) -> Path:
    """family: qwen2_vl, qwen2_5_vl or qwen3_vl. head_size: of the text's attention; vLLM has kernels from 64 on."""
    width = 4 * head_size
    tokenizer = byte_bpe(QWEN_SPECIAL)
    ids = {
        f"{name}_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }.items()
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_size,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [head_size * share // 16 for share in (2, 3, 3)],
            "rope_theta": 10000.0,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    common = {"tie_word_embeddings": True, **ids}
    torch.manual_seed(seed)
    if family == "qwen2_vl":
        config = Qwen2VLConfig(
            text_config=text,
            vision_config={**vision, "embed_dim": 32, "hidden_size": width, "mlp_ratio": 2},
            **common,
        )
        model = Qwen2VLForConditionalGeneration(config)
    elif family == "qwen2_5_vl":
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": width,
            "window_size": 56,
        }
        config = Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**vision, **sizes, "fullatt_block_indexes": [1]},
            **common,
        )
        model = Qwen2_5_VLForConditionalGeneration(config)
    else:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
        }
        config = Qwen3VLConfig(
            text_config=text,
            vision_config={**vision, **sizes, "deepstack_visual_indexes": [0]},
            **common,
        )
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 16},
        patch_size=14,
        merge_size=2,
    )
    template = (resources.files("trl") / "chat_templates" / "qwen2_5_vl.jinja").read_text()
    ImageOnlyQwenVLProcessor(images, tokenizer, chat_template=template).save_pretrained(folder)
    return folder
