"""Scores from vLLM in this process, and what is asked of a model that we do not run ourselves, here or on a server."""

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal

import xxhash
from PIL import Image

from .. import response
from ..errors import UserError
from ..models.known import trained_prompt
from .rating import Rating
from .source import Source, name_of, open_source

Mode = Literal["reason", "direct"]
Opened = tuple[tuple[Image.Image, ...], str]  # the images of a prompt in order, and their digest
MAX_NEW_TOKENS: dict[Mode, int] = {"reason": 512, "direct": 24}

READERS = 4  # threads that open images while the model works

# The whole of the model's distribution. Engines otherwise fill in their own defaults (min_p 0.05 and top_k 40 in
# llama.cpp) or those of the model's generation_config.json (Qwen's has a repetition penalty). The last three are no
# fields of OpenAI's own; a server that does not know them ignores them, or refuses the request and says so.
SAMPLING: dict[str, float] = {
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_k": -1,  # all
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}

# What a config.json calls the tokens that stand for an image. A model that draws one would point at no image.
PLACEHOLDERS = ("image_token_id", "video_token_id", "image_token_index")


class Question:
    """What a model is asked about each source, and all the settings that its answers depend on.

    `prompt` is by default the one that a known model was trained with, else "paper"; `max_new_tokens` is 512 for
    "reason" and 24 for "direct". Raises UserError for a mode, prompt or number that cannot be.
    """

    def __init__(
        self,
        engine: str,
        model: str,
        mode: Mode,
        samples: int,
        seed: int,
        prompt: response.PromptName | None,
        temperature: float,
        max_new_tokens: int | None,
        max_pixels: int | None,
        reference: bool,
    ):
        if mode not in MAX_NEW_TOKENS:
            raise UserError(f"mode is {mode!r}; with the engine {engine} choose one of {', '.join(MAX_NEW_TOKENS)}")
        for name, value in {"samples": samples, "max_new_tokens": max_new_tokens, "max_pixels": max_pixels}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise UserError(f"temperature is {temperature}; it must be 0 or more")
        self.engine, self.model, self.mode, self.samples, self.seed = engine, model, mode, samples, seed
        self.temperature, self.max_pixels, self.reference = temperature, max_pixels, reference
        self.prompt: response.PromptName = prompt or trained_prompt(model) or "paper"
        self.text = response.prompt_text(self.prompt, mode == "reason", reference=reference)
        self.max_new_tokens = max_new_tokens or MAX_NEW_TOKENS[mode]
        self.made_by: dict[str, Any] = {"model": model, "mode": mode, "seed": seed, "prompt": self.prompt}

    def settings(self) -> dict[str, Any]:
        names = ("prompt", "mode", "samples", "seed", "temperature", "max_new_tokens", "max_pixels")
        asked = {name: getattr(self, name) for name in names}
        asked |= {"reference": True} if self.reference else {}
        return {"model": self.model, "engine": self.engine, **asked, "version": version("visualquality")}

    def messages(self, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat, in OpenAI's form, with `images` as the parts of its content that are the images."""
        words = [{"type": "text", "text": self.text}]
        user = {"role": "user", "content": words + images if self.prompt in response.IMAGE_LAST else images + words}
        system = response.SYSTEM.get(self.prompt)
        return [user] if system is None else [{"role": "system", "content": system}, user]

    def open(self, source: Source) -> Opened:
        """The images, each in at most `max_pixels` (bicubic), and the digest of what they were. Raises UserError."""
        images, digest = open_source(source, reference=self.reference)
        return tuple(map(self._bounded, images)), digest

    def _bounded(self, image: Image.Image) -> Image.Image:
        if self.max_pixels is None or image.width * image.height <= self.max_pixels:
            return image
        scale = math.sqrt(self.max_pixels / (image.width * image.height))
        width = min(max(1, int(image.width * scale)), self.max_pixels)
        height = min(max(1, int(image.height * scale)), self.max_pixels // width)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def sample_seed(self, digest: str, k: int) -> int:
        """The seed of sample `k` of an image, in [0, 2³¹): what every server takes."""
        return xxhash.xxh3_64_intdigest(f"{self.seed} {digest} {k}".encode()) >> 33


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
        self.question = Question(
            "vllm", model, mode, samples, seed, prompt, temperature, max_new_tokens, max_pixels, reference
        )
        if batch < 1:
            raise UserError(f"batch is {batch}; it must be at least 1")
        self.batch = batch
        try:
            from vllm import LLM, SamplingParams
            from vllm.exceptions import VLLMClientError
        except ImportError as fault:
            raise UserError(f"the engine vllm needs vLLM 0.31 or newer ({fault}): pip install 'vllm>=0.31'") from fault
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
        self._banned = {int(i): -100.0 for name in PLACEHOLDERS if (i := getattr(config, name, None)) is not None}

    def settings(self) -> dict[str, Any]:
        """Everything that a score depends on besides the image, but for vLLM's own version and kernels."""
        return self.question.settings()

    def rate(self, images: Iterable[Source]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless: the next batch is read while one is scored."""
        iterator = iter(images)
        pool = ThreadPoolExecutor(READERS)
        try:
            coming = [(name_of(s), pool.submit(self.question.open, s)) for s in islice(iterator, self.batch)]
            while coming:
                batch = coming
                coming = [(name_of(s), pool.submit(self.question.open, s)) for s in islice(iterator, self.batch)]
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
                ratings[index] = Rating.failed(name, str(fault), **self.question.made_by)
        for index, said in zip(opened, self._responses(list(opened.values())), strict=True):
            made_by = {**self.question.made_by, "seconds": round((time.perf_counter() - started) / len(opened), 4)}
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
            self.question.messages([{"type": "image_pil", "image_pil": image} for image in images])
            for images, _ in opened
        ]
        try:
            outputs = self._llm.chat(chats, [self._sampling(digest) for _, digest in opened], use_tqdm=False)
        except self._refusals as fault:  # of one image, for all: those on its other side are scored together again
            if len(opened) == 1:
                return [f"vLLM refuses it: {fault.__cause__ or fault}"]  # the cause is what the model's processor says
            half = len(opened) // 2
            return self._responses(opened[:half]) + self._responses(opened[half:])
        return [self._read(request.outputs) for request in outputs]

    def _sampling(self, digest: str) -> Any:
        """Every field that changes the distribution is set here, whatever the model's generation_config says."""
        question = self.question
        return self._params(
            n=question.samples if question.temperature else 1,  # vLLM refuses more where all would be the same
            seed=question.sample_seed(digest, 0),  # vLLM adds k for sample k
            temperature=question.temperature,
            **SAMPLING,
            max_tokens=question.max_new_tokens,
            logit_bias=self._banned or None,
        )

    def _read(self, completions: list[Any]) -> list[response.Response]:
        responses = [
            response.read(c.text, truncated=c.finish_reason == "length", prompt=self.question.prompt)
            for c in sorted(completions, key=lambda c: c.index)
        ]
        return responses * (self.question.samples // len(responses))
