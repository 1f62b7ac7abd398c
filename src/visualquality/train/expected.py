"""Training the expected score itself: the distribution over the digits of the answer is differentiable, so nothing is
drawn. It is the score that `--mode expect` reads (`models/digits.py`).

The objectives are those of RL2R's peers, on one model:

- "fidelity": RL2R's reward (Eq. 1-3) as a loss. Mean and variance are those of the distribution instead of K samples,
  as UNIQUE has it with a network's own (Zhang et al. 2021). Compares within a data set, on any scale.
- "regression": the squared error of the mean, as MUSIQ and MANIQA learn.
- "levels": the cross-entropy of the nearest of five levels, here the bare answers 1 to 5, whose mean is the score, as
  Q-Align has it with five words (Wu et al. 2023).
- "soft_levels": the same with the shares of the two nearest levels, whose mean is the MOS itself: the soft label of
  DeQA-Score (You et al. 2025) where no std of the opinions is given.

Only the answer without words is trained, and a small model forgets how to reason meanwhile: 300 steps on nano's
decoder left no readable reasoning. With `rehearsal` the manifests' own reasonings are trained beside it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .. import response
from ..errors import UserError
from ..models.digits import DigitTree, ScoreDistribution, score_distribution_with_gradient
from ..models.generate import eos_token_ids
from ..models.prompt import collate
from ..rl2r import fidelity, thurstone, true_preference
from ..seeds import uniform_streams
from .examples import Example, PromptEncoder
from .recipe import Objective, Recipe
from .supervised import SupervisedTrainer


def fidelity_loss(
    mean: Float[Tensor, " b"],
    variance: Float[Tensor, " b"],
    mos: Tensor,
    datasets: Int[Tensor, " b"],
) -> Tensor:
    """1 minus the mean of Eq. 3 (rl2r.fidelity) over all pairs of images of a data set; 0 without a pair.

    The preferences are those of Eq. 1 (rl2r.thurstone) with the mean of both images.
    """
    # In float64: a preference rounds to 0 in float32 from 14 standard deviations on, and then has no gradient,
    # although its square root, of which the loss is made, would be above 0 up to 20.
    m, v = mean.double(), variance.double()
    better = thurstone(m[:, None], v[:, None], m, v)
    # The transpose swaps the images of each pair, which is 1 − better without rounding.
    agreement = fidelity(better, better.T, true_preference(mos))
    pairs = (datasets[:, None] == datasets).fill_diagonal_(False)
    if not pairs.any():
        return (mean * 0).sum()  # with a gradient, so that the step goes on as any other
    return (1 - agreement[pairs].mean()).to(mean.dtype)


def level_shares(mos: Float[Tensor, " b"], *, soft: bool) -> Float[Tensor, "b 5"]:
    """What the five levels should have: all for the nearest one, or, if `soft`, shares whose mean is the MOS.

    >>> level_shares(torch.tensor([3.25]), soft=True)
    tensor([[0.0000, 0.0000, 0.7500, 0.2500, 0.0000]])
    """
    distance = (mos[:, None] - torch.arange(1.0, 6.0, dtype=mos.dtype, device=mos.device)).abs()
    return (1 - distance).clamp(min=0) if soft else F.one_hot(distance.argmin(1), 5).to(mos.dtype)


def objective_loss(
    objective: Objective,
    found: ScoreDistribution,
    mos: Float[Tensor, " b"],
    datasets: Int[Tensor, " b"],
) -> Tensor:
    """The loss of a batch; MOS are from 1 to 5 for all objectives but fidelity."""
    match objective:
        case "fidelity":
            return fidelity_loss(found.mean(), found.variance(), mos, datasets)
        case "regression":
            mean = found.mean()
            return F.mse_loss(mean, mos.to(mean.dtype))  # one of two types would be refused
        case "levels" | "soft_levels":
            levels = found.levels()
            shares = level_shares(mos.to(levels.dtype), soft=objective == "soft_levels")
            return -(shares * levels).sum(1).mean()


class ExpectedScoreTrainer(SupervisedTrainer):
    """Trains the expected score of images, and with `rehearsal` their reasonings as a `SupervisedTrainer` does."""

    def __init__(
        self,
        recipe: Recipe,
        examples: list[Example],
        order: list[tuple[int, int]],
        encode: PromptEncoder,
        **kwargs: Any,
    ):
        self.mos = torch.tensor([e.mos for e in examples], dtype=torch.float64)
        self.datasets = torch.tensor(
            np.unique([e.dataset for e in examples], return_inverse=True)[1]
        )
        self.question = response.prompt_text(
            recipe.prompt, reasoning=False, reference=recipe.reference
        )
        vlm = encode.vlm
        self.tree = DigitTree(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))
        # Only some of the images may have a reasoning: they are rehearsed with whatever image is trained on.
        self.reasoned = [row for row, example in enumerate(examples) if example.reasoning]
        if recipe.expect.rehearsal:
            _check_rehearsal([examples[row] for row in self.reasoned])
        super().__init__(recipe, examples, order, encode, **kwargs)

    def make_batch(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Prompts that end in `<answer>`, with the numbers of their rows; and as many responses to rehearse."""
        wanted = [(self.examples[row["row"]].images, self.question) for row in rows]
        prompts = [prompt.followed_by(self.tree.opening) for prompt in self.encode(wanted)]
        batch: dict[str, Any] = {
            "prompts": collate(prompts, self.vlm.processor.tokenizer.pad_token_id),
            # Not their MOS: DeepSpeed would round these to bfloat16, and make ties of near ones.
            "rows": torch.tensor([row["row"] for row in rows]),
        }
        if self.recipe.expect.rehearsal:
            batch["rehearsed"] = super().make_batch([self._to_rehearse(row) for row in rows])
        return batch

    def _to_rehearse(self, row: dict[str, int]) -> dict[str, int]:
        """Any reasoned image, decided by seed, visit and row alone, so that a resumed run rehearses the same."""
        name = f"rehearsal/{row['visit']}/{row['row']}"
        share = uniform_streams(self.recipe.seed, [name], 1, 1)[0, 0, 0]
        return {"row": self.reasoned[int(share * len(self.reasoned))], "visit": row["visit"]}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        rows, device = inputs["rows"].cpu(), self.accelerator.device
        core = self.accelerator.unwrap_model(self.model)
        found = score_distribution_with_gradient(
            model, core, inputs["prompts"].to(device), self.tree
        )
        mos, datasets = self.mos[rows].to(device), self.datasets[rows].to(device)
        loss = objective_loss(self.recipe.expect.objective, found, mos, datasets)
        if "rehearsed" in inputs:
            # In a forward of its own: behind these prompts stands a response, not the digit tree.
            # By TRL's own head, which never has the logits of all tokens at once.
            rehearsal = model(**inputs["rehearsed"], fused_lm_head=True).loss
            self.log_metrics({"rehearsal_loss": rehearsal})
            loss = loss + self.recipe.expect.rehearsal * rehearsal
        self.check_loss(loss)
        self.log_metrics(
            {"score_mean": found.mean().mean(), "score_std": found.variance().sqrt().mean()}
        )
        return loss  # Trainer divides by the accumulation


def _check_rehearsal(reasoned: list[Example]) -> None:
    """Raises UserError where there is nothing to rehearse, or a MOS could not be written as an answer."""
    if not reasoned:
        raise UserError(
            "expect.rehearsal trains on reasonings, and no manifest has any: add a column reasoning"
        )
    for example in reasoned:
        if not response.LOWEST <= example.mos <= response.HIGHEST:
            raise UserError(
                f"expect.rehearsal trains on the answer with the reasoning, and {example.path} has the MOS "
                f"{example.mos:g}: give mos_range: [lowest, highest] of its scale, or leave its reasonings out"
            )
