"""What is asked of a model that we do not run ourselves, in this process or on a server."""

import math
from importlib.metadata import version
from typing import Any, Literal

import xxhash
from PIL import Image

from .. import response
from ..errors import UserError
from ..models.families import trained_prompt
from .source import Source, open_source

Mode = Literal["reason", "direct"]
Opened = tuple[tuple[Image.Image, ...], str]  # the images of a prompt in order, and their digest
MAX_NEW_TOKENS: dict[Mode, int] = {"reason": 512, "direct": 24}

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


class Asking:
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
            raise UserError(
                f"mode is {mode!r}; with the engine {engine} choose one of {', '.join(MAX_NEW_TOKENS)}"
            )
        for name, value in {
            "samples": samples,
            "max_new_tokens": max_new_tokens,
            "max_pixels": max_pixels,
        }.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise UserError(f"temperature is {temperature}; it must be 0 or more")
        self.engine, self.model, self.mode, self.samples, self.seed = (
            engine,
            model,
            mode,
            samples,
            seed,
        )
        self.temperature, self.max_pixels, self.reference = temperature, max_pixels, reference
        self.prompt: response.PromptName = prompt or trained_prompt(model) or "paper"
        self.text = response.prompt_text(self.prompt, mode == "reason", reference=reference)
        self.max_new_tokens = max_new_tokens or MAX_NEW_TOKENS[mode]
        self.made_by: dict[str, Any] = {
            "model": model,
            "mode": mode,
            "seed": seed,
            "prompt": self.prompt,
        }

    def settings(self) -> dict[str, Any]:
        names = ("prompt", "mode", "samples", "seed", "temperature", "max_new_tokens", "max_pixels")
        asked = {name: getattr(self, name) for name in names}
        asked |= {"reference": True} if self.reference else {}
        return {
            "model": self.model,
            "engine": self.engine,
            **asked,
            "version": version("visualquality"),
        }

    def messages(self, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat, in OpenAI's form, with `images` as the parts of its content that are the images."""
        words = [{"type": "text", "text": self.text}]
        user = {
            "role": "user",
            "content": words + images if self.prompt in response.IMAGE_LAST else images + words,
        }
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
