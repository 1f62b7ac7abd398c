"""The score that a model expects to give, read off its distribution over the digits of the answer.

The answer is begun for the model (`<answer>`), and what could follow is a small tree of tokens: a first digit, a point,
decimals, or the end. One prefill and a few short packed forwards (a token a branch) give the probability of each score;
nothing is drawn, the result is always in [1, 5] and never unreadable. Q-Align and DeQA-Score read levels so; here it is
the digits themselves (cf. arXiv 2503.03064: the mean beats the mode).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..models.encode import Encoded
from ..models.generate import Prefilled
from ..response import HIGHEST

OPENING, CLOSING = "<answer>", "</answer>"
# A branch that can move the mean by less is not followed: it counts as the middle of what it can become.
NEGLIGIBLE = 5e-4

_BEGINS = re.compile(r"[1-4](\.\d{0,2})?|5(\.0{0,2})?")  # what can still become a score in [1, 5]
_COMPLETE = re.compile(r"[1-5](\.\d{1,2})?")
_FINEST = re.compile(r"[1-5]\.\d\d")  # a further decimal cannot matter


@dataclass(frozen=True)
class Expectation:
    """A distribution over scores: `values` in [1, 5], ascending, and their `probabilities`, which sum to 1."""

    values: tuple[float, ...]
    probabilities: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(v * p for v, p in zip(self.values, self.probabilities, strict=True))

    @property
    def std(self) -> float:
        mean = self.mean
        variance = math.fsum(
            p * (v - mean) ** 2 for v, p in zip(self.values, self.probabilities, strict=True)
        )
        return math.sqrt(variance)


class ScoreVocabulary:
    """Which tokens scores are written with in a tokenizer, whether digits are a token each or merged.

    `following` says what may come after the beginning of a score. Raises UserError where the tokenizer cannot write
    the digits 1 to 5.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: Sequence[int]):
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.opening: list[int] = tokenizer(OPENING, add_special_tokens=False).input_ids
        self._numbers = {
            i: t for i, t in enumerate(tokens) if t and re.fullmatch(r"[0-9.]{1,4}", t)
        }
        self._ends = sorted(
            {*eos, *(i for i, t in enumerate(tokens) if t and CLOSING.startswith(t))}
        )
        self._known: dict[str, tuple[list[int], list[str | None]]] = {}
        if not {"1", "2", "3", "4", "5"} <= {text[0] for text in self._numbers.values()}:
            raise UserError(
                "this model's tokenizer has no tokens for the digits 1 to 5; use mode reason or direct"
            )

    def following(self, text: str) -> tuple[list[int], list[str | None]]:
        """Token ids that may follow `text`, and what the score then reads: None is an end."""
        if text not in self._known:
            longer = {i: text + t for i, t in self._numbers.items() if _BEGINS.fullmatch(text + t)}
            ends = self._ends if _COMPLETE.fullmatch(text) else []
            self._known[text] = [*longer, *ends], [*longer.values(), *[None] * len(ends)]
        return self._known[text]


@dataclass(frozen=True)
class _Branch:
    row: int
    text: str
    probability: float
    token: int
    parent: int  # among the branches of its row, one step before


def begun(prompt: Encoded, opening: Sequence[int]) -> Encoded:
    """The prompt with the answer begun: per-token tensors grow by the tokens of `<answer>`."""
    length = len(prompt["input_ids"])
    ids = torch.tensor(list(opening), dtype=prompt["input_ids"].dtype)
    longer = {
        k: torch.cat([v, v.new_zeros(len(ids))]) for k, v in prompt.items() if v.shape == (length,)
    }
    return {**prompt, **longer, "input_ids": torch.cat([prompt["input_ids"], ids])}


@torch.no_grad()
def expected_scores(prefilled: Prefilled, vocabulary: ScoreVocabulary) -> list[Expectation]:
    """The distribution over scores for each of B prompts that end in `<answer>`.

    At every place the probabilities are those of the tokens that can write a score, scaled to sum to one.
    """
    batch = len(prefilled.start)
    found: list[dict[float, float]] = [{} for _ in range(batch)]
    branches: list[_Branch] = []
    for row, logits in enumerate(prefilled.logits):
        branches += _grow(row, "", 1.0, 0, logits, vocabulary, found[row])
    cache = prefilled.cache()
    seen = prefilled.mask.bool()[:, None]  # (B, branches, cached): what each branch looks at
    step = 0
    while branches:
        by_row = [[b for b in branches if b.row == row] for row in range(batch)]
        width = max(map(len, by_row))
        # Rows have unequal numbers of branches: one that does not exist is a copy that nobody reads.
        parents = _padded([[b.parent for b in own] for own in by_row], width).to(seen.device)
        tokens = _padded([[b.token for b in own] for own in by_row], width).to(seen.device)
        own = torch.eye(width, dtype=torch.bool, device=seen.device).expand(batch, -1, -1)
        seen = torch.cat([seen.gather(1, parents[..., None].expand(-1, -1, seen.shape[2])), own], 2)
        logits = prefilled.step(tokens, step, seen, cache, prefilled.start)
        branches = [
            child
            for row, members in enumerate(by_row)
            for place, b in enumerate(members)
            for child in _grow(
                row, b.text, b.probability, place, logits[row, place], vocabulary, found[row]
            )
        ]
        step += 1
    return [
        Expectation(tuple(sorted(scores)), tuple(scores[v] for v in sorted(scores)))
        for scores in found
    ]


def _grow(
    row: int,
    text: str,
    probability: float,
    place: int,
    logits: Float[Tensor, " v"],
    vocabulary: ScoreVocabulary,
    found: dict[float, float],
) -> list[_Branch]:
    """The branches that go on from `text`; scores that end here are added to `found`."""
    ids, texts = vocabulary.following(text)
    shares = logits[ids].double().softmax(0).tolist()
    branches = []
    for token, longer, share in zip(ids, texts, shares, strict=True):
        joint = probability * share
        if longer is None or _FINEST.fullmatch(longer) or joint * reach(longer) / 2 < NEGLIGIBLE:
            value = float(text) if longer is None else round(float(longer) + reach(longer) / 2, 3)
            found[value] = found.get(value, 0.0) + joint
        else:
            branches.append(_Branch(row, longer, joint, token, place))
    return branches


def reach(text: str) -> float:
    """How far above `text` the scores of two decimals go that begin like it.

    >>> reach("3"), reach("3."), reach("3.4"), reach("3.45"), reach("5.")
    (0.99, 0.99, 0.09, 0.0, 0.0)
    """
    decimals = len(text.partition(".")[2])
    return 0.0 if float(text) == HIGHEST else (0.99, 0.09, 0.0)[decimals]


def _padded(rows: list[list[int]], width: int) -> Tensor:
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
