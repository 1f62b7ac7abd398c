"""All scoring options, listed once: the command line, Python, benchmark suites, engines and servers read them here."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from ..data.find import MAX_IMAGE_PIXELS
from ..errors import UserError
from ..io import Settings
from ..models.options import Quantization
from ..process import device_name
from ..response import PromptName, Reading

Mode = Literal["reason", "expect", "direct", "auto"]
Engine = Literal["here", "vllm", "openai"]

TOKENS_WITH_WORDS, TOKENS_WITHOUT = 512, 24  # longest answers, by default


class ScoreSettings(Settings):
    """How a vision-language model scores images. A field's description is its help on the command line."""

    mode: Mode = Field(
        "reason",
        description="reason: in words first. expect: no words, the expected score at once. direct: answers drawn "
        "without words. auto: expect, and reason where that is unsure.",
    )
    samples: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        6, description="Answers drawn for each image; the score is their mean. Or auto."
    )
    tolerance: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="With --samples auto: draw until the mean's standard error is below this.",
    )
    doubt: float = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="With --mode auto: reason where the standard deviation of the expected score is above this.",
    )
    seed: int = Field(0, description="The same image and seed give the same score.")
    prompt: PromptName | None = Field(
        None,
        description="By default the one that the model was trained with. paper, released; for large models also "
        "super-resolution, dehazing, deblurring, generated, aesthetics.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Sampling temperature; by default 1, or 0.4 for nano. 0 takes the most likely token.",
    )
    reading: Reading | None = Field(
        None,
        description="drawn: an answer's score is its number. expected: the expectation over the digits that could "
        "follow its words. By default drawn, or expected for nano. Without effect in mode expect.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Longest answer; by default 512 tokens with words, 24 without.",
    )
    max_pixels: int | None = Field(
        None, ge=1, description="Bound on the pixels that the model sees of an image."
    )
    max_image_pixels: int = Field(
        MAX_IMAGE_PIXELS,
        ge=1,
        description="Files of more pixels are refused before they are decoded; more pixels need more memory.",
    )
    assume_bits: int | None = Field(
        None,
        ge=8,
        le=32,
        description="Bits that the samples of 16- and 32-bit files hold, where their header does not say: 12 for "
        "values from 0 to 4095.",
    )
    reference: bool = Field(False, description="Rate each image against a reference image.")
    batch: int = Field(8, ge=1, le=100_000, description="Images at a time.")
    device: str | None = Field(
        None, description="cpu, cuda, cuda:N or mps; by default cuda where there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the weights; by default bfloat16 on CUDA, else float32.",
    )
    quantization: Quantization | None = Field(
        None,
        description="4bit: the weights of the language model in 4 bits, by bitsandbytes. By default as dtype says.",
    )
    engine: Engine = Field(
        "here",
        description="here: PyTorch. vllm: vLLM in this process. openai: a server, see --url.",
    )
    url: str | None = Field(None, description="Address of an OpenAI-compatible server.")
    calibration: Path | None = Field(
        None,
        description="File of visualquality calibrate, for an interval of the human rating with each score; by default "
        "the one in the model's folder or in your data folder.",
    )

    @field_validator("device", mode="before")
    @classmethod
    def _is_a_device(cls, device: object) -> str | None:
        # A torch.device, too, is taken by its name. Whether this machine has it is found where a model is loaded.
        return None if device is None else device_name(device)

    @property
    def file_options(self) -> dict[str, Any]:
        """How files are read, as `read_image` takes it."""
        return {"max_image_pixels": self.max_image_pixels, "assume_bits": self.assume_bits}

    @property
    def model_options(self) -> dict[str, Any]:
        """How the model is loaded, as `models.load.load` takes it."""
        return self.model_dump(include={"device", "dtype", "max_pixels", "quantization"})

    @property
    def token_limit(self) -> int:
        """`max_new_tokens`, or the default of the mode."""
        default = TOKENS_WITHOUT if self.mode == "direct" else TOKENS_WITH_WORDS
        return self.max_new_tokens or default


def score_settings(**options: Any) -> ScoreSettings:
    """The settings of these options. Raises one UserError that names each wrong option and what it may be."""
    try:
        return ScoreSettings(**options)
    except ValidationError as error:
        # An option that may be of several kinds, such as samples, has a message for each of them.
        faults: dict[str, list[str]] = {}
        for e in error.errors():
            name = e["loc"][0]
            if e["type"] == "extra_forbidden":
                names = ", ".join(ScoreSettings.model_fields)
                raise UserError(
                    f"there is no scoring option {name!r}: there are {names}"
                ) from error
            # What a validator of ours says comes behind pydantic's own words.
            message = e["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            faults.setdefault(f"{name} is {e['input']!r}", []).append(message)
        sentences = [f"{what}: {' or '.join(messages)}" for what, messages in faults.items()]
        raise UserError("; ".join(sentences)) from error
