"""Sampling K responses for each image: the prompt goes through the model once, however many responses follow.

Every response has a random stream of its own, a function of (seed, image, k) alone (`seeds.uniform_streams`). So a
response does not depend on the batch that it is drawn in, on the number of processes, or on what was drawn before; a
run that resumes draws what it would have drawn.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    Cache,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.processing_utils import ProcessorMixin

from .families import placeholder_ids
from .prompt import Positions, PromptBatch, pad, prompt_positions


@dataclass(frozen=True)
class Completion:
    """Token ids up to and with the end-of-sequence token; `truncated` where the limit came first."""

    ids: tuple[int, ...]
    truncated: bool


def draw(
    logits: Float[Tensor, "n v"],
    uniform: Float[Tensor, " n"],
    temperature: float,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Tensor, " n"]:
    """One token a row by inverting the cumulative distribution, in float64; temperature 0 takes the likeliest.

    In the order of transformers' `generate`: the temperature, then the `top_k` likeliest tokens (0: all) and those
    as likely as the last of them, then the fewest likeliest of these that have the probability `top_p` together.
    """
    if temperature == 0:
        return logits.argmax(-1)
    # In float32 the sum over a vocabulary of 152,000 would be off by more than a rare token's probability.
    scaled = logits.double() / temperature
    # The two look at scores alone. The first argument is what their common base class hands to all.
    no_ids: Any = None
    if top_k > 0:
        scaled = TopKLogitsWarper(top_k)(no_ids, scaled)
    if top_p < 1:
        scaled = TopPLogitsWarper(top_p)(no_ids, scaled)
    probabilities = scaled.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # The sum is 1 but for rounding; times it, no target lies beyond the last token.
    target = uniform * cumulative[:, -1]
    # `right`: a target of 0 skips tokens of probability 0, such as placeholders.
    token = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return token.clamp(max=logits.shape[-1] - 1)


@dataclass(frozen=True)
class Prefilled:
    """B prompts that have gone through the model. Nothing here changes, so several samplings can start from it.

    `logits` (B, V) are of the first token after each prompt; `ids` (B, P) are the tokens of the prompts, and `mask`
    (B, P) marks what is not padding.
    """

    model: PreTrainedModel
    past: Cache
    logits: Float[Tensor, "b v"]
    ids: Int[Tensor, "b p"]
    mask: Int[Tensor, "b p"]
    positions: Positions

    def cache(self) -> Cache:
        """A cache to append to. The tensors are shared: appending makes new ones."""
        past = copy.copy(self.past)
        past.layers = [copy.copy(layer) for layer in self.past.layers]
        return past

    def take(self, rows: Int[Tensor, " n"]) -> "Prefilled":
        """Some of the prompts."""
        past = self.cache()
        past.batch_select_indices(rows)
        positions = Positions(self.positions.prompt, self.positions.next[rows])
        return Prefilled(
            self.model, past, self.logits[rows], self.ids[rows], self.mask[rows], positions
        )

    def append(
        self,
        past: Cache,
        tokens: Int[Tensor, "n t"],
        positions: Int[Tensor, "*axes n t"],
        visible: Bool[Tensor, "n t cached_and_t"],
        *,
        keep: int = 0,
    ) -> Float[Tensor, "n kept v"]:
        """Logits after each of `tokens`, which are appended to `past`; `visible` says what each of them looks at.

        `keep`: give the logits of so many last tokens only; 0 gives them all.
        """
        return self.model(
            input_ids=tokens,
            attention_mask=visible[:, None],
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    @torch.no_grad()
    def followed_by(self, written: Sequence[Sequence[int]]) -> "Prefilled":
        """The prompts with text tokens behind them: one row for each prompt, of any length but none empty."""
        device = self.logits.device
        ids = [torch.tensor(row) for row in written]
        ones = [torch.ones(len(row), dtype=torch.long) for row in written]
        # On the left, so that all rows end in the same column. What stands in the padding nobody sees.
        tokens = pad(ids, 0, side="left").to(device)
        mask = pad(ones, 0, side="left").to(device)
        batch, length = tokens.shape
        # All see their whole prompt. Padding sees that too: a row that sees nothing has no softmax.
        prompt = self.mask.bool()[:, None].expand(-1, length, -1)
        causal = torch.ones(batch, length, length, dtype=torch.bool, device=device).tril()
        visible = torch.cat([prompt, causal & mask.bool()[:, None]], 2)
        offsets = (mask.cumsum(1) - 1).clamp(min=0)
        past = self.cache()
        logits = self.append(past, tokens, self.positions.after(offsets), visible, keep=1)
        positions = Positions(self.positions.prompt, self.positions.next + mask.sum(1))
        return Prefilled(
            self.model,
            past,
            logits[:, -1],
            torch.cat([self.ids, tokens], 1),
            torch.cat([self.mask, mask], 1),
            positions,
        )


@torch.no_grad()
def prefill(model: PreTrainedModel, prompts: PromptBatch) -> Prefilled:
    """Send B prompts, pixels and all, through the model."""
    positions = prompt_positions(model, prompts)
    output = model(
        **prompts.inputs(),
        position_ids=positions.prompt,
        use_cache=True,
        logits_to_keep=1,  # of all tokens they would take gigabytes
    )
    return Prefilled(
        model,
        output.past_key_values,
        output.logits[:, -1],
        prompts.tokens["input_ids"],
        prompts.mask,
        positions,
    )


@torch.no_grad()
def sample_completions(
    prefilled: Prefilled,
    *,
    uniforms: Float[np.ndarray, "b k length"],
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_ids: Sequence[int],
) -> list[list[Completion]]:
    """K completions of each of B prompts, of at most `length` tokens.

    temperature, top_k, top_p: as in `draw`. repetition_penalty: of a token that is in the prompt or in the response
    so far a logit above 0 is divided by it and one below 0 multiplied, before all else (Keskar et al., 2019, CTRL).
    Padding is no part of the prompt, so that a response does not depend on its batch.

    An image stays one row of the cache: its prompt is there once, and a step appends K tokens, one for each response,
    that see the prompt and their own response only.
    """
    batch, k, length = uniforms.shape
    device = prefilled.logits.device
    uniform = torch.from_numpy(uniforms).to(device)
    eos = torch.tensor(sorted(set(eos_token_ids)), device=device)
    placeholders = placeholder_ids(prefilled.model.config)
    cache = prefilled.cache()
    following = prefilled.positions.next
    # The first tokens of all K responses are drawn from the same logits.
    logits = prefilled.logits[:, None].expand(-1, k, -1)
    # (B, K, cached tokens): grows by the K tokens of each step, of which a response sees its own.
    visible = prefilled.mask.bool()[:, None].expand(-1, k, -1)
    own = torch.eye(k, dtype=torch.bool, device=device)
    rows = torch.arange(batch, device=device)  # which image each row of the cache is of
    ended = torch.zeros(batch, k, dtype=torch.bool, device=device)
    penalty = None
    if repetition_penalty != 1:
        penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty)
    # (B, K, P + step): the prompt and the response so far. Padding is replaced by the prompt's last token.
    written = torch.where(prefilled.mask.bool(), prefilled.ids, prefilled.ids[:, -1:])
    written = written[:, None].expand(-1, k, -1)
    tokens: list[list[list[int]]] = [[[] for _ in range(k)] for _ in range(batch)]
    for step in range(length):
        logits = logits.clone()  # at first they are a view of those of `prefilled`
        logits[..., placeholders] = -torch.inf
        scores = logits.flatten(0, 1)
        if penalty is not None:
            # In float32, as `generate` has it: a penalty of 1.05 is hardly seen in bfloat16.
            scores = penalty(written.flatten(0, 1), scores.float())
        drawn = uniform[rows, :, step].flatten()
        token = draw(scores, drawn, temperature, top_k=top_k, top_p=top_p)
        token = token.view(-1, k)
        # A response that has ended is still drawn while its image has others, but not kept.
        before = ended[rows].tolist()
        for row, values, over in zip(rows.tolist(), token.tolist(), before, strict=True):
            for index in range(k):
                if not over[index]:
                    tokens[row][index].append(values[index])
        ended[rows] |= torch.isin(token, eos)
        finished = ended[rows].all(1)
        unfinished = (~finished).nonzero()[:, 0]
        if step + 1 == length or len(unfinished) == 0:
            break
        if len(unfinished) < len(rows):
            # Images whose responses have all ended leave the cache, so that the rest is faster.
            cache.batch_select_indices(unfinished)
            rows = rows[unfinished]
            token = token[unfinished]
            visible = visible[unfinished]
            following = following[unfinished]
            written = written[unfinished]
        if penalty is not None:
            written = torch.cat([written, token[..., None]], -1)
        visible = torch.cat([visible, own.expand(len(rows), -1, -1)], -1)
        offset = torch.full((k,), step, device=device)  # the K tokens of a step stand at one place
        positions = prefilled.positions.after(offset, following)
        logits = prefilled.append(cache, token, positions, visible)
    completions = []
    for group, flags in zip(tokens, ended.tolist(), strict=True):
        pairs = zip(group, flags, strict=True)
        completions.append([Completion(tuple(ids), truncated=not over) for ids, over in pairs])
    return completions


def eos_token_ids(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """Every token that ends a response: the tokenizer's, and those that the model's generation settings name."""
    # Some models end a message with another token than the tokenizer's; the settings name one, several or none.
    named = model.generation_config.eos_token_id
    if named is None:
        ids = []
    elif isinstance(named, int):
        ids = [named]
    else:
        ids = list(named)
    return sorted({*ids, processor.tokenizer.eos_token_id})


def decode(processor: ProcessorMixin, completion: Completion) -> str:
    """The text of a completion, without special tokens."""
    return processor.tokenizer.decode(list(completion.ids), skip_special_tokens=True)
