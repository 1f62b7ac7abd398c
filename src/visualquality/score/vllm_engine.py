"""Scores from vLLM in this process."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from .. import response
from ..errors import UserError
from .asking import SAMPLING, Asking, Mode, Opened
from .rating import Rating
from .source import Source, name_of

READERS = 4  # threads that open images while the model works

# What a config.json calls the tokens that stand for an image. A model that draws one would point at no image.
PLACEHOLDERS = ("image_token_id", "video_token_id", "image_token_index")


class VllmRater:
    """Scores images with vLLM in this process: a mean of `samples` answers in [1, 5], as `Scorer` does.

    The prompt of an image is prefilled once for its samples (prefix caching). Their seeds depend on (seed, the image's
    pixels, the sample's number) alone, but vLLM rounds differently in batches of another make-up, so that a score is
    repeatable for the same images in the same order, and nearly so otherwise.

    Images are resized here (bicubic) to at most `max_pixels` where that is given, and then by the model's processor.
    Twice `batch` of them are held in memory. An image that vLLM refuses, such as one too long for the model, fails
    alone.
    """

    def __init__(
        self,
        model: str,
        *,
        mode: Mode = "reason",
        samples: int = 6,
        seed: int = 0,
        prompt: response.PromptName | None = None,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        max_pixels: int | None = None,
        reference: bool = False,
        batch: int = 64,
    ):
        """`model`: a folder or a name of the hub, loaded at once. `batch`: images at a time.

        Raises UserError where vLLM is not installed, cannot load the model, or a setting cannot be.
        """
        self.asking = Asking(
            "vllm",
            model,
            mode,
            samples,
            seed,
            prompt,
            temperature,
            max_new_tokens,
            max_pixels,
            reference,
        )
        if batch < 1:
            raise UserError(f"batch is {batch}; it must be at least 1")
        self.batch = batch
        try:
            from vllm import LLM, SamplingParams
            from vllm.exceptions import VLLMClientError
        except ImportError as fault:
            raise UserError(
                f"the engine vllm needs vLLM 0.31 or newer ({fault}): pip install 'vllm>=0.31'"
            ) from fault
        self._params, self._refusals = SamplingParams, (ValueError, VLLMClientError)
        try:
            self._llm = LLM(
                model,
                max_model_len=-1,  # as long as the memory allows, where the model's own (128 k for Qwen) does not fit
                enable_prefix_caching=True,
                limit_mm_per_prompt={"image": 1 + reference, "video": 0},
            )
        except (OSError, ValueError, RuntimeError) as fault:
            reason = str(fault).strip().partition("\n")[0]
            raise UserError(f"vLLM cannot load {model!r}: {reason}; see its log above") from fault
        config = self._llm.model_config.hf_config
        self._banned = {
            int(i): -100.0
            for name in PLACEHOLDERS
            if (i := getattr(config, name, None)) is not None
        }

    def settings(self) -> dict[str, Any]:
        """Everything that a score depends on besides the image, but for vLLM's own version and kernels."""
        return self.asking.settings()

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: the next batch is read while one is scored."""
        iterator = iter(images)
        pool = ThreadPoolExecutor(READERS)
        try:
            coming = [
                (name_of(s), pool.submit(self.asking.open, s)) for s in islice(iterator, self.batch)
            ]
            while coming:
                batch = coming
                coming = [
                    (name_of(s), pool.submit(self.asking.open, s))
                    for s in islice(iterator, self.batch)
                ]
                yield from self._rate_batch(batch)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _rate_batch(self, batch: list[tuple[str, Future[Opened]]]) -> list[Rating]:
        started = time.perf_counter()
        ratings: dict[int, Rating] = {}
        opened: dict[int, Opened] = {}
        for index, (name, image) in enumerate(batch):
            try:
                opened[index] = image.result()
            except UserError as fault:
                ratings[index] = Rating.failed(name, str(fault), **self.asking.made_by)
        for index, said in zip(opened, self._responses(list(opened.values())), strict=True):
            made_by = {
                **self.asking.made_by,
                "seconds": round((time.perf_counter() - started) / len(opened), 4),
            }
            if isinstance(said, str):
                ratings[index] = Rating.failed(batch[index][0], said, **made_by)
            else:
                ratings[index] = Rating.from_samples(batch[index][0], said, **made_by)
        return [ratings[index] for index in range(len(batch))]

    def _responses(self, opened: list[Opened]) -> list[list[response.Response] | str]:
        """K responses for each source, or why vLLM refuses it."""
        if not opened:
            return []
        chats = [
            self.asking.messages([{"type": "image_pil", "image_pil": image} for image in images])
            for images, _ in opened
        ]
        try:
            outputs = self._llm.chat(
                chats, [self._sampling(digest) for _, digest in opened], use_tqdm=False
            )
        except (
            self._refusals
        ) as fault:  # of one image, for all: those on its other side are scored together again
            if len(opened) == 1:
                return [
                    f"vLLM refuses it: {fault.__cause__ or fault}"
                ]  # the cause is what the model's processor says
            half = len(opened) // 2
            return self._responses(opened[:half]) + self._responses(opened[half:])
        return [self._read(request.outputs) for request in outputs]

    def _sampling(self, digest: str) -> Any:
        """Every field that changes the distribution is set here, whatever the model's generation_config says."""
        asking = self.asking
        return self._params(
            n=asking.samples
            if asking.temperature
            else 1,  # vLLM refuses more where all would be the same
            seed=asking.sample_seed(digest, 0),  # vLLM adds k for sample k
            temperature=asking.temperature,
            **SAMPLING,
            max_tokens=asking.max_new_tokens,
            logit_bias=self._banned or None,
        )

    def _read(self, completions: list[Any]) -> list[response.Response]:
        responses = [
            response.read(c.text, truncated=c.finish_reason == "length", prompt=self.asking.prompt)
            for c in sorted(completions, key=lambda c: c.index)
        ]
        return responses * (self.asking.samples // len(responses))
