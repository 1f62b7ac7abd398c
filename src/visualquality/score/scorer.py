"""Scoring images with a vision-language model that runs here."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import Any

import torch

from .. import response
from ..errors import UserError
from ..models.digits import before_number, expected_scores, score_distribution
from ..models.generate import (
    Completion,
    Prefilled,
    decode,
    eos_token_ids,
    prefill,
    sample_completions,
)
from ..models.load import (
    EMBEDDED,
    EMBEDDED_NAMES,
    VisionLanguageModel,
    faults_of_model,
    folder_of,
    load,
)
from ..models.prompt import Prompt, collate, prompt_opening
from ..models.releases import trained_prompt
from ..process import use_model_here
from ..seeds import uniform_streams
from .asked import digit_tree, reader_for
from .calibration import Calibration, find_calibration, with_calibration, with_intervals
from .rating import Rating, is_precise, seconds_since
from .reading import Prepared, read_images
from .settings import ScoreSettings, in_use, score_settings
from .source import Source

MOST_SAMPLES = 16  # of samples="auto"
WINDOW = 4  # batches in which images of similar size are put together


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

    reading:
        "strict" takes the number of an answer as it was drawn, as the paper does, where the answer is in its form
        (`response.read`). "authors" finds a number in more answers, as the authors do (`response.read_as_authors`).
        "expected" keeps the words of an answer in its form, and takes the expectation over the digits that could follow
        them, at temperature 1 and among all tokens. At the ends of the scale, where one number is by far the likeliest,
        this keeps the order of images. `std` counts both what the words and what the digits leave open
        (`Rating.from_samples`). Expected scores are rounded to 4 decimals; in batches of another make-up the last one
        may rarely differ by 1.

    temperature, top_k, top_p, repetition_penalty: of drawing, as in transformers' `generate` (`models.generate`).
    preset: "authors" scores as the authors of released weights do (models/releases.py); other options go before it.

    samples: a number, or "auto": 2, 4, 8, at most 16, until the standard error of the mean is below `tolerance`.

    calibration: the file that an interval of the human rating comes from; by default the calibration that is kept for
    this model and these settings, if there is one (score/calibration.py).

    reference: every image comes with a reference that it is rated against, `Referenced(image, reference)`; a model that
    was not trained so (no released one was) may ignore it.

    >>> from PIL import Image
    >>> rating = Scorer("nano", mode="expect")(Image.new("RGB", (64, 64)))
    >>> 1 <= rating.score <= 5
    True
    """

    def __init__(
        self,
        model: str | VisionLanguageModel = "nano",
        settings: ScoreSettings | None = None,
        **options: Any,
    ):
        """`model`: nano, a folder, a name of the Hugging Face hub, or a model that is loaded already.

        The options are those of `ScoreSettings`, given by name or as `settings`. `prompt` is by default the one that
        the model was trained with: what its folder says, or the table of released weights (`models/releases.py`), else
        "paper". `temperature` is by default 1 and `reading` "strict"; nano has its own
        (`models/load.py`).
        Raises UserError for a model that cannot be loaded and for an invalid option.
        """
        if isinstance(settings, str):  # the second place once was the mode's
            raise UserError(f"give options by name: Scorer(model, mode={settings!r})")
        if settings is not None and options:
            raise UserError(
                f"both settings and {', '.join(options)} are given: put all options in one of the two"
            )
        # Before the weights are read: a model without the preset is told at once.
        name = model if isinstance(model, str) else model.name
        chosen = self.options = (settings or score_settings(**options)).for_model(name)
        if isinstance(model, str):
            model = load(model, **chosen.model_options)
        self.vlm = model
        if model.with_reference and not chosen.reference:
            raise UserError(
                f"{model.name} was trained with references: give --reference (Scorer: reference=True)"
            )
        self.temperature = model.temperature if chosen.temperature is None else chosen.temperature
        self.prompt: response.PromptName = (
            chosen.prompt or model.prompt or trained_prompt(model.name) or "paper"
        )
        # Of an answer in JSON the digits are not read, unless somebody asks for it, which is refused below.
        usual: response.Reading = "strict" if self.prompt == "q-insight" else model.reading
        self.reading: response.Reading = chosen.reading or usual
        self.eos = eos_token_ids(model.model, model.processor)
        self.opening = prompt_opening(model.processor)
        self.digits = digit_tree(model, self.eos, chosen, self.prompt, self.reading)
        self.reader = reader_for(model, chosen, self.prompt, self.digits)

    def __call__(self, images: Source | list[Source]) -> Rating | list[Rating]:
        """A rating for one image, a list of them for a list. A problem with an image is in its rating, not raised."""
        if isinstance(images, list):
            return list(self.rate(images))
        return next(self.rate([images]))

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless; they are read while the model works.

        Raises UserError for a model on a GPU in a process that was forked after it was loaded.
        """
        device = self.vlm.model.device
        use_model_here(str(device))
        on_cpu = device.type == "cpu"
        prepared = read_images(
            self.reader, images, first=self.options.batch, shares_processor=on_cpu
        )
        return with_intervals(self.rate_prepared(prepared), self.calibration)

    def rate_prepared(self, images: Iterable[Prepared]) -> Iterator[Rating]:
        """Ratings, without intervals, in order of images that this scorer's `reader` prepared.

        In a window of a few batches, images of similar size make a batch, so that little of it is padding. A rating
        is given as soon as it and all before it are there.
        """
        prepared, size = iter(images), self.options.batch
        while window := list(islice(prepared, WINDOW * size)):
            ratings: dict[int, Rating] = {}  # by place in the window
            for i, image in enumerate(window):
                if image.problem is not None:
                    origin = self._origin(self.options.mode)
                    ratings[i] = Rating.failed(image.name, image.problem, **origin)
            # A stable sort: images of equal size keep their order.
            readable = [i for i in range(len(window)) if i not in ratings]
            readable.sort(key=lambda i: len(window[i].prompts[-1]))
            following = 0
            for start in range(0, len(readable), size):
                batch = readable[start : start + size]
                with faults_of_model(self.vlm.name):
                    rated = self._rate_batch([window[i] for i in batch])
                for i, rating in zip(batch, rated, strict=True):
                    ratings[i] = rating.with_warnings(window[i].warnings)
                while following in ratings:
                    yield ratings.pop(following)
                    following += 1
            # What is left are images with a problem.
            yield from (ratings[i] for i in sorted(ratings))

    @cached_property
    def calibration(self) -> Calibration | None:
        """What gives ratings their interval. Raises UserError for a file that is no calibration."""
        return find_calibration(
            self._score_settings,
            file=self.options.calibration,
            folder=folder_of(self.vlm.name),
            packaged=EMBEDDED if self.vlm.name in EMBEDDED_NAMES else None,
        )

    def settings(self) -> dict[str, Any]:
        """Everything that a rating depends on besides the image: the header of a file of results."""
        return with_calibration(self._score_settings(), self.calibration)

    def _score_settings(self) -> dict[str, Any]:
        """Everything that a score depends on besides the image."""
        chosen = self.options
        header: dict[str, Any] = {
            "model": self.vlm.name,
            "weights": self.vlm.digest,
            "prompt": self.prompt,
            "reference": chosen.reference,
            "mode": chosen.mode,
            "samples": chosen.samples,
            "seed": chosen.seed,
            "preset": chosen.preset,
            "temperature": self.temperature,
            "top_k": chosen.top_k,
            "top_p": chosen.top_p,
            "repetition_penalty": chosen.repetition_penalty,
            "add_vision_id": chosen.add_vision_id,
            "reading": self.reading,
            "max_new_tokens": chosen.token_limit,
            "tolerance": chosen.tolerance,
            "doubt": chosen.doubt,
            "max_pixels": chosen.max_pixels,
            "assume_bits": chosen.assume_bits,
            "quantization": chosen.quantization,
            "dtype": str(self.vlm.model.dtype).removeprefix("torch."),
            "version": version("visualquality"),
        }
        if chosen.mode == "expect":
            # Nothing is drawn, so that a score does not depend on these.
            header |= dict.fromkeys(("samples", "seed", "temperature", "max_new_tokens"))
        has_effect = {
            "reading": chosen.mode != "expect",
            "tolerance": chosen.samples == "auto",
            "doubt": chosen.mode == "auto",
        }
        return in_use({key: value for key, value in header.items() if has_effect.get(key, True)})

    def _origin(self, mode: str) -> dict[str, Any]:
        """The fields of a rating that say what made it."""
        return {
            "model": self.vlm.title,
            "mode": mode,
            "seed": self.options.seed,
            "prompt": self.prompt,
        }

    def _rate_batch(self, batch: list[Prepared]) -> list[Rating]:
        if self.digits is None or self.options.mode in ("reason", "direct"):
            return self._rate_by_drawing(batch, self.options.mode)
        start = time.perf_counter()
        found = score_distribution(
            self._prefill([image.prompts[0] for image in batch]), self.digits
        )
        means, stds = found.mean().tolist(), found.variance().sqrt().tolist()
        origin = self._origin("expect") | {"seconds": seconds_since(start, len(batch))}
        ratings = []
        for image, mean, std in zip(batch, means, stds, strict=True):
            ratings.append(Rating(image.name, round(mean, 4), std, (), None, None, **origin))
        doubtful = [index for index, std in enumerate(stds) if std > self.options.doubt]
        if self.options.mode == "auto" and doubtful:
            reasoned = self._rate_by_drawing([batch[index] for index in doubtful], "reason")
            for index, rating in zip(doubtful, reasoned, strict=True):
                # Reasons that cannot be read do not take away a score that is there.
                if rating.score is not None:
                    ratings[index] = rating
        return ratings

    def _rate_by_drawing(self, batch: list[Prepared], mode: str) -> list[Rating]:
        """Ratings from answers that are drawn: `samples` of them, or as many as it takes."""
        start = time.perf_counter()
        prefilled = self._prefill([image.prompts[-1] for image in batch])
        # With "auto" 2 answers, then as many again each time. The streams are the same as those of `most` answers.
        first, most = 2, MOST_SAMPLES
        if self.options.samples != "auto":
            first = most = self.options.samples
        digests = [image.digest for image in batch]
        streams = uniform_streams(self.options.seed, digests, most, self.options.token_limit)
        answers: list[list[response.Response]] = [[] for _ in batch]
        variances: list[list[float]] = [[] for _ in batch]
        unsure = list(range(len(batch)))
        drawn, upto = 0, first
        while unsure and drawn < most:
            part = prefilled
            if len(unsure) < len(batch):  # taking copies the cache, so all of it is not taken
                part = prefilled.take(torch.tensor(unsure, device=prefilled.logits.device))
            completions = sample_completions(
                part,
                uniforms=streams[unsure, drawn:upto],
                temperature=self.temperature,
                top_k=self.options.top_k,
                top_p=self.options.top_p,
                repetition_penalty=self.options.repetition_penalty,
                eos_token_ids=self.eos,
            )
            for index, (read, digits) in zip(unsure, self._read(part, completions), strict=True):
                answers[index] += read
                variances[index] += digits
            unsure = [i for i in unsure if not is_precise(answers[i], self.options.tolerance)]
            drawn, upto = upto, min(2 * upto, most)
        origin = self._origin(mode) | {"seconds": seconds_since(start, len(batch))}
        return [
            Rating.from_samples(image.name, group, variances=digits, **origin)
            for image, group, digits in zip(batch, answers, variances, strict=True)
        ]

    def _read(
        self, prefilled: Prefilled, completions: Sequence[Sequence[Completion]]
    ) -> list[tuple[list[response.Response], list[float]]]:
        """The responses to each prompt; with expected scores also the variance of the digits of each readable one."""
        responses = [[self._response(one) for one in group] for group in completions]
        if self.digits is None or self.reading != "expected":
            return [(group, []) for group in responses]
        written = []
        for prompt, group in enumerate(completions):
            for one, read in zip(group, responses[prompt], strict=True):
                if read.score is not None:
                    written.append((prompt, before_number(self.vlm.processor, one)))
        size = self.options.batch
        moments = iter(expected_scores(prefilled, written, self.digits, batch=size))
        found = []
        for drawn in responses:
            expected, variances = [], []
            for read in drawn:
                # An answer that cannot be read stays as it is: no number is made of it.
                if read.score is not None:
                    mean, variance = next(moments)
                    read = replace(read, score=round(mean, 4))
                    variances.append(variance)
                expected.append(read)
            found.append((expected, variances))
        return found

    def _response(self, completion: Completion) -> response.Response:
        text = self.opening + decode(self.vlm.processor, completion)
        # What has an expected score is an answer in its form.
        read = response.READINGS["authors" if self.reading == "authors" else "strict"]
        return read(text, truncated=completion.truncated, prompt=self.prompt)

    def _prefill(self, prompts: Sequence[Prompt]) -> Prefilled:
        batch = collate(prompts, self.vlm.processor.tokenizer.pad_token_id)
        return prefill(self.vlm.model, batch.to(self.vlm.model.device))
