"""Training the expected score itself: the distribution over the digits of the answer is differentiable, so nothing is
drawn. It is the score that `--mode expect` reads (`models/digits.py`).

The objectives are those of RL2R's peers, on one model:

- "fidelity": RL2R's reward (Eq. 1-3) as a loss. Mean and variance are those of the distribution instead of K samples,
  as UNIQUE has it with a network's own (Zhang et al. 2021). Compares within a data set, on any scale.
- "regression": the squared error of the mean, as MUSIQ and MANIQA learn.
- "levels": the cross-entropy of one of five levels, here the bare answers 1 to 5, whose mean is the score, as Q-Align
  has it with five words (Wu et al. 2023). The level is that of five equal intervals of [1, 5] in which the MOS lies.
- "soft_levels": the same with a share for each level: the soft label of DeQA-Score (You et al. 2025), a Gaussian around
  the MOS with the std of the opinions. Where no std is given, the two nearest levels share, and their mean is the MOS.

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
from ..models.prompt import collate, prompt_opening
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


LEVELS = 5
# Of DeQA-Score's published code: a Gaussian that is narrower has next to nothing outside of one level, and one whose
# levels have a mean further from the MOS has lost too much beyond the ends of the scale.
NARROWEST, FARTHEST = 0.2, 0.1


def level_of(mos: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The level, 1 to 5, of MOS in [1, 5]: one of five equal intervals, each with its upper end (Q-Align, DeQA-Score).

    >>> level_of(torch.tensor([1.0, 1.8, 1.81, 3.4, 5.0]))
    tensor([1, 1, 2, 3, 5])
    """
    # In float64, and a rounding above an upper end still belongs to it.
    place = (mos.double() - 1) * LEVELS / 4
    return (place - 1e-6).ceil().clamp(1, LEVELS).long()


def level_shares(mos: Float[Tensor, " b"]) -> Float[Tensor, "b 5"]:
    """Shares of the two levels nearest to MOS in [1, 5], whose mean is the MOS.

    >>> level_shares(torch.tensor([3.25]))
    tensor([[0.0000, 0.0000, 0.7500, 0.2500, 0.0000]])
    """
    distance = (mos[:, None] - _levels(mos)).abs()
    return (1 - distance).clamp(min=0)


def gaussian_level_shares(
    mos: Float[Tensor, " b"], std: Float[Tensor, " b"]
) -> Float[Tensor, "b 5"]:
    """Shares of the levels for MOS in [1, 5] whose ratings have this std, in the same unit (You et al. 2025).

    Level c has what the Gaussian has between c - 1/2 and c + 1/2. A line through these shares makes their sum 1 and
    their mean the MOS; what it makes negative becomes 0, and the rest is scaled to the sum 1. `level_shares` stands
    where std is NaN or below `NARROWEST`, and where the mean is then further than `FARTHEST` from the MOS.

    >>> gaussian_level_shares(torch.tensor([3.25]), torch.tensor([0.6]))
    tensor([[0.0014, 0.1037, 0.5566, 0.3201, 0.0182]])
    """
    levels = _levels(mos)
    gaussian = torch.distributions.Normal(
        mos[:, None], std.nan_to_num(nan=1.0).clamp(min=NARROWEST)[:, None], False
    )
    raw = gaussian.cdf(levels + 0.5) - gaussian.cdf(levels - 0.5)
    # slope · raw + offset has the sum 1 and the mean MOS. Around the middle level both hold already.
    total, lever = raw.sum(1), (raw * (levels - 3)).sum(1)
    middle = lever.abs() < 1e-6
    slope = torch.where(middle, 1 / total, (mos - 3) / lever.masked_fill(middle, 1))
    offset = (1 - slope * total) / LEVELS
    shares = (slope[:, None] * raw + offset[:, None]).clamp(min=0)
    shares = shares / shares.sum(1, keepdim=True)
    fits = (std >= NARROWEST) & (((shares * levels).sum(1) - mos).abs() <= FARTHEST)
    return torch.where(fits[:, None], shares, level_shares(mos))


def _levels(like: Tensor) -> Tensor:
    return torch.arange(1.0, LEVELS + 1, dtype=like.dtype, device=like.device)


def objective_loss(
    objective: Objective,
    found: ScoreDistribution,
    mos: Float[Tensor, " b"],
    std: Float[Tensor, " b"],
    datasets: Int[Tensor, " b"],
) -> Tensor:
    """The loss of a batch; MOS are from 1 to 5 for all objectives but fidelity. std: of the ratings, NaN if unknown."""
    match objective:
        case "fidelity":
            return fidelity_loss(found.mean(), found.variance(), mos, datasets)
        case "regression":
            mean = found.mean()
            return F.mse_loss(mean, mos.to(mean.dtype))  # one of two types would be refused
        case "levels":
            return F.nll_loss(found.levels(), level_of(mos) - 1)
        case "soft_levels":
            levels = found.levels()
            shares = gaussian_level_shares(mos.to(levels.dtype), std.to(levels.dtype))
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
        stds = [torch.nan if e.std is None else e.std for e in examples]
        self.std = torch.tensor(stds, dtype=torch.float64)
        self.datasets = torch.tensor(
            np.unique([e.dataset for e in examples], return_inverse=True)[1]
        )
        self.question = response.prompt_text(
            recipe.prompt, reasoning=False, reference=recipe.reference
        )
        vlm = encode.vlm
        self.tree = DigitTree(
            vlm.processor.tokenizer,
            eos_token_ids(vlm.model, vlm.processor),
            prompt_opening(vlm.processor),
        )
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
        mos, std, datasets = (each[rows].to(device) for each in (self.mos, self.std, self.datasets))
        loss = objective_loss(self.recipe.expect.objective, found, mos, std, datasets)
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
