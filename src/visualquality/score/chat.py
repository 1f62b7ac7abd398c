"""What a chat model is asked about an image, whether vLLM runs it in this process or a server does."""

import base64
import math
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image

from .. import response
from ..errors import UserError
from ..models.families import trained_prompt
from ..response import PromptName
from ..seeds import request_seed
from .settings import Engine, ScoreSettings
from .source import Source, open_source

# The whole of the model's distribution, and always sent: engines otherwise fill in their own defaults (min_p 0.05 and
# top_k 40 in llama.cpp) or those of the model's generation_config.json (Qwen's has a repetition penalty).
SAMPLING: dict[str, float] = {
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

# The same for fields that OpenAI itself does not have. A server that does not know them ignores them, or refuses the
# request and says so.
EXTRA_SAMPLING: dict[str, float] = {
    "top_k": -1,  # all tokens
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}


class OpenedSource(NamedTuple):
    """The images of a prompt in order (a reference image first), and the digest of their pixels as they were given."""

    images: tuple[Image.Image, ...]
    digest: str


class ChatRater:
    """Base of the raters whose model an inference engine runs: the question, its images, and what a score depends on.

    Attributes:
        options: the settings as they were given.
        prompt: the prompt that was asked for, else the one that a known model was trained with, else "paper".
        temperature: of drawing; 1 by default.
        rating_fields: the fields of a `Rating` that say what made it.
    """

    def __init__(self, engine: Engine, model: str, options: ScoreSettings):
        # Engines return text, not the probabilities that the other modes and an automatic number of samples need.
        if options.mode not in ("reason", "direct") or options.samples == "auto":
            raise UserError(
                f"engine {engine} draws a number of answers: use mode reason or direct, "
                "and a number of samples"
            )
        self.engine = engine
        self.model = model
        self.options = options
        self.samples = options.samples
        self.prompt: PromptName = options.prompt or trained_prompt(model) or "paper"
        self.temperature = 1.0  # nano, for which another one is better, does not run on engines
        if options.temperature is not None:
            self.temperature = options.temperature
        self.question = response.prompt_text(
            self.prompt, options.mode == "reason", reference=options.reference
        )
        self.rating_fields: dict[str, Any] = {
            "model": model,
            "mode": options.mode,
            "seed": options.seed,
            "prompt": self.prompt,
        }

    def settings(self) -> dict[str, Any]:
        """What a score depends on besides the image. Which weights a server holds, and an engine's kernels, are
        not known here."""
        # The header of a journal: a run goes on only where it is the same, so keys and values must not change.
        header: dict[str, Any] = {
            "model": self.model,
            "engine": self.engine,
            "prompt": self.prompt,
            "mode": self.options.mode,
            "samples": self.samples,
            "seed": self.options.seed,
            "temperature": self.temperature,
            "max_new_tokens": self.options.token_limit,
            "max_pixels": self.options.max_pixels,
        }
        if self.options.reference:
            header["reference"] = True
        return header | {"version": version("visualquality")}

    def messages(self, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat in OpenAI's form; `images` are the parts of its content that hold the images."""
        text = {"type": "text", "text": self.question}
        content = [*images, text]
        if self.prompt in response.IMAGE_LAST:
            content = [text, *images]
        chat = [{"role": "user", "content": content}]
        # Only where a prompt has a system message of its own: else the model's chat template may bring one.
        system = response.SYSTEM.get(self.prompt)
        if system is not None:
            chat.insert(0, {"role": "system", "content": system})
        return chat

    def open(self, source: Source) -> OpenedSource:
        """Open the images of a source, each resized to at most `max_pixels`. Raises UserError."""
        images, digest = open_source(source, reference=self.options.reference)
        limit = self.options.max_pixels
        if limit is not None:
            images = tuple(shrink(image, limit) for image in images)
        return OpenedSource(images, digest)

    def seed(self, digest: str, k: int) -> int:
        """The seed of sample `k` of an image with this digest, in [0, 2³¹)."""
        return request_seed(self.options.seed, digest, k)


def shrink(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image in at most `max_pixels`, by bicubic resizing that keeps its aspect ratio as far as that is possible."""
    pixels = image.width * image.height
    if pixels <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / pixels)
    # The inner bounds matter for lines: an image of 3000 x 1 pixels cannot keep its aspect ratio.
    width = min(max(1, int(image.width * scale)), max_pixels)
    height = min(max(1, int(image.height * scale)), max_pixels // width)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def png_data_url(image: Image.Image) -> str:
    """The image as a data URL."""
    png = BytesIO()
    # Little compression: its time matters more than the bytes, which are sent once for each sample.
    image.save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getbuffer()).decode()
