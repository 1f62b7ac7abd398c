"""The embedded model: importing this package makes Hugging Face's Auto classes know it."""

from .configuration import NanoConfig
from .modeling import NanoForConditionalGeneration, NanoModel
from .processor import NanoImageProcessor, NanoProcessor

__all__ = [
    "NanoConfig",
    "NanoForConditionalGeneration",
    "NanoImageProcessor",
    "NanoModel",
    "NanoProcessor",
]
