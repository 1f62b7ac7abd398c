"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL without torchvision.

Their own processors want a video processor, which wants torchvision. We only look at images, so ours has none:
Hugging Face infers a processor's parts from the signature of `__init__`.
"""

from transformers import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class ImageOnlyQwenVLProcessor(Qwen2_5_VLProcessor):
    """The Qwen-VL processor for text and images; saves and loads as usual."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
