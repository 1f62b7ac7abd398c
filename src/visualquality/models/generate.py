"""Sampling K responses for each image: the prompt goes through the model once, however many responses follow.

Every response has a random stream of its own, a function of (seed, image, k) alone. So a response does not depend on
the batch that it is drawn in, on the number of processes, or on what was drawn before; a run that resumes draws what
it would have drawn.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from .encode import Encoded, completion_positions, prompt_positions


@dataclass(frozen=True)
class Completion:
    """Token ids up to and with the end-of-sequence token; `truncated` where the limit came first."""

    ids: tuple[int, ...]
    truncated: bool


def random_streams(
    seed: int, keys: Sequence[str], k: int, length: int
) -> Float[np.ndarray, "b k length"]:
    """Uniform numbers in [0, 1): row (image, k) depends on (seed, key, k) only."""

    def stream(key: str, index: int) -> np.ndarray:
        digest = blake2b(f"{seed}/{index}/{key}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(
            length
        )

    return np.stack([np.stack([stream(key, index) for index in range(k)]) for key in keys])


def draw(
    logits: Float[Tensor, "n v"], uniform: Float[Tensor, " n"], temperature: float
) -> Int[Tensor, " n"]:
    """One token a row by inverting the cumulative distribution, in float64; temperature 0 takes the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[
        :, 0
    ].clamp(max=logits.shape[-1] - 1)


@dataclass(frozen=True)
class Prefilled:
    """B prompts that have gone through the model. Nothing here changes, so that one can go on from it again and again.

    `logits` (B, V) are of the first token after each prompt; `mask` (B, P) marks what is not padding; `start` (B,) is
    the position of that first token; `positions` are the prompt's own, whose axes say whether it is M-RoPE.
    """

    model: PreTrainedModel
    past: Cache
    logits: Float[Tensor, "b v"]
    mask: Int[Tensor, "b p"]
    positions: Int[Tensor, "..."]
    start: Int[Tensor, " b"]

    def cache(self) -> Cache:
        """A cache to append to. The tensors are shared: appending makes new ones."""
        past = copy.copy(self.past)
        past.layers = [copy.copy(layer) for layer in self.past.layers]
        return past

    def take(self, rows: Int[Tensor, " n"]) -> "Prefilled":
        """Some of the prompts."""
        past = self.cache()
        past.batch_select_indices(rows)
        return Prefilled(
            self.model, past, self.logits[rows], self.mask[rows], self.positions, self.start[rows]
        )

    def step(
        self,
        tokens: Int[Tensor, "n k"],
        step: int,
        seen: Tensor,
        past: Cache,
        start: Int[Tensor, " n"],
    ) -> Float[Tensor, "n k v"]:
        """Append `k` tokens to each row, all at place `step` after their prompt; `seen` (n, k, cached + k) is what each
        may look at."""
        rows, k = tokens.shape
        one = completion_positions(self.positions, start + step, 1)
        return self.model(
            input_ids=tokens,
            attention_mask=seen[:, None],
            position_ids=one.expand(*self.positions.shape[:-2], rows, k),
            past_key_values=past,
            use_cache=True,
        ).logits


@torch.no_grad()
def prefill(model: PreTrainedModel, prompts: Encoded) -> Prefilled:
    """Send B prompts (`collate`d), pixels and all, through the model."""
    positions, start = prompt_positions(model, prompts)
    output = model(**prompts, position_ids=positions, use_cache=True, logits_to_keep=1)
    return Prefilled(
        model,
        output.past_key_values,
        output.logits[:, -1],
        prompts["attention_mask"],
        positions,
        start,
    )


@torch.no_grad()
def sample_completions(
    prefilled: Prefilled,
    *,
    uniforms: Float[np.ndarray, "b k length"],
    temperature: float,
    eos_token_ids: Sequence[int],
) -> list[list[Completion]]:
    """K completions of each of B prompts, of at most `length` tokens.

    An image stays one row: its prompt is in the cache once, and a step appends K tokens, one for each response, that
    see the prompt and their own response only.
    """
    batch, k, length = uniforms.shape
    device = prefilled.logits.device
    uniform = torch.from_numpy(uniforms).to(device)
    eos = torch.tensor(sorted(set(eos_token_ids)), device=device)
    placeholders = image_placeholders(prefilled.model)
    cache, start = prefilled.cache(), prefilled.start
    logits = prefilled.logits[:, None].expand(-1, k, -1)
    seen = prefilled.mask.bool()[:, None].expand(-1, k, -1)
    own = torch.eye(k, dtype=torch.bool, device=device)
    rows = torch.arange(batch, device=device)  # which image each row of the cache is
    ended = torch.zeros(batch, k, dtype=torch.bool, device=device)
    tokens: list[list[list[int]]] = [[[] for _ in range(k)] for _ in range(batch)]
    for step in range(length):
        logits = logits.clone()
        logits[..., placeholders] = -torch.inf
        token = draw(logits.flatten(0, 1), uniform[rows, :, step].flatten(), temperature).view(
            -1, k
        )
        for row, values, over in zip(
            rows.tolist(), token.tolist(), ended[rows].tolist(), strict=True
        ):
            for index in range(k):
                if not over[index]:
                    tokens[row][index].append(values[index])
        ended[rows] |= torch.isin(token, eos)
        going = (~ended[rows].all(1)).nonzero()[:, 0]
        if step + 1 == length or len(going) == 0:
            break
        if len(going) < len(rows):
            cache.batch_select_indices(going)
            rows, token, seen, start = rows[going], token[going], seen[going], start[going]
        seen = torch.cat([seen, own.expand(len(rows), -1, -1)], -1)
        logits = prefilled.step(token, step, seen, cache, start)
    return [
        [Completion(tuple(ids), not over) for ids, over in zip(group, flags, strict=True)]
        for group, flags in zip(tokens, ended.tolist(), strict=True)
    ]


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
