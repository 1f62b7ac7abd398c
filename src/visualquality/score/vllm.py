"""Scores from vLLM in this process."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from .. import response
from ..errors import UserError, first_line, missing_extra
from ..io import map_ahead
from ..models.families import placeholder_ids
from ..seeds import request_seed
from .chat import ChatRater
from .rating import Rating, seconds_since
from .settings import ScoreSettings
from .source import OpenedSource, Source, name_of

# An image, opened: its name, and what is in its source, or why it cannot be opened.
Opened = tuple[str, OpenedSource | str]

BATCH = 64  # images at a time, of which vLLM schedules as many requests together as fit into memory
READERS = 4  # threads that open images while the model works

NEVER = -100.0  # logit bias that bans a token; the lowest that OpenAI's form allows


class VllmRater(ChatRater):
    """Scores images with vLLM in this process: a mean of `samples` answers in [1, 5], as `Scorer` does.

    The prompt of an image is prefilled once for its samples (prefix caching). Their seeds depend only on (seed, the
    image's pixels, the sample's number), but vLLM rounds differently in batches of another make-up. A score is
    therefore repeatable for the same images in the same order, and nearly so otherwise.

    Images are resized here (bicubic) to at most `max_pixels` where that is given, and then by the model's processor.
    Twice `batch` of them are held in memory. An image that vLLM refuses, such as one too long for the model, fails
    alone.
    """

    def __init__(self, model: str, settings: ScoreSettings):
        """`model`: a folder or a name of the hub, loaded at once. `settings.batch`: images at a time, 64 unless given.

        Raises UserError where vLLM is not installed, cannot load the model, or has no such mode.
        """
        super().__init__("vllm", model, settings)
        # The default of the settings, 8, is meant for PyTorch: too few to keep vLLM busy.
        self.batch = settings.batch if "batch" in settings.model_fields_set else BATCH
        try:
            from vllm import LLM, SamplingParams
            from vllm.exceptions import VLLMClientError
        except ImportError as error:
            raise missing_extra("the engine vllm", "vllm", error) from error
        self._params, self._refusals = SamplingParams, (ValueError, VLLMClientError)
        self.engine_option = settings.engine_option.chosen() if settings.engine_option else {}
        # By default as long as the memory allows: the model's own length (128 k for Qwen) often does not fit.
        chosen = {"max_model_len": -1} | self.engine_option
        try:
            self._llm = LLM(
                model,
                dtype=settings.dtype,
                enable_prefix_caching=True,
                limit_mm_per_prompt={"image": 2 if settings.reference else 1, "video": 0},
                **chosen,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"vLLM cannot load {model!r}: {first_line(error)}; see its log above"
            ) from error
        self._template = {}
        if self.template_options:
            self._template["chat_template_kwargs"] = self.template_options
        self._banned = dict.fromkeys(placeholder_ids(self._llm.model_config.hf_config), NEVER)

    def settings(self) -> dict[str, Any]:
        # Left out where vLLM chooses: journals that are older than these options go on.
        chosen: dict[str, Any] = {}
        if self.options.dtype != "auto":
            chosen["dtype"] = self.options.dtype
        if self.engine_option:
            chosen["engine_option"] = self.engine_option
        return super().settings() | chosen

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: the next batch is read while one is scored."""
        iterator = iter(images)
        batches = iter(lambda: list(islice(iterator, self.batch)), [])
        # One worker for whole batches keeps exactly one batch ahead; it has readers of its own.
        for batch in map_ahead(self._open_batch, batches, workers=1):
            yield from self._rate_batch(batch)

    def _open_batch(self, batch: list[Source]) -> list[Opened]:
        return list(map_ahead(self._open, batch, workers=READERS))

    def _open(self, source: Source) -> Opened:
        try:
            return name_of(source), self.open(source)
        except UserError as error:
            return name_of(source), str(error)

    def _rate_batch(self, batch: list[Opened]) -> Iterator[Rating]:
        start = time.perf_counter()
        opened = [image for _, image in batch if not isinstance(image, str)]
        answers = iter(self._responses(opened))
        seconds = seconds_since(start, max(1, len(opened)))
        for name, image in batch:
            if isinstance(image, str):
                yield Rating.failed(name, image, **self.rating_fields)
                continue
            answer = next(answers)
            if isinstance(answer, str):
                yield Rating.failed(name, answer, **self.rating_fields, seconds=seconds)
            else:
                rating = Rating.from_samples(name, answer, **self.rating_fields, seconds=seconds)
                yield rating.with_warnings(image.warnings)

    def _responses(self, opened: list[OpenedSource]) -> list[list[response.Response] | str]:
        """The responses to each source, or why vLLM refuses it."""
        if not opened:
            return []
        chats, sampling = [], []
        for images, digest, _ in opened:
            parts = [{"type": "image_pil", "image_pil": image} for image in images]
            chats.append(self.messages(parts))
            sampling.append(self._sampling(digest))
        try:
            outputs = self._llm.chat(chats, sampling, use_tqdm=False, **self._template)
        except self._refusals as error:
            # vLLM refuses the whole batch for one image and does not say which: halve the batch until it is alone.
            if len(opened) == 1:
                # The cause is what the model's processor says; the error itself may only name an address in memory.
                return [f"vLLM refuses it: {error.__cause__ or error}"]
            half = len(opened) // 2
            return self._responses(opened[:half]) + self._responses(opened[half:])
        return [self._read(request.outputs) for request in outputs]

    def _sampling(self, digest: str) -> Any:
        """Every field that changes the distribution is set here, whatever the model's generation_config says."""
        return self._params(
            # At temperature 0 all answers would be the same, and vLLM refuses to draw more than one.
            n=self.samples if self.temperature else 1,
            # vLLM adds k to it for sample k.
            seed=request_seed(self.options.seed, digest, 0),
            temperature=self.temperature,
            max_tokens=self.options.token_limit,
            logit_bias=self._banned or None,
            **self.sampling,
            **self.extra_sampling,
        )

    def _read(self, completions: list[Any]) -> list[response.Response]:
        responses = []
        for one in sorted(completions, key=lambda one: one.index):
            truncated = one.finish_reason == "length"
            responses.append(self.read(one.text, truncated=truncated))
        # One answer at temperature 0 stands for all samples.
        return responses * (self.samples // len(responses))
