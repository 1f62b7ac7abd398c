"""The score that a model expects to give, read off its distribution over the digits of the answer.

The answer is opened for the model (`<answer>`), and what could follow is a small tree of tokens: a first digit, a
point, one or two decimals, or the end. The probabilities of the tokens at each place, scaled to those that can write a
score in [1, 5], give the probability of every score. Nothing is drawn, so the result is always in [1, 5] and never
unreadable, and it can be differentiated: scoring (`score_distribution`) and training
(`score_distribution_with_gradient`) share the tree and the reading. Q-Align and DeQA-Score read five levels in this
way; here it is the digits (cf. arXiv 2503.03064: the mean beats the mode).

The same tree reads an answer that the model drew itself (`expected_scores`): everything before its number stays as it
was drawn, and the expectation over the digits that could follow takes the place of the digits that did.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError
from .generate import Completion, Prefilled, decode
from .prompt import PromptBatch, prompt_positions

OPENING, CLOSING = "<answer>", "</answer>"

# What can still become a score in [1, 5].
_BEGINNING = re.compile(r"[1-4](\.\d{0,2})?|5(\.0{0,2})?")
_COMPLETE = re.compile(r"[1-5](\.\d{1,2})?")
_FINEST = re.compile(r"[1-5]\.\d\d")  # a further decimal is not read


@dataclass(frozen=True)
class ScoreDistribution:
    """Distributions over S scores, of each of B prompts. A score may be there several times (3, 3.0 and 3.00).

    values: in [1, 5]. log_probabilities: float64, natural logarithm; their exponentials sum to 1.
    bare: marks the scores of one digit without a point, such as 3.
    """

    values: Float[Tensor, " s"]
    log_probabilities: Float[Tensor, "b s"]
    bare: Bool[Tensor, " s"]

    def mean(self) -> Float[Tensor, " b"]:
        """The expected score, in [1, 5]."""
        return self.log_probabilities.exp() @ self.values

    def variance(self) -> Float[Tensor, " b"]:
        deviations = self.values - self.mean()[:, None]
        weighted = self.log_probabilities.exp() * deviations.square()
        return weighted.sum(1)

    def levels(self) -> Float[Tensor, "b 5"]:
        """Log-probabilities of the bare answers 1 to 5."""
        levels = []
        for level in range(1, 6):
            # A digit is there once for each token that may follow it to end the number.
            ends = self.bare & (self.values == level)
            levels.append(self.log_probabilities[:, ends].logsumexp(1))
        return torch.stack(levels, 1)


class DigitTree:
    """Every way in which a tokenizer can write a score of at most two decimals, as a tree of tokens below `<answer>`.

    Node 0 is the end of the prompt. Node n > 0 is the token `tokens[n - 1]`, `depths[n - 1]` tokens after the prompt,
    below the node `parents[n - 1]`. Digits that a tokenizer merges into one token are nodes as any other.
    opening: the tokens of `<answer>`, after `</think>` where the chat template has begun to think (`thinking`, as
    `prompt.prompt_opening` gives it), since a thinking holds no answer. joined: a token in which the end of a tag and a
    digit are one, as ">3", or None.
    Raises UserError where the tokenizer cannot write the digits 1 to 5.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: Sequence[int], thinking: str = ""):
        opening = f"</think>{OPENING}" if thinking else OPENING
        self.opening: list[int] = tokenizer(opening, add_special_tokens=False).input_ids
        self.joined: str | None = None
        numbers = {}
        ends = set(eos)
        ids = list(range(len(tokenizer)))
        for token, text in enumerate(tokenizer.convert_ids_to_tokens(ids)):
            if not text:  # None where the vocabulary leaves an id out
                continue
            if re.fullmatch(r"[0-9.]{1,4}", text):
                numbers[token] = text
            if re.search(r">.*[0-9]", text):
                self.joined = text
            # A number ends where the tag closes, with whatever piece of it, or with the response.
            if CLOSING.startswith(text):
                ends.add(token)
        first_characters = {text[0] for text in numbers.values()}
        if not first_characters.issuperset("12345"):
            raise UserError(
                "this model's tokenizer has no tokens for the digits 1 to 5; "
                "use mode reason or direct, and reading strict"
            )
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.next_tokens: list[list[int]] = []  # of each node, those that may follow
        self._child_of: list[tuple[int, int]] = []  # (node, place among those that may follow it)
        self._leaves: list[tuple[int, int, float, bool]] = []  # node, place, score, bare
        self._grow(numbers, sorted(ends))

    def _grow(self, numbers: dict[int, str], ends: list[int]) -> None:
        """Breadth first, so that a node comes after its parent."""
        texts = [""]
        depths = [0]
        for node, text in enumerate(texts):  # the list grows while the loop runs over it
            longer = {}
            for token, number in numbers.items():
                if _BEGINNING.fullmatch(text + number):
                    longer[token] = text + number
            for place, (token, written) in enumerate(longer.items()):
                if _FINEST.fullmatch(written):
                    # No node of its own: whatever follows the second decimal, the score is the same.
                    self._leaves.append((node, place, float(written), False))
                    continue
                texts.append(written)
                depths.append(depths[node] + 1)
                self.tokens.append(token)
                self.parents.append(node)
                self._child_of.append((node, place))
            following = list(longer)
            # The number may end here, too, but not at "" or "3.".
            if _COMPLETE.fullmatch(text):
                for token in ends:
                    leaf = (node, len(following), float(text), len(text) == 1)
                    self._leaves.append(leaf)
                    following.append(token)
            self.next_tokens.append(following)
        self.depths = depths[1:]

    def __len__(self) -> int:
        """Number of nodes below the prompt."""
        return len(self.tokens)

    def visible(self, device: torch.device) -> Bool[Tensor, "n n"]:
        """Which nodes each node looks at: its ancestors and itself."""
        sees = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent > 0:  # 0 is the prompt, which all see
                sees[node] |= sees[parent - 1]
        return sees.to(device)

    def offsets(self, device: torch.device) -> Int[Tensor, " n"]:
        """How far after the prompt's end each node stands; the first token after it has 0."""
        return torch.tensor(self.depths, device=device) - 1

    def ids(self, batch: int, device: torch.device) -> Int[Tensor, "b n"]:
        """The tokens, for each of B prompts."""
        return torch.tensor(self.tokens, device=device).expand(batch, -1)

    def distribution(self, logits: Float[Tensor, "b n1 v"]) -> ScoreDistribution:
        """From the logits after the prompt and after each node, (B, 1 + nodes, vocabulary)."""
        # Padded to the longest list of next tokens, so that one gather serves all nodes.
        width = max(map(len, self.next_tokens))
        shape = (len(self) + 1, width)
        following = torch.zeros(shape, dtype=torch.long)
        allowed = torch.zeros(shape, dtype=torch.bool)
        for node, ids in enumerate(self.next_tokens):
            following[node, : len(ids)] = torch.tensor(ids)
            allowed[node, : len(ids)] = True
        following = following.to(logits.device)
        allowed = allowed.to(logits.device)
        # (B, 1 + nodes, width), scaled to the tokens that can write a score.
        shares = logits.gather(2, following.expand(len(logits), -1, -1))
        shares = shares.double().masked_fill(~allowed, -torch.inf)
        shares = shares.log_softmax(-1)
        # Log-probability of arriving at each node; a parent comes before its children.
        reached = [shares.new_zeros(len(shares))]
        for node, place in self._child_of:
            reached.append(reached[node] + shares[:, node, place])
        # A score: arriving at its node, and then the token that ends it there.
        nodes, places, values, bare = zip(*self._leaves, strict=True)
        arrived = torch.stack(reached, 1)[:, list(nodes)]
        ended = shares[:, list(nodes), list(places)]
        return ScoreDistribution(
            torch.tensor(values, dtype=torch.float64, device=logits.device),
            arrived + ended,
            torch.tensor(bare, device=logits.device),
        )


@torch.no_grad()
def score_distribution(prefilled: Prefilled, tree: DigitTree) -> ScoreDistribution:
    """The distribution over the score of each of B prompts that end in `<answer>`: one forward behind their cache."""
    batch = len(prefilled.mask)
    device = prefilled.logits.device
    # Each node sees the whole prompt without its padding, and its own ancestors.
    prompt = prefilled.mask.bool()[:, None].expand(-1, len(tree), -1)
    ancestors = tree.visible(device).expand(batch, -1, -1)
    visible = torch.cat([prompt, ancestors], 2)
    logits = prefilled.append(
        prefilled.cache(),
        tree.ids(batch, device),
        prefilled.positions.after(tree.offsets(device)),
        visible,
    )
    # The first digit comes from the logits after the prompt, which are known already.
    logits = torch.cat([prefilled.logits[:, None], logits], 1)
    return tree.distribution(logits)


def before_number(processor: ProcessorMixin, completion: Completion) -> tuple[int, ...]:
    """The tokens of a readable completion that stand before the number of its (last) answer.

    Between `<answer>` and the number there may be white space; a token that holds both this and a digit is left out.
    Not for tokenizers with a token that holds the end of a tag and a digit (`DigitTree.joined`).
    """
    ids = completion.ids
    openings = decode(processor, completion).count(OPENING)

    def number_has_begun(count: int) -> bool:
        text = decode(processor, Completion(ids[:count], truncated=True))
        _, *answers = text.split(OPENING)
        return len(answers) == openings and answers[-1].strip() != ""

    # It is false for few tokens and true from some number on, so that ten decodings are enough for 512 tokens.
    with_first_digit = bisect_left(range(len(ids) + 1), True, key=number_has_begun)
    return ids[: with_first_digit - 1]


def expected_scores(
    prefilled: Prefilled,
    written: Sequence[tuple[int, tuple[int, ...]]],
    tree: DigitTree,
    *,
    batch: int,
) -> list[tuple[float, float]]:
    """The mean in [1, 5] and the variance of the score after each of `written`.

    written: the number of one of the prompts, from 0, and the tokens that the model wrote after it, up to where the
    score begins. The digits have their probabilities at temperature 1, whatever the tokens before were drawn with.
    batch: how many of them go through the model at a time.
    """
    # The same words have the same digits. At nano's temperature, half of an image's answers or more repeat others.
    distinct = list(dict.fromkeys(written))
    found: dict[tuple[int, tuple[int, ...]], tuple[float, float]] = {}
    for start in range(0, len(distinct), batch):
        part = distinct[start : start + batch]
        prompts = torch.tensor([prompt for prompt, _ in part], device=prefilled.logits.device)
        after = prefilled.take(prompts).followed_by([ids for _, ids in part])
        scores = score_distribution(after, tree)
        moments = zip(scores.mean().tolist(), scores.variance().tolist(), strict=True)
        found.update(zip(part, moments, strict=True))
    return [found[each] for each in written]


def score_distribution_with_gradient(
    model: Any, core: PreTrainedModel, prompts: PromptBatch, tree: DigitTree
) -> ScoreDistribution:
    """The same with a gradient: all nodes stand in one row behind their prompt, and no cache is kept.

    `model` is called (it may be wrapped for several devices); `core` is the bare model, asked for positions.
    """
    batch = len(prompts)
    length = prompts.length
    side = length + len(tree)
    device = prompts.mask.device
    real = prompts.mask.bool()
    # Who sees whom, written out: among nodes it is not causal, but by ancestry.
    visible = torch.zeros(batch, side, side, dtype=torch.bool, device=device)
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible[:, :length, :length] = causal & real[:, None]
    visible[:, length:, :length] = real[:, None]
    visible[:, length:, length:] = tree.visible(device)
    # Padding sees itself: a row that sees nothing has no softmax.
    visible |= torch.eye(side, dtype=torch.bool, device=device)
    positions = prompt_positions(core, prompts)
    node_positions = positions.after(tree.offsets(device))
    logits = model(
        **prompts.followed_by(tree.ids(batch, device)),
        attention_mask=visible[:, None],
        position_ids=torch.cat([positions.prompt, node_positions], -1),
        use_cache=False,
        # From the prompt's last token on, whose logits are those of the first digit.
        logits_to_keep=torch.arange(length - 1, side, device=device),
    ).logits
    return tree.distribution(logits)
