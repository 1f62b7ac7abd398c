"""Scoring images with a vision-language model."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from statistics import stdev
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .. import response
from ..errors import UserError
from ..models.encode import Encoded, collate
from ..models.generate import (
    Prefilled,
    decode,
    eos_token_ids,
    prefill,
    random_streams,
    sample_completions,
)
from ..models.known import trained_prompt
from ..models.load import VisionLanguageModel, load
from .expect import ScoreVocabulary, expected_scores
from .prepare import QUICK, Preparation, Prepared, Question, prepare_all
from .rating import Rating
from .source import Source

Mode = Literal["reason", "direct", "expect", "auto"]

MAX_NEW_TOKENS = {"reason": 512, "direct": 24}
MOST_SAMPLES = 16  # of samples="auto"
WINDOW = 4  # batches in which images of like size are put together


class Scorer:
    """Scores images from 1 to 5, with an uncertainty and, where the model reasoned, a reason.

    mode:
        "reason" thinks in words before it answers, `samples` times; the score is the mean. Every answer is drawn from
        a random stream that depends on the image's pixels, the seed and the sample's number alone, so the same image
        and seed give the same score whatever other images are scored with it. In float32 that holds but for a rounding
        that falls just between two tokens; in bfloat16, the default on CUDA, batches of another make-up round
        differently: score with `batch=1` or float32 where it must be exact.
        "direct" is the same, answering at once.
        "expect" draws nothing: the score is the expectation over the digits that the model would answer at once with,
        and `std` that of this distribution.
        "auto" is "expect", and "reason" for the images whose std is above `doubt` there. A rating says what made it.

    samples: a number, or "auto": 2, 4, 8, at most 16, until the standard error of the mean is below `tolerance`.

    reference: every image comes with a reference that it is rated against, `Referenced(image, reference)`; a model that
    was not trained so (no released one was) may make little of it.

    >>> from PIL import Image
    >>> rating = Scorer("nano", mode="expect")(Image.new("RGB", (64, 64)))
    >>> 1 <= rating.score <= 5
    True
    """

    def __init__(
        self,
        model: str | VisionLanguageModel = "nano",
        mode: Mode = "reason",
        samples: int | Literal["auto"] = 6,
        seed: int = 0,
        *,
        tolerance: float = 0.1,
        doubt: float = 0.5,
        prompt: response.PromptName | None = None,
        reference: bool = False,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        batch: int = 8,
        device: str | None = None,
        dtype: str = "auto",
        max_pixels: int | None = None,
    ):
        """`prompt`: by default the one that the model was trained with: what its folder says, or the table of known
        released models (`models/known.py`), else "paper".

        `temperature`: by default 1, as the paper has it, but for nano (`models/load.py`).

        `tolerance`, `doubt`: in points of the score. `batch`: images at a time. `max_pixels`: bound on the pixels the
        model sees of an image. Raises UserError for a model, mode or number that cannot be.
        """
        if mode not in get_args(Mode):
            raise UserError(f"mode is {mode!r}; choose one of {', '.join(get_args(Mode))}")
        if (samples != "auto" and (isinstance(samples, str) or samples < 1)) or batch < 1:
            raise UserError(
                f"samples is {samples!r} and batch {batch}; give numbers of at least 1, or samples='auto'"
            )
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
            raise UserError(f"temperature is {temperature}; it must be 0 or more")
        if not (tolerance > 0 and doubt >= 0):
            raise UserError(
                f"tolerance is {tolerance} and doubt {doubt}; they must be above 0, and 0 or more"
            )
        self.vlm = (
            load(model, device=device, dtype=dtype, max_pixels=max_pixels)
            if isinstance(model, str)
            else model
        )
        if self.vlm.with_reference and not reference:
            raise UserError(
                f"{self.vlm.name} was trained with references: give --reference (Scorer: reference=True)"
            )
        self.mode, self.samples, self.seed, self.batch, self.reference = (
            mode,
            samples,
            seed,
            batch,
            reference,
        )
        self.temperature = self.vlm.temperature if temperature is None else temperature
        self.tolerance, self.doubt, self.max_pixels = tolerance, doubt, max_pixels
        self.prompt = prompt or self.vlm.prompt or trained_prompt(self.vlm.name) or "paper"
        self.max_new_tokens = (
            max_new_tokens or MAX_NEW_TOKENS["direct" if mode == "direct" else "reason"]
        )
        self.eos = eos_token_ids(self.vlm.model, self.vlm.processor)
        self.vocabulary: ScoreVocabulary | None = None
        if mode in ("expect", "auto"):
            if self.prompt == "q-insight":
                raise UserError(
                    f"the prompt {self.prompt!r} asks for JSON, not for a bare score: use mode reason"
                )
            self.vocabulary = ScoreVocabulary(self.vlm.processor.tokenizer, self.eos)
        self.preparation = Preparation(self.vlm.processor, self._questions(), reference=reference)

    def __call__(self, images: Source | list[Source]) -> Rating | list[Rating]:
        """A rating for one image, a list of them for a list. A problem with an image is in its rating, not raised."""
        if isinstance(images, list):
            return list(self.rate(images))
        return next(self.rate([images]))

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless.

        Images are read in worker processes, and those of a window that are of like size make a batch.
        """
        quick = QUICK if self.vlm.model.device.type == "cpu" else 0.0
        return self.rate_prepared(
            prepare_all(self.preparation, images, inline=self.batch, quick=quick)
        )

    def rate_prepared(self, images: Iterable[Prepared]) -> Iterator[Rating]:
        """Ratings in order of images that were prepared elsewhere, for this scorer's `preparation.questions`."""
        prepared = iter(images)
        while window := list(islice(prepared, WINDOW * self.batch)):
            yield from self._rate_window(window)

    def settings(self) -> dict[str, Any]:
        """Everything that a score depends on besides the image: the header of a results file."""
        drawn: dict[str, Any] = {
            "samples": self.samples,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
        }
        return {
            "model": self.vlm.name,
            "weights": self.vlm.digest,
            "prompt": self.prompt,
            **({"reference": True} if self.reference else {}),
            "mode": self.mode,
            **(dict.fromkeys(drawn) if self.mode == "expect" else drawn),  # nothing is drawn
            **({"tolerance": self.tolerance} if self.samples == "auto" else {}),
            **({"doubt": self.doubt} if self.mode == "auto" else {}),
            "max_pixels": self.max_pixels,
            "dtype": str(self.vlm.model.dtype).removeprefix("torch."),
            "version": version("visualquality"),
        }

    def _questions(self) -> tuple[Question, ...]:
        """What is asked in this mode; in "auto" first what "expect" asks, then what "reason" does."""
        opening = () if self.vocabulary is None else tuple(self.vocabulary.opening)
        kinds = {"reason": [True], "direct": [False], "expect": [False], "auto": [False, True]}[
            self.mode
        ]
        return tuple(
            Question(
                response.prompt_text(self.prompt, reasoning, reference=self.reference),
                system=response.SYSTEM.get(self.prompt),
                image_last=self.prompt in response.IMAGE_LAST,
                opening=() if reasoning else opening,
            )
            for reasoning in kinds
        )

    def _rate_window(self, window: list[Prepared]) -> Iterator[Rating]:
        """Ratings in order, each as soon as it and those before it are there."""
        ratings: dict[int, Rating] = {}
        good = []
        for index, image in enumerate(window):
            if image.problem is None:
                good.append(index)
            else:
                ratings[index] = Rating.failed(
                    image.name, image.problem, **self._made_by(self.mode)
                )
        good.sort(
            key=lambda index: len(window[index].prompts[-1]["input_ids"])
        )  # stable: equal sizes keep their order
        told = 0
        for at in range(0, len(good), self.batch):
            members = good[at : at + self.batch]
            ratings |= zip(
                members, self._rate_batch([window[index] for index in members]), strict=True
            )
            while told in ratings:
                yield ratings.pop(told)
                told += 1
        while told in ratings:  # images that could not be opened, at the end
            yield ratings.pop(told)
            told += 1

    def _rate_batch(self, batch: list[Prepared]) -> list[Rating]:
        if self.vocabulary is None:
            return self._drawn(batch, self.mode)
        started = time.perf_counter()
        expectations = expected_scores(
            self._prefill([image.prompts[0] for image in batch]), self.vocabulary
        )
        made_by = self._made_by(
            "expect", seconds=round((time.perf_counter() - started) / len(batch), 4)
        )
        ratings = [
            Rating(image.name, round(e.mean, 4), e.std, (), None, None, **made_by)
            for image, e in zip(batch, expectations, strict=True)
        ]
        if self.mode == "auto":
            doubtful = [index for index, e in enumerate(expectations) if e.std > self.doubt]
            if doubtful:
                reasoned = self._drawn([batch[index] for index in doubtful], "reason")
                for index, rating in zip(doubtful, reasoned, strict=True):
                    # Reasons that cannot be read do not take away a score that is there.
                    ratings[index] = rating if rating.score is not None else ratings[index]
        return ratings

    def _drawn(self, batch: list[Prepared], mode: str) -> list[Rating]:
        started = time.perf_counter()
        groups = self._responses(batch)
        seconds = round((time.perf_counter() - started) / len(batch), 4)
        return [
            Rating.from_samples(image.name, responses, **self._made_by(mode, seconds=seconds))
            for image, responses in zip(batch, groups, strict=True)
        ]

    def _responses(self, batch: list[Prepared]) -> list[list[response.Response]]:
        """The responses of each image; of samples="auto" as many as it takes. The prompt is encoded once for all."""
        prefilled = self._prefill([image.prompts[-1] for image in batch])
        most = MOST_SAMPLES if self.samples == "auto" else self.samples
        streams = random_streams(
            self.seed, [image.digest for image in batch], most, self.max_new_tokens
        )
        if self.samples != "auto":
            return self._read(prefilled, streams)
        groups: list[list[response.Response]] = [[] for _ in batch]
        going, drawn, following = list(range(len(batch))), 0, 2
        while going and drawn < most:
            part = prefilled.take(torch.tensor(going, device=prefilled.start.device))
            for index, more in zip(
                going, self._read(part, streams[going, drawn:following]), strict=True
            ):
                groups[index] += more
            going = [index for index in going if not settled(groups[index], self.tolerance)]
            drawn, following = following, min(2 * following, most)
        return groups

    def _read(self, prefilled: Prefilled, uniforms: np.ndarray) -> list[list[response.Response]]:
        groups = sample_completions(
            prefilled, uniforms=uniforms, temperature=self.temperature, eos_token_ids=self.eos
        )
        return [
            [
                response.read(
                    decode(self.vlm.processor, c), truncated=c.truncated, prompt=self.prompt
                )
                for c in group
            ]
            for group in groups
        ]

    def _prefill(self, prompts: Sequence[Encoded]) -> Prefilled:
        batch: dict[str, Tensor] = collate(prompts, self.vlm.processor.tokenizer.pad_token_id)
        return prefill(self.vlm.model, {k: v.to(self.vlm.model.device) for k, v in batch.items()})

    def _made_by(self, mode: str, **more: Any) -> dict[str, Any]:
        return {
            "model": self.vlm.name,
            "mode": mode,
            "seed": self.seed,
            "prompt": self.prompt,
            **more,
        }


def settled(responses: Sequence[response.Response], tolerance: float) -> bool:
    """Whether the standard error of the mean score is below `tolerance`: at least two readable answers are needed."""
    scores = [r.score for r in responses if r.score is not None]
    return len(scores) > 1 and stdev(scores) / math.sqrt(len(scores)) < tolerance
