"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL without torchvision.

Their own processors want a video processor, which wants torchvision. We only look at images, so ours has none:
Hugging Face infers a processor's parts from the signature of `__init__`.
"""

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

# The class that other software knows the processor of a family by.
QWEN_VL = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}


class ImageOnlyQwenVLProcessor(Qwen2_5_VLProcessor):
    """The Qwen-VL processor for text and images. What it saves is what the published models have, so that any software
    loads a trained model as it loads the one that it was trained from.
    """

    family = "qwen2_5_vl"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> list[str]:
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        for name in ("processor_config.json", "tokenizer_config.json"):
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            _write(folder / name, settings | {"processor_class": QWEN_VL[self.family]})
        images = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))[
            "image_processor"
        ]
        _write(
            folder / "preprocessor_config.json", images | {"processor_class": QWEN_VL[self.family]}
        )
        return saved


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
