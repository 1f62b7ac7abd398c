"""Training the expected score itself: the distribution over the digits of the answer is differentiable, so nothing is
drawn. What `--mode expect` reads is what is learnt here.

The objectives are those of RL2R's peers, on one model:

- "fidelity": RL2R's reward (Eq. 3, rl2r.fidelity) as a loss. Mean and variance are those of the distribution instead
  of K samples, as UNIQUE has it with a network's own (Zhang et al. 2021). Compares within a data set, on any scale.
- "regression": the squared error of the mean, as MUSIQ and MANIQA learn.
- "levels": the cross-entropy of the nearest of five levels, here the bare answers 1 to 5, whose mean is the score, as
  Q-Align has it with five words (Wu et al. 2023).
- "soft_levels": the same with the shares of the two nearest levels, whose mean is the MOS itself: the soft label of
  DeQA-Score (You et al. 2025) where no std of the opinions is given.

Only the answer that is given at once is learnt, and a small model forgets how to reason meanwhile: 300 steps on nano's
decoder left no readable reasoning. With `rehearsal` the manifests' own reasonings are learnt beside it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from trl import SFTTrainer

from .. import response
from ..errors import UserError
from ..models.encode import Encoded, collate, prompt_positions
from ..models.generate import eos_token_ids, random_streams
from ..models.load import VisionLanguageModel
from ..rl2r import fidelity, thurstone, true_preference
from ..score.expect import ScoreVocabulary, begun
from .examples import Example, PromptEncoder
from .recipe import Objective, Recipe
from .resume import ExactResume
from .sft import TargetCollator


@dataclass(frozen=True)
class Tree:
    """The beginnings of a score that are shorter than one decimal, as a tree of tokens below a prompt.

    Node 0 is the prompt's end; node n > 0 is a `token` after `parents[n]`, `depths[n]` tokens from the prompt. After
    each node `following[n]` are the ids that may come, and what each leads to: a node, or a score where it ends.
    `bare` are the pairs (node, place among those that follow) at which a digit alone ends.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    bare: set[tuple[int, int]]
    following: list[tuple[list[int], list[int | float]]]


def score_tree(vocabulary: ScoreVocabulary) -> Tree:
    """All nodes up to the first decimal, which is where the score is read: a second one moves it by less than 0.1."""
    texts, tree = [""], Tree([-1], [-1], [0], set(), [])
    for node, text in enumerate(texts):  # grows while it is gone through
        ids, leads = vocabulary.following(text)
        if len(text) == 1:
            tree.bare.update((node, index) for index, longer in enumerate(leads) if longer is None)
        places: list[int | float] = []
        for token, longer in zip(ids, leads, strict=True):
            if longer is None or len(longer) > 2:
                places.append(float(longer or text))
            else:
                texts.append(longer)
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(tree.depths[node] + 1)
                places.append(len(texts) - 1)
        tree.following.append((ids, places))
    return tree


@dataclass(frozen=True)
class Distribution:
    """Over S scores, of each of B prompts; `bare` marks those that end after one digit: 3 and not 3.0."""

    values: Float[Tensor, " s"]
    log_probabilities: Float[Tensor, "b s"]
    bare: Bool[Tensor, " s"]

    def levels(self) -> Float[Tensor, "b 5"]:
        """Log-probabilities of the bare answers 1 to 5."""
        ends = [self.bare & (self.values == level) for level in range(1, 6)]
        return torch.stack([self.log_probabilities[:, end].logsumexp(1) for end in ends], 1)

    def moments(self) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Mean and variance."""
        shares = self.log_probabilities.exp()
        mean = shares @ self.values
        return mean, (shares @ self.values.square() - mean.square()).clamp(min=0)


def score_distribution(
    model: Any, core: PreTrainedModel, prompts: Encoded, tree: Tree
) -> Distribution:
    """The distribution over the score of each of B prompts that end in `<answer>`; it can be differentiated.

    All nodes of the tree are in one row behind the prompt, each seeing the prompt, its ancestors and itself.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    batch, length = ids.shape
    nodes = len(tree.tokens) - 1
    sees = torch.eye(nodes, dtype=torch.bool, device=ids.device)
    for node in range(1, nodes + 1):
        if tree.parents[node] > 0:
            sees[node - 1] |= sees[tree.parents[node] - 1]
    whole = torch.zeros(batch, length + nodes, length + nodes, dtype=torch.bool, device=ids.device)
    whole[:, :length, :length] = (
        torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        & mask.bool()[:, None]
    )
    whole[:, length:, :length] = mask.bool()[:, None]
    whole[:, length:, length:] = sees
    whole |= torch.eye(
        length + nodes, dtype=torch.bool, device=ids.device
    )  # padding sees itself: a row must see one
    positions, start = prompt_positions(core, prompts)
    depths = torch.tensor(tree.depths[1:], device=ids.device) - 1
    after = start[:, None] + depths
    after = after if positions.ndim == 2 else after.expand(positions.shape[0], -1, -1)
    inputs = dict(prompts)
    inputs["input_ids"] = torch.cat(
        [ids, torch.tensor(tree.tokens[1:], device=ids.device).expand(batch, -1)], 1
    )
    inputs["attention_mask"] = whole[:, None]
    if "mm_token_type_ids" in prompts:
        kinds = prompts["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(batch, nodes)], 1)
    logits = model(
        **inputs,
        position_ids=torch.cat([positions, after], -1),
        use_cache=False,
        logits_to_keep=torch.arange(length - 1, length + nodes, device=ids.device),
    ).logits.float()
    reached: list[Tensor] = [logits.new_zeros(batch)] * (
        nodes + 1
    )  # log-probability of getting to each node
    values, found, bare = list[float](), list[Tensor](), list[bool]()
    for node, (following, places) in enumerate(tree.following):
        joint = logits[:, node, following].log_softmax(-1) + reached[node][:, None]
        for index, place in enumerate(places):
            if isinstance(place, int):
                reached[place] = joint[:, index]
        ends = [index for index, place in enumerate(places) if isinstance(place, float)]
        values += [float(places[index]) for index in ends]
        found.append(joint[:, ends])
        bare += [(node, index) in tree.bare for index in ends]
    device = logits.device
    return Distribution(
        torch.tensor(values, device=device),
        torch.cat(found, 1),
        torch.tensor(bare, dtype=torch.bool, device=device),
    )


def fidelity_loss(
    mean: Float[Tensor, " b"],
    variance: Float[Tensor, " b"],
    mos: Tensor,
    datasets: Int[Tensor, " b"],
) -> Tensor:
    """1 minus the mean of Eq. 3 (rl2r.fidelity) over all pairs of images of a data set; 0 without a pair.

    The preferences are those of Eq. 1 (rl2r.thurstone) with the mean of both images.
    """
    # In float64: in float32 a preference rounds to 0, and so loses its gradient, at 14 standard deviations,
    # but its root, of which the loss is made, only at 20.
    exact_mean, exact_variance = mean.double(), variance.double()
    better = thurstone(
        exact_mean[:, None], exact_variance[:, None], exact_mean[None], exact_variance[None]
    )
    # The transpose swaps the images of each pair, which is 1 − better without rounding.
    agreement = fidelity(better, better.T, true_preference(mos).to(better.dtype))
    pairs = (datasets[:, None] == datasets[None]) & ~torch.eye(
        len(mos), dtype=torch.bool, device=mos.device
    )
    if not pairs.any():
        return (mean * 0).sum()
    return (1 - agreement[pairs].mean()).to(mean.dtype)


def level_shares(mos: Float[Tensor, " b"], *, soft: bool) -> Float[Tensor, "b 5"]:
    """What the five levels should have: all for the nearest one, or, if `soft`, shares whose mean is the MOS.

    >>> level_shares(torch.tensor([3.25]), soft=True)
    tensor([[0.0000, 0.0000, 0.7500, 0.2500, 0.0000]])
    """
    distance = (mos[:, None] - torch.arange(1.0, 6.0, dtype=mos.dtype, device=mos.device)).abs()
    return (1 - distance).clamp(min=0) if soft else F.one_hot(distance.argmin(1), 5).to(mos.dtype)


def objective_loss(
    objective: Objective, found: Distribution, mos: Float[Tensor, " b"], datasets: Int[Tensor, " b"]
) -> Tensor:
    """The loss of a batch; MOS are from 1 to 5 for all objectives but fidelity."""
    match objective:
        case "fidelity":
            return fidelity_loss(*found.moments(), mos, datasets)
        case "regression":
            mean, _ = found.moments()
            return F.mse_loss(mean, mos.to(mean.dtype))
        case "levels" | "soft_levels":
            levels = found.levels()
            return (
                -(level_shares(mos.to(levels.dtype), soft=objective == "soft_levels") * levels)
                .sum(1)
                .mean()
            )


class ExpectedScoreTrainer(ExactResume, SFTTrainer):
    """Trains the expected score of `examples`, in the `order` of `run_order`."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        examples: list[Example],
        recipe: Recipe,
        order: list[tuple[int, int]],
        **kwargs: Any,
    ):
        self.recipe = recipe
        self.mos = torch.tensor([e.mos for e in examples], dtype=torch.float64)
        self.datasets = torch.tensor([e.dataset for e in examples])
        vocabulary = ScoreVocabulary(
            vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor)
        )
        self.tree = score_tree(vocabulary)
        super().__init__(
            model=vlm.model,
            data_collator=BegunAnswers(vlm, examples, recipe, vocabulary.opening),
            train_dataset=Dataset.from_dict(
                {"row": [r for r, _ in order], "visit": [v for _, v in order]}
            ),
            processing_class=vlm.processor,
            **kwargs,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        prompts: dict[str, Any] = dict(inputs)
        # MOS do not travel with the batch: DeepSpeed would round them to bfloat16, and make ties of near ones.
        rows, rehearsed = prompts.pop("rows").cpu(), prompts.pop("rehearsed", None)
        mos, datasets = (x[rows].to(self.accelerator.device) for x in (self.mos, self.datasets))
        found = score_distribution(
            model, self.accelerator.unwrap_model(self.model), prompts, self.tree
        )
        loss = objective_loss(self.recipe.expect.objective, found, mos, datasets)
        mean, variance = found.moments()
        if rehearsed is not None:
            spoken = model(**rehearsed).loss
            self._metrics["train"]["rehearsal_loss"].append(spoken.item())
            loss = loss + self.recipe.expect.rehearsal * spoken
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step}")
        self._metrics["train"]["score_mean"].append(mean.mean().item())
        self._metrics["train"]["score_std"].append(variance.sqrt().mean().item())
        return loss  # Trainer divides by the accumulation


class BegunAnswers:
    """Rows -> prompts that end in `<answer>`, with the rows' numbers; and as many targets to rehearse."""

    def __init__(
        self, vlm: VisionLanguageModel, examples: list[Example], recipe: Recipe, opening: list[int]
    ):
        self.examples, self.opening, self.seed = examples, opening, recipe.seed
        self.question = response.prompt_text(
            recipe.prompt, reasoning=False, reference=recipe.reference
        )
        self.pad = vlm.processor.tokenizer.pad_token_id
        self.encode = PromptEncoder(vlm, remember=recipe.freeze_vision)
        self.targets = TargetCollator(vlm, examples, recipe) if recipe.expect.rehearsal else None
        self.reasoned = [index for index, example in enumerate(examples) if example.reasoning]
        if self.targets and not self.reasoned:
            raise UserError(
                "expect.rehearsal learns reasonings, and no manifest has any: add a column reasoning"
            )
        wrong = [
            examples[i]
            for i in self.reasoned
            if not response.LOWEST <= examples[i].mos <= response.HIGHEST
        ]
        if self.targets and wrong:
            raise UserError(
                f"expect.rehearsal learns the answer with the reasoning, and {wrong[0].path} has the MOS "
                f"{wrong[0].mos:g}: give mos_range: [lowest, highest] of its scale, or leave its reasonings out"
            )

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        examples = [self.examples[row["row"]] for row in rows]
        encoded = self.encode([(e.images, self.question) for e in examples])
        batch: dict[str, Any] = collate(
            [begun(prompt, self.opening) for prompt in encoded], self.pad
        )
        batch["rows"] = torch.tensor([row["row"] for row in rows])
        if self.targets:
            batch["rehearsed"] = self.targets([self._to_rehearse(row) for row in rows])
        return batch

    def _to_rehearse(self, row: dict[str, int]) -> dict[str, int]:
        """Any reasoned image, decided by seed, visit and row alone, so that a resumed run rehearses the same."""
        share = random_streams(self.seed, [f"rehearsal/{row['visit']}/{row['row']}"], 1, 1)[0, 0, 0]
        return {"row": self.reasoned[int(share * len(self.reasoned))], "visit": row["visit"]}
