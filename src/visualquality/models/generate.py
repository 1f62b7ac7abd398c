"""Sampling K responses for each image: the prompt is encoded once and its cache expanded.

Every response has a random stream of its own, a function of (seed, image, k) alone. So a response does not depend on
the batch that it is drawn in, on the number of processes, or on what was drawn before; a run that resumes draws what
it would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from .encode import Encoded, completion_positions, prompt_positions


@dataclass(frozen=True)
class Completion:
    """Token ids up to and with the end-of-sequence token; `truncated` where the limit came first."""

    ids: tuple[int, ...]
    truncated: bool


def random_streams(seed: int, keys: Sequence[str], k: int, length: int) -> Float[np.ndarray, "b k length"]:
    """Uniform numbers in [0, 1): row (image, k) depends on (seed, key, k) only."""

    def stream(key: str, index: int) -> np.ndarray:
        digest = blake2b(f"{seed}/{index}/{key}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(length)

    return np.stack([np.stack([stream(key, index) for index in range(k)]) for key in keys])


def draw(logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"], temperature: float) -> Int[Tensor, " n"]:
    """One token a row by inverting the cumulative distribution, in float64; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )


@torch.no_grad()
def sample_completions(
    model: PreTrainedModel,
    prompts: Encoded,
    *,
    uniforms: Float[np.ndarray, "b k length"],
    temperature: float,
    eos_token_ids: Sequence[int],
) -> list[list[Completion]]:
    """K completions of each of B prompts (`collate`d), of at most `length` tokens."""
    batch, k, length = uniforms.shape
    device = prompts["input_ids"].device
    uniform = torch.from_numpy(uniforms.reshape(batch * k, length)).to(device)
    eos = torch.tensor(sorted(set(eos_token_ids)), device=device)
    placeholders = image_placeholders(model)
    positions, start = prompt_positions(model, prompts)
    prefill = model(**prompts, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache = prefill.past_key_values
    cache.batch_repeat_interleave(k)
    logits = prefill.logits[:, -1].repeat_interleave(k, 0)
    mask = prompts["attention_mask"].repeat_interleave(k, 0)
    start = start.repeat_interleave(k)
    alive = torch.arange(batch * k, device=device)  # which completion each row of the cache is
    tokens: list[list[int]] = [[] for _ in range(batch * k)]
    ended = [False] * (batch * k)
    for step in range(length):
        logits[:, placeholders] = -torch.inf
        token = draw(logits, uniform[alive, step], temperature)
        done = torch.isin(token, eos)
        for row, value, finished in zip(alive.tolist(), token.tolist(), done.tolist(), strict=True):
            tokens[row].append(value)
            ended[row] = finished
        if step + 1 == length or bool(done.all()):
            break
        if bool(done.any()):
            keep = (~done).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, token, mask, start = alive[keep], token[keep], mask[keep], start[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=completion_positions(positions, start + step, 1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    flat = [Completion(tuple(ids), not end) for ids, end in zip(tokens, ended, strict=True)]
    return [flat[i * k : (i + 1) * k] for i in range(batch)]


def image_placeholders(model: PreTrainedModel) -> list[int]:
    """Tokens that stand for pixels. One in a response would be taken for an image that is not there."""
    named = [getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")]
    return [token for token in named if token is not None]


def eos_token_ids(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """Every token that ends a response: the tokenizer's, and those that the model's generation settings name."""
    named = model.generation_config.eos_token_id
    ids = [] if named is None else [named] if isinstance(named, int) else list(named)
    return sorted({*ids, processor.tokenizer.eos_token_id})


def decode(processor: ProcessorMixin, completion: Completion) -> str:
    return processor.tokenizer.decode(list(completion.ids), skip_special_tokens=True)
