"""Images and a question as the tensors that a model takes, for one prompt and for a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

Encoded = dict[str, Tensor]


def encode_prompt(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    *,
    system: str | None = None,
    image_last: bool = False,
) -> Encoded:
    """One prompt: `input_ids` (P,), and whatever the model's own processor makes of the images, in their order.

    `system`: the system message, in place of the one that the chat template may bring. `image_last`: the images
    after the question instead of before it.

    Tensors that go with the tokens are (P,) too; those of the images have patches or images along their first axis.
    """
    pictures: list[Any] = [{"type": "image"} for _ in images]
    words: list[Any] = [{"type": "text", "text": question}]
    messages: Any = [
        {"role": "user", "content": words + pictures if image_last else pictures + words}
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    encoded = dict(processor(images=list(images), text=[text], return_tensors="pt"))
    del encoded["attention_mask"]
    length = encoded["input_ids"].shape[1]
    return {
        k: v[0] if v.shape[:2] == (1, length) and v.ndim == 2 else v for k, v in encoded.items()
    }


def collate(prompts: Sequence[Encoded], pad_token_id: int) -> Encoded:
    """Several prompts as one batch, padded on the left: `input_ids` and `attention_mask` are (B, P)."""
    lengths = [len(p["input_ids"]) for p in prompts]
    batch: Encoded = {}
    for key, value in prompts[0].items():
        if value.shape == (lengths[0],) and key.endswith("_ids"):
            fill = pad_token_id if key == "input_ids" else 0
            batch[key] = pad_left([p[key] for p in prompts], fill)
        else:
            batch[key] = torch.cat([p[key] for p in prompts])
    batch["attention_mask"] = pad_left([torch.ones(n, dtype=torch.long) for n in lengths], 0)
    return batch


def pad_left(rows: Sequence[Tensor], fill: int) -> Tensor:
    """(B, longest) from rows of unequal length."""
    longest = max(len(row) for row in rows)
    padded = rows[0].new_full((len(rows), longest), fill)
    for target, row in zip(padded, rows, strict=True):
        target[longest - len(row) :] = row
    return padded


def pad_right(rows: Sequence[Tensor], fill: int) -> Tensor:
    """(B, longest) from rows of unequal length."""
    return pad_left([row.flip(0) for row in rows], fill).flip(1)


def prompt_positions(model: PreTrainedModel, batch: Encoded) -> tuple[Tensor, Tensor]:
    """Positions of a left-padded batch of prompts, (B, P), or (3, B, P) for M-RoPE; and each row's next one, (B,)."""
    # The attribute `model` of a PEFT model is the whole model. A method tells it: importing peft takes seconds.
    bare: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    core = bare.model
    mask = batch["attention_mask"]
    if not hasattr(core, "get_rope_index"):
        if "mrope_section" in (
            getattr(bare.config.get_text_config(), "rope_parameters", None) or {}
        ):
            raise TypeError(
                f"{type(bare).__name__} has M-RoPE, but {type(core).__name__} cannot tell positions"
            )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return positions, mask.sum(1)
    kwargs = {k: batch[k] for k in ("mm_token_type_ids",) if k in batch}
    positions, _ = core.get_rope_index(
        batch["input_ids"], image_grid_thw=batch["image_grid_thw"], attention_mask=mask, **kwargs
    )
    positions = positions.masked_fill(mask[None] == 0, 0)
    return positions, positions.amax(dim=(0, 2)) + 1


def completion_positions(positions: Tensor, start: Tensor, length: int) -> Tensor:
    """Positions of `length` tokens after each prompt; `positions` is only asked for its number of axes.

    (B, length), or (3, B, length) for M-RoPE, where text counts alike on all three axes.
    """
    after = start[:, None] + torch.arange(length, device=start.device)
    return after if positions.ndim == 2 else after.expand(positions.shape[0], -1, -1)
