"""Images and a question as the tensors that a model takes: one prompt, a batch of prompts, and their positions.

`P` is the number of tokens of a prompt, `B` the number of prompts of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from .families import bare_model

# What a processor gives one number a token for. All else that it gives belongs to the images.
TOKEN_KEYS = ("input_ids", "token_type_ids", "mm_token_type_ids")
THINK = "<think>"


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    tokens: (P,) each; `input_ids`, and for Qwen-VL `mm_token_type_ids`, which is 0 for text.
    images: tensors with patches or images along their first axis, such as `pixel_values` and `image_grid_thw`.
    """

    tokens: dict[str, Tensor]
    images: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])

    def followed_by(self, ids: Sequence[int]) -> "Prompt":
        """The prompt with the text tokens `ids` after it, as where the answer is opened for the model."""
        tokens = _followed_by(self.tokens, torch.tensor(ids))
        return Prompt(tokens, self.images)


@dataclass(frozen=True)
class PromptBatch:
    """B prompts, padded on one side.

    tokens: (B, P) each, as in `Prompt`. mask: (B, P), 1 for what is not padding.
    images: those of all prompts, one after another.
    """

    tokens: dict[str, Tensor]
    mask: Int[Tensor, "b p"]
    images: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def length(self) -> int:
        """P, padding included."""
        return self.mask.shape[1]

    def inputs(self) -> dict[str, Tensor]:
        """What a model's forward takes."""
        return {**self.tokens, "attention_mask": self.mask, **self.images}

    def to(self, device: torch.device | str) -> "PromptBatch":
        tokens = {key: values.to(device) for key, values in self.tokens.items()}
        images = {key: values.to(device) for key, values in self.images.items()}
        return PromptBatch(tokens, self.mask.to(device), images)

    def followed_by(self, ids: Int[Tensor, "b t"]) -> dict[str, Tensor]:
        """Inputs with the text tokens `ids` after each prompt; the mask of the whole is left to the caller."""
        return {**_followed_by(self.tokens, ids), **self.images}

    def repeated(self, times: int) -> "PromptBatch":
        """The whole batch `times` over."""
        # Prompt by prompt it would have to be known which patches belong to which image.
        tokens = {key: values.repeat(times, 1) for key, values in self.tokens.items()}
        images = {key: torch.cat([values] * times) for key, values in self.images.items()}
        mask = self.mask.repeat(times, 1)
        return PromptBatch(tokens, mask, images)

    def rows(self, rows: slice, model: PreTrainedModel) -> "PromptBatch":
        """Some of the prompts with their images, without the padding that all of them share.

        `model` knows how many rows of each image tensor an image has. Prompts of a batch have equally many images.
        """
        grid = self.images["image_grid_thw"]
        each = len(grid) // len(self)
        chosen = slice(each * rows.start, each * rows.stop)
        # How many rows of each tensor every image has; 1 where it is not listed, as in the grid itself.
        sizes = {"pixel_values": grid.prod(1).tolist()}
        if "window_grid" in self.images:
            sizes["window_values"] = self.images["window_grid"].prod(1).tolist()
        if "vision_features" in self.images:
            sizes["vision_features"] = bare_model(model).model.feature_sizes(grid)
        images = {}
        for key, value in self.images.items():
            parts = value.split(sizes.get(key, 1))
            images[key] = torch.cat(parts[chosen])
        # The first column that is not padding in all of them.
        used = self.mask[rows].any(0)
        padding = int(used.int().argmax())
        tokens = {key: values[rows, padding:] for key, values in self.tokens.items()}
        mask = self.mask[rows, padding:]
        return PromptBatch(tokens, mask, images)


def _followed_by(tokens: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """Per-token values with those of the text tokens `ids` after them."""
    longer = {}
    for key, values in tokens.items():
        appended = ids.to(values)
        if key != "input_ids":
            # All other keys are token types; that of text is 0.
            appended = torch.zeros_like(appended)
        longer[key] = torch.cat([values, appended], -1)
    return longer


def encode_prompt(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    *,
    system: str | None = None,
    image_last: bool = False,
    add_vision_id: bool = False,
) -> Prompt:
    """One prompt with the images in their order.

    `system`: the system message, in place of the one that the chat template may bring. `image_last`: the images
    after the question instead of before it. `add_vision_id`: the template numbers the images. Raises ValueError for
    an image that the processor refuses.
    """
    image_parts: list[Any] = [{"type": "image"} for _ in images]
    text_parts: list[Any] = [{"type": "text", "text": question}]
    content = text_parts + image_parts if image_last else image_parts + text_parts
    messages: Any = [{"role": "user", "content": content}]
    if system is not None:
        system_content = [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": system_content})
    # Not given where it is not asked for: a template may look whether it is there.
    options: dict[str, Any] = {"add_vision_id": True} if add_vision_id else {}
    text = processor.apply_chat_template(messages, add_generation_prompt=True, **options)
    # Both at once: the processor puts into the text as many placeholders as each image has tokens.
    encoded = dict(processor(images=list(images), text=[text], return_tensors="pt"))
    tokens = {}
    for key in TOKEN_KEYS:
        if key in encoded:
            tokens[key] = encoded.pop(key)[0]
    del encoded["attention_mask"]  # of one prompt it is all ones; `collate` makes that of a batch
    return Prompt(tokens, encoded)


def numbers_images(processor: ProcessorMixin) -> bool:
    """Whether the chat template knows `add_vision_id`: most ignore it."""
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    messages: Any = [{"role": "user", "content": content}]
    with_id = processor.apply_chat_template(messages, add_vision_id=True)
    return with_id != processor.apply_chat_template(messages)


def prompt_opening(processor: ProcessorMixin) -> str:
    """What the chat template writes of each response itself: "<think>" for models that always think, else nothing.

    Their responses have no opening tag of their own. Whoever reads one puts this before it.
    """
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    messages: Any = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return THINK if text.rstrip().endswith(THINK) else ""


def collate(prompts: Sequence[Prompt], pad_token_id: int, side: str = "left") -> PromptBatch:
    """Several prompts as one batch, padded on the side "left", to generate after them, or "right"."""
    tokens = {}
    for key in prompts[0].tokens:
        fill = pad_token_id if key == "input_ids" else 0
        rows = [prompt.tokens[key] for prompt in prompts]
        tokens[key] = pad(rows, fill, side=side)
    # Not read off the pad token, which may be a token of the prompt as well.
    ones = [torch.ones(len(prompt), dtype=torch.long) for prompt in prompts]
    mask = pad(ones, 0, side=side)
    images = {}
    for key in prompts[0].images:
        images[key] = torch.cat([prompt.images[key] for prompt in prompts])
    return PromptBatch(tokens, mask, images)


def pad(rows: Sequence[Tensor], fill: int, *, side: str) -> Tensor:
    """(B, longest) from rows of unequal length, filled on the side "left" or "right"."""
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=fill, padding_side=side
    )


@dataclass(frozen=True)
class Positions:
    """Where a model counts the tokens of a batch of prompts.

    prompt: (B, P), or (3, B, P) for Qwen-VL's M-RoPE, which counts time, height and width. next: (B,), the position
    of the first token after each prompt.
    """

    prompt: Int[Tensor, "*axes b p"]
    next: Int[Tensor, " b"]

    def after(
        self, offsets: Int[Tensor, "*b t"], next: Tensor | None = None
    ) -> Int[Tensor, "*axes b t"]:
        """Positions of text tokens that stand `offsets` after the prompt's end: text counts alike on all axes.

        The offsets are the same for all prompts, (T,), or each prompt's own, (B, T).
        `next` stands for `self.next` where some of the rows are gone.
        """
        first = self.next if next is None else next
        positions = first[:, None] + offsets
        if self.prompt.ndim == 3:  # M-RoPE
            positions = positions.expand(len(self.prompt), -1, -1)
        return positions


def prompt_positions(model: PreTrainedModel, batch: PromptBatch) -> Positions:
    """The positions of a batch of prompts in a model, which may be wrapped by PEFT.

    Raises TypeError for a model with M-RoPE that cannot tell its positions: they would silently be wrong.
    """
    core = bare_model(model)
    if not hasattr(core.model, "get_rope_index"):
        rope = getattr(core.config.get_text_config(), "rope_parameters", None)
        if "mrope_section" in (rope or {}):
            raise TypeError(f"{type(core).__name__} has M-RoPE, but cannot tell positions")
        # Counted from the first token that is not padding; the padding, which nobody sees, gets 0.
        counted = batch.mask.cumsum(1) - 1
        return Positions(counted.clamp(min=0), batch.mask.sum(1))
    # Given by the processors of those families that find their images by it.
    types = {}
    if "mm_token_type_ids" in batch.tokens:
        types["mm_token_type_ids"] = batch.tokens["mm_token_type_ids"]
    positions, _ = core.model.get_rope_index(
        batch.tokens["input_ids"],
        image_grid_thw=batch.images["image_grid_thw"],
        attention_mask=batch.mask,
        **types,
    )
    # Whatever position padding got, it must not count below.
    positions = positions.masked_fill(batch.mask[None] == 0, 0)
    # An image takes up fewer positions than it has tokens, so the text goes on behind the largest of any axis.
    largest = positions.amax(dim=(0, 2))
    return Positions(positions, largest + 1)
