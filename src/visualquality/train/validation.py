"""Validation along a run: rated images that are not trained on are scored, and how well the scores agree is a number.

They are scored as a user scores: by `Scorer`, with the run's prompt and the numbers of its section rl2r. Always the
same random numbers are drawn, so that only the weights make one validation differ from another; training draws none
of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..coefficients import krcc, plcc, srcc, why_undefined
from ..errors import UserError
from ..io import map_ahead
from ..models.load import VisionLanguageModel
from ..score.reading import Prepared
from ..score.scorer import Scorer
from ..score.settings import ScoreSettings
from ..score.source import Referenced, Source
from .examples import Example
from .recipe import Recipe

METRICS: dict[str, Callable[..., float]] = {"srcc": srcc, "plcc": plcc, "krcc": krcc}
# Weights that score fewer of the images than this are not the best, however well these few agree.
LEAST_SCORED = 0.95
# Of the share of images with a score; a line of metrics.jsonl that has it is a validation's.
SCORED = "eval_scored"


def agreement(
    metric: str, scores: Sequence[float | None], examples: Sequence[Example]
) -> dict[str, float]:
    """How well scores agree with the MOS: numbers for metrics.jsonl, under Trainer's names for an evaluation.

    `eval_scored` is the share of images with a score, and `eval_METRIC` the correlation over them: within each data
    set, since their scales differ, and averaged where there are several, which `eval_METRIC/NAME` then has apart. What
    is not defined (fewer than 3 scores of a data set, or all the same) is left out.
    """
    found: dict[str, float] = {SCORED: float(np.mean([score is not None for score in scores]))}
    by_dataset: dict[str, list[tuple[float, float]]] = {e.dataset: [] for e in examples}
    for score, example in zip(scores, examples, strict=True):
        if score is not None:
            by_dataset[example.dataset].append((score, example.mos))
    values = {}
    for name, pairs in by_dataset.items():
        own, mos = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if why_undefined(own, mos) is None:
            # Rounded, so that what differs by the rounding of a sum is equal.
            values[name] = round(METRICS[metric](own, mos), 9)
    if len(values) == len(by_dataset):
        found[f"eval_{metric}"] = float(np.mean(list(values.values())))
    if len(by_dataset) > 1:
        found |= {f"eval_{metric}/{name}": value for name, value in values.items()}
    return found


def to_beat(metric: str, found: dict[str, float]) -> float | None:
    """The number that says how good the weights are, or None where they cannot be the best."""
    return found.get(f"eval_{metric}") if found[SCORED] >= LEAST_SCORED else None


def _way_of_scoring(recipe: Recipe) -> dict[str, Any]:
    """The scoring options by which a model answers as it is trained to answer."""
    if recipe.method == "expect":
        return {"mode": "expect"}
    drawing = ("temperature", "top_k", "max_new_tokens", "reading")
    return {
        "mode": "reason" if recipe.reasoning else "direct",
        "samples": recipe.rl2r.responses,
        **{name: getattr(recipe.rl2r, name) for name in drawing},
    }


class Validator:
    """Scores the validation part of a recipe with the model that is being trained."""

    def __init__(self, recipe: Recipe, examples: list[Example], vlm: VisionLanguageModel):
        self.examples = examples
        settings = ScoreSettings(
            **_way_of_scoring(recipe),
            prompt=recipe.prompt,
            reference=recipe.reference,
            seed=recipe.seed,
            batch=recipe.optimizer.images_per_device,
        )
        self.scorer = Scorer(vlm, settings)

    def scores(self, accelerator: Accelerator) -> list[float | None]:
        """The score of each image, None where no answer could be read, the same on every process.

        The processes share the work. The model must be whole on each, and in evaluation mode. Raises UserError for an
        image that became faulty since the run began.
        """
        rank, world = accelerator.process_index, accelerator.num_processes
        own = range(rank, len(self.examples), world)
        ratings = self.scorer.rate_prepared(self._prepared([self.examples[i] for i in own]))
        with accelerator.autocast():
            scored = [(i, rating.score) for i, rating in zip(own, ratings, strict=True)]
        by_place = dict(gather_object(scored))
        return [by_place[i] for i in range(len(self.examples))]

    def _prepared(self, examples: Sequence[Example]) -> Iterator[Prepared]:
        for prepared in map_ahead(self.scorer.reader, map(_source, examples)):
            if prepared.problem is not None:
                raise UserError(f"validate: {prepared.problem}")
            yield prepared


def _source(example: Example) -> Source:
    if example.reference is None:
        return example.path
    return Referenced(example.path, example.reference)


class ValidationDue(TrainerCallback):
    """Has the trainer evaluate every so many steps, and after the last one."""

    def __init__(self, every: int):
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            control.should_evaluate = True
