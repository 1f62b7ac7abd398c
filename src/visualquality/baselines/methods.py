"""From the name of a method to what rates images with it: a row of a benchmark, whatever it is made of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from ..response import PromptName
from ..score.rating import Rater
from ..score.settings import score_settings

if TYPE_CHECKING:
    from ..score.scorer import Mode


def method(
    name: str,
    *,
    engine: str = "here",
    url: str | None = None,
    mode: "Mode" = "reason",
    samples: "int | Literal['auto']" = 6,
    seed: int = 0,
    tolerance: float = 0.1,
    doubt: float = 0.5,
    prompt: PromptName | None = None,
    reference: bool = False,
    batch: int = 8,
    device: str | None = None,
    max_pixels: int | None = None,
) -> Rater:
    """The method of this name; a higher score of its ratings is a better image.

    - `niqe`, `brisque`: this package's own; `niqe:FILE` and `brisque:FILE` with parameters fitted by its user.
    - `pyiqa:NAME`: a metric of pyiqa, such as `pyiqa:musiq` (see `pyiqa_bridge`).
    - Any other name is a vision-language model: nano, a folder, or a name of the Hugging Face hub. `engine` says what
      runs it: "here" is `Scorer`, "vllm" the engine of that name, "openai" an OpenAI-compatible server at `url`.

    The other options are those of `Scorer`. The classic methods give each image one number, without words or chance,
    so `mode`, `samples` and `seed` change nothing of theirs; `device` is heeded by pyiqa alone.

    Raises UserError for a method or engine that cannot be had, and for a URL, prompt or bound on pixels that would
    change nothing there. How many images an engine takes at a time is its own affair: `batch`, `device` are for "here".
    """
    kind, _, detail = name.partition(":")
    if kind in ("niqe", "brisque", "pyiqa"):
        options = {
            "url": url,
            "prompt": prompt,
            "max_pixels": max_pixels,
            "reference": reference or None,
        }
        return _classic(name, kind, detail, device, engine=engine, **options)
    drawing: dict[str, Any] = {"mode": mode, "samples": samples, "seed": seed, "prompt": prompt}
    drawing |= {"max_pixels": max_pixels, "reference": reference}
    if url is not None and engine in ("here", "vllm"):
        raise UserError(
            "--url is the address of a server: give --engine openai with it, or leave it out"
        )
    if engine == "here":
        from ..score.scorer import Scorer

        return Scorer(name, **drawing, tolerance=tolerance, doubt=doubt, batch=batch, device=device)
    if engine in ("vllm", "openai"):
        # `batch` is left out: its default is meant for PyTorch, and an engine has one of its own.
        settings = score_settings(engine=engine, url=url, **drawing)
        if engine == "vllm":
            from ..score.vllm import VllmRater

            return VllmRater(name, settings)
        from ..score.openai import OpenAIRater

        return OpenAIRater(name, settings)
    raise UserError(f"engine is {engine!r}: choose here, vllm or openai")


def _classic(
    name: str, kind: str, detail: str, device: str | None, *, engine: str, **options: object
) -> Rater:
    options |= {"engine": None if engine == "here" else engine}
    for option, value in options.items():
        if value is not None:
            raise UserError(
                f"{name} takes no {option}, it is not a vision-language model: leave {option} out"
            )
    if kind == "pyiqa":
        from .pyiqa_bridge import PyiqaRater

        return PyiqaRater(detail, device=device)
    parameters = Path(detail) if detail else None
    if kind == "niqe":
        from .niqe import Niqe

        return Niqe(parameters)
    from .brisque import Brisque

    return Brisque(parameters)
