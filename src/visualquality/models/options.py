"""How a model is kept and computed: number format, 4 bits, attention. What `from_pretrained` is told of it."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError

if TYPE_CHECKING:  # the command line and recipes read the names below, without PyTorch
    import torch

    from .families import Family

Quantization = Literal["4bit"]
Attention = Literal["sdpa", "flash_attention_2", "eager"]

# Regular expressions of modules that stay in their number format: what looks at pixels, since faint damage is what is
# judged, and what gives the scores' probabilities. The names are those of the families that transformers has.
WHOLE = [r".*visual", r".*vision_tower", r".*vision_model", r".*multi_modal_projector", "lm_head"]


@dataclass(frozen=True)
class WeightOptions:
    """dtype: as transformers takes it, whose "auto" is the one of the files. device: where 4-bit weights are made.

    quantization: "4bit" is NF4 with scales that are quantised, too, as in QLoRA (Dettmers et al. 2023), by
    bitsandbytes; sums are in `dtype`. attention: an implementation of transformers.
    """

    dtype: "torch.dtype | Literal['auto']"
    device: str = "cpu"
    quantization: Quantization | None = None
    attention: Attention = "sdpa"

    def check(self, name: str, family: "Family") -> None:
        """Raises UserError for what the model `name` or this machine cannot do."""
        if self.quantization is not None:
            if family.float32:
                raise UserError(f"{name} is kept in float32: leave quantization out")
            if importlib.util.find_spec("bitsandbytes") is None:
                raise UserError(
                    f"quantization {self.quantization} needs bitsandbytes: pip install 'visualquality[4bit]'"
                )
        if self.attention == "flash_attention_2":
            from transformers.utils import is_flash_attn_2_available

            if family.float32:
                raise UserError(
                    f"{name} is kept in float32, which flash attention does not take: leave attention out"
                )
            if not is_flash_attn_2_available():
                raise UserError(
                    "attention flash_attention_2 needs an NVIDIA GPU and flash-attn (pip install flash-attn): without "
                    "them leave it out, for sdpa"
                )

    def keywords(self, family: "Family") -> dict[str, Any]:
        """For `from_pretrained`."""
        import torch
        from transformers import BitsAndBytesConfig

        attention: Any = self.attention
        if attention == "flash_attention_2" and family.packable:
            # Packed responses need a mask, which flash attention does not know; text is as fast with sdpa's kernels.
            attention = {"": "sdpa", "text_config": "sdpa", "vision_config": "flash_attention_2"}
        dtype = torch.float32 if family.float32 else self.dtype
        found: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
        if self.quantization is not None:
            found["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=WHOLE,
            )
            # They are made where they stay: 4-bit weights are not moved.
            found["device_map"] = {"": self.device}
        return found
