"""Scoring images with a vision-language model."""

import math
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from .. import response
from ..data.images import image_digest, open_image
from ..errors import UserError
from ..models.encode import collate, encode_prompt
from ..models.generate import decode, eos_token_ids, random_streams, sample_completions
from ..models.load import VisionLanguageModel, load
from .rating import Rating

Source = str | Path | Image.Image | np.ndarray
Mode = Literal["reason", "direct"]

MAX_NEW_TOKENS = {"reason": 512, "direct": 24}


class Scorer:
    """Scores images: a mean of `samples` answers, each in [1, 5], with their standard deviation and a reason.

    mode: "reason" thinks in words before it answers; "direct" answers at once. Every answer is drawn at the model's own
    temperature of 1 from a random stream that depends on the image's pixels, the seed and the sample's number alone, so
    the same image and seed give the same score whatever other images are scored with it. In float32 that holds but for
    a rounding that falls just between two tokens; in bfloat16, the default on CUDA, batches of another make-up round
    differently: score with `batch=1` or float32 where it must be exact.

    >>> rating = Scorer("nano", samples=2)(Image.new("RGB", (64, 64)))
    >>> rating.score is None or 1 <= rating.score <= 5
    True
    """

    def __init__(
        self,
        model: str | VisionLanguageModel = "nano",
        mode: Mode = "reason",
        samples: int = 6,
        seed: int = 0,
        *,
        prompt: response.PromptName | None = None,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        batch: int = 8,
        device: str | None = None,
        dtype: str = "auto",
        max_pixels: int | None = None,
    ):
        """`prompt`: by default the one that the model was trained with: what its folder says, "released" for the
        weights that the paper's authors published, else "paper".

        `batch`: images at a time. `max_pixels`: bound on the pixels the model sees of an image. Raises UserError for
        a model, mode or number that cannot be.
        """
        if mode not in MAX_NEW_TOKENS:
            raise UserError(f"mode is {mode!r}; choose one of {', '.join(MAX_NEW_TOKENS)}")
        if samples < 1 or batch < 1:
            raise UserError(f"samples is {samples} and batch {batch}; both must be at least 1")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise UserError(f"temperature is {temperature}; it must be 0 or more")
        self.vlm = load(model, device=device, dtype=dtype, max_pixels=max_pixels) if isinstance(model, str) else model
        self.mode, self.samples, self.seed, self.temperature, self.batch = (
            mode,
            samples,
            seed,
            temperature,
            batch,
        )
        self.prompt = prompt or self.vlm.prompt or default_prompt(self.vlm.name)
        self.max_pixels = max_pixels
        self.question = response.prompt_text(self.prompt, mode == "reason")
        self.max_new_tokens = max_new_tokens or MAX_NEW_TOKENS[mode]
        self.eos = eos_token_ids(self.vlm.model, self.vlm.processor)

    def __call__(self, images: Source | list[Source]) -> Rating | list[Rating]:
        """A rating for one image, a list of them for a list. A problem with an image is in its rating, not raised."""
        if isinstance(images, list):
            return list(self.rate(images))
        return next(self.rate([images]))

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: one batch is read at a time."""
        iterator = iter(images)
        while batch := list(islice(iterator, self.batch)):
            yield from self._rate_batch(batch)

    def settings(self) -> dict[str, Any]:
        """Everything that a score depends on besides the image: the header of a results file."""
        return {
            "model": self.vlm.name,
            "weights": self.vlm.digest,
            "prompt": self.prompt,
            "mode": self.mode,
            "samples": self.samples,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "max_pixels": self.max_pixels,
            "dtype": str(self.vlm.model.dtype).removeprefix("torch."),
            "version": version("visualquality"),
        }

    def _rate_batch(self, sources: list[Source]) -> list[Rating]:
        started = time.perf_counter()
        made_by: dict[str, Any] = {"model": self.vlm.name, "mode": self.mode, "seed": self.seed}
        names = [_name(source) for source in sources]
        ratings: dict[int, Rating] = {}
        opened: dict[int, Image.Image] = {}
        for index, source in enumerate(sources):
            try:
                opened[index] = open_image(source)
            except UserError as error:
                ratings[index] = Rating.failed(names[index], str(error), **made_by)
        for index, responses in zip(opened, self._responses(list(opened.values())), strict=True):
            seconds = round((time.perf_counter() - started) / len(opened), 4)
            ratings[index] = Rating.from_samples(names[index], responses, **made_by, seconds=seconds)
        return [ratings[index] for index in range(len(sources))]

    def _responses(self, images: list[Image.Image]) -> list[list[response.Response]]:
        if not images:
            return []
        processor, model = self.vlm.processor, self.vlm.model
        prompts = collate(
            [encode_prompt(processor, image, self.question) for image in images],
            processor.tokenizer.pad_token_id,
        )
        groups = sample_completions(
            model,
            {k: v.to(model.device) for k, v in prompts.items()},
            uniforms=random_streams(self.seed, [image_digest(i) for i in images], self.samples, self.max_new_tokens),
            temperature=self.temperature,
            eos_token_ids=self.eos,
        )
        return [[response.read(decode(processor, c), truncated=c.truncated) for c in group] for group in groups]


def default_prompt(model: str) -> response.PromptName:
    """The prompt that a model was trained with.

    >>> default_prompt("TianheWu/VisualQuality-R1-7B"), default_prompt("nano")
    ('released', 'paper')
    """
    return "released" if "visualquality-r1" in model.lower() else "paper"


def _name(source: Source) -> str:
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "image"
    return "array" if isinstance(source, np.ndarray) else str(source)
