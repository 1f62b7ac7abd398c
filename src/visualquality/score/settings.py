"""All scoring options, listed once: the command line, Python, benchmark suites, engines and servers read them here.

Options that would change nothing are refused where they are given: `ScoreSettings` knows those of a mode, `make_rater`
those of a classic, and an engine its own. Only `seed` is taken everywhere, since what it promises holds without draws.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ..data.find import MAX_IMAGE_PIXELS
from ..errors import UserError
from ..io import Settings
from ..models.options import Quantization
from ..models.releases import release_of
from ..process import device_name
from ..response import PromptName, Reading

Mode = Literal["reason", "expect", "direct", "auto"]
Engine = Literal["here", "vllm", "openai"]

TOKENS_WITH_WORDS, TOKENS_WITHOUT = 512, 24  # longest answers, by default
# How the tokens of an answer are drawn. Mode expect draws none.
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")


class EngineOptions(Settings):
    """What vLLM is told beside the model, under the names that it has for them itself.

    gpu_memory_utilization: share of a device's memory, in (0, 1], that weights and caches may take together.
    tensor_parallel_size: GPUs that share the model. max_model_len: most tokens of prompt and answer together.
    quantization: how the weights are stored or made smaller, such as fp8, awq or bitsandbytes; vLLM knows which there
    are.
    """

    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    tensor_parallel_size: int | None = Field(None, ge=1)
    max_model_len: int | None = Field(None, ge=1)
    quantization: str | None = Field(None, min_length=1)

    def chosen(self) -> dict[str, Any]:
        """Those that were given; vLLM has defaults for the others."""
        return self.model_dump(exclude_none=True)


class ScoreSettings(Settings):
    """How a vision-language model scores images. A field's description is its help on the command line."""

    mode: Mode = Field(
        "reason",
        description="reason: in words first. expect: no words, the expected score at once. direct: answers drawn "
        "without words. auto: expect, and reason where that is unsure.",
    )
    preset: Literal["authors"] | None = Field(
        None,
        description="authors: score as the authors' script for these weights does, as far as options given beside it "
        "do not say otherwise. For VisualQuality-R1 and Q-Insight.",
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
        le=100,
        allow_inf_nan=False,
        description="Sampling temperature; by default 1, or 0.4 for nano. 0 takes the most likely token.",
    )
    top_k: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Draw each token from so many most likely ones. 0: from all.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw each token from the fewest most likely ones that have this probability together.",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Above 1: tokens of the question and of the answer so far become less likely.",
    )
    reading: Reading | None = Field(
        None,
        description="strict: an answer's score is the one number in its tags. authors: the first number there, such as "
        "in 3.5/5. expected: the expectation over the digits that could follow its words. By default strict, or "
        "expected for nano.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Longest answer; by default 512 tokens with words, 24 without.",
    )
    add_vision_id: bool = Field(
        False,
        description='The chat template numbers the images ("Picture 1: "); Qwen-VL models have this.',
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
    engine_option: EngineOptions | None = Field(
        None,
        description="With --engine vllm, one KEY=VALUE each time: gpu_memory_utilization, tensor_parallel_size, "
        "max_model_len, quantization.",
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

    @model_validator(mode="after")
    def _each_has_an_effect(self) -> Self:
        given = self.given()
        if self.mode == "expect":
            for name in ("preset", "samples", "reading", *SAMPLING):
                if name in given:
                    raise ValueError(
                        f"{name} has no effect in mode expect, which draws no answers: leave it out"
                    )
        if self.mode == "auto" and self.preset is not None:
            raise ValueError(
                f"preset {self.preset} is for the modes reason and direct: leave mode out"
            )
        if "doubt" in given and self.mode != "auto":
            raise ValueError("doubt has no effect without mode auto: leave it out")
        if "tolerance" in given and self.samples != "auto":
            raise ValueError("tolerance has no effect without samples auto: leave it out")
        if self.temperature == 0 and (narrowing := {"top_k", "top_p"} & given):
            raise ValueError(
                f"{' and '.join(sorted(narrowing))}: no effect at temperature 0, which takes the most likely token: "
                "leave one of the two out"
            )
        return self

    def given(self) -> set[str]:
        """The options that somebody asked for by name; None and False ask for nothing."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        # By identity, since 0 equals False.
        return {name for name, value in values.items() if value is not None and value is not False}

    def for_model(self, name: str) -> "ScoreSettings":
        """These settings with what `preset` says for the model of this name; itself without a preset.

        An option that was given goes before the preset's. Raises UserError for a model that has none.
        """
        if self.preset is None:
            return self
        release = release_of(name)
        if release is None or release.authors is None:
            raise UserError(
                f"there is no preset {self.preset} for {name}, only for the released weights of VisualQuality-R1 and "
                "Q-Insight: leave preset out"
            )
        chosen = {name for name in self.model_fields_set if getattr(self, name) is not None}
        left = {name: value for name, value in release.authors.items() if name not in chosen}
        return self.model_copy(update=left)

    @field_validator("engine_option", mode="before")
    @classmethod
    def _is_for_an_engine(cls, given: object) -> object:
        """A mapping, or the words KEY=VALUE of the command line. Raises UserError for any other key."""
        if isinstance(given, list | tuple):
            words = [str(word).partition("=") for word in given]
            wrong = [key + equals for key, equals, value in words if not (key and value)]
            if wrong:
                raise UserError(f"{wrong[0]!r} is not of the form KEY=VALUE")
            given = {key: value for key, _, value in words}
            if len(given) < len(words):
                raise UserError("give each key once")
        if not isinstance(given, dict):
            return given
        if "dtype" in given:
            raise UserError("dtype is a scoring option of its own (--dtype): give it there")
        if unknown := [str(key) for key in given if key not in EngineOptions.model_fields]:
            names = ", ".join(EngineOptions.model_fields)
            raise UserError(f"there is no {unknown[0]}: there are {names}")
        return given

    @model_validator(mode="after")
    def _has_its_engine(self) -> "ScoreSettings":
        if self.engine_option is not None and self.engine != "vllm":
            raise UserError(
                "engine_option is for the engine vllm: give engine vllm with it, or leave it out"
            )
        return self

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


# What options that came later mean where they are not used.
_UNUSED = {
    "reference": False,
    "assume_bits": None,
    "quantization": None,
    "reading": "strict",
    "preset": None,
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "add_vision_id": False,
}


def in_use(header: dict[str, Any]) -> dict[str, Any]:
    """What a rater's settings record of `header`: without the options that came later and are not used.

    So journals that are older than these options go on, and calibrations fit that were made before.
    """
    return {
        name: value
        for name, value in header.items()
        if name not in _UNUSED or value != _UNUSED[name]
    }


def score_settings(**options: Any) -> ScoreSettings:
    """The settings of these options. Raises one UserError that names each wrong option and what it may be."""
    try:
        return ScoreSettings(**options)
    except ValidationError as error:
        # An option that may be of several kinds, such as samples, has a message for each of them.
        faults: dict[str, list[str]] = {}
        for e in error.errors():
            # A check of several options together names them itself, and has no place.
            name = e["loc"][0] if e["loc"] else None
            if e["type"] == "extra_forbidden":
                names = ", ".join(ScoreSettings.model_fields)
                raise UserError(
                    f"there is no scoring option {name!r}: there are {names}"
                ) from error
            # What a validator of ours says comes behind pydantic's own words.
            message = e["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            what = f"{name} is {e['input']!r}: "
            if name is None:
                what = ""
            elif name == "engine_option" and len(e["loc"]) > 1:
                what = f"engine_option {e['loc'][1]} is {e['input']!r}: "
            faults.setdefault(what, []).append(message)
        sentences = [f"{what}{' or '.join(messages)}" for what, messages in faults.items()]
        raise UserError("; ".join(sentences)) from error
