"""Where a model name becomes what rates images: a classic metric, a model in this process, or one on a server."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from ..classics import Classic
from ..data.find import MAX_IMAGE_PIXELS
from ..data.images import Picture, header, read_image
from ..errors import UserError
from ..io import map_ahead
from ..process import ForkSafeLock
from .calibration import Calibration, find_calibration, with_calibration, with_intervals
from .rating import Rater, Rating, seconds_since
from .settings import ScoreSettings
from .source import name_of

CLASSICS = ("niqe", "brisque", "pyiqa")
# Whoever gives one of these expects another score, and a classic would give the same: they are refused. The other
# options are ignored, so that one command line or suite serves both kinds.
MODEL_OPTIONS = (
    "url",
    "prompt",
    "temperature",
    "reading",
    "max_new_tokens",
    "max_pixels",
    "reference",
    "engine",
    "engine_option",
)


# Photos of more pixels are rated one at a time: in all threads at once they would need several gigabytes.
LARGE = 25_000_000
_one_large = ForkSafeLock()


class ImageFunctionRater:
    """Rates images with a classic, a function of one image, in threads (a `Rater`).

    A rating has one sample, its score, rounded to 6 decimals; an image that cannot be opened, or that the classic fails
    on, has the reason as its `problem`. `workers`: threads; by default one a processor. `calibration_file`: the only
    file in which a calibration is looked for, if it is given. `max_image_pixels`, `assume_bits`: as `read_image`.
    """

    def __init__(
        self,
        classic: Classic,
        *,
        workers: int | None = None,
        calibration_file: Path | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        assume_bits: int | None = None,
    ) -> None:
        self.classic = classic
        self.workers = workers
        self.calibration_file = calibration_file
        self.max_image_pixels = max_image_pixels
        self.assume_bits = assume_bits

    @cached_property
    def calibration(self) -> Calibration | None:
        """What gives ratings their interval. Raises UserError for a file that is no calibration."""
        return find_calibration(self.classic.settings, file=self.calibration_file)

    def settings(self) -> dict[str, Any]:
        """All that a rating depends on besides the image."""
        settings = self.classic.settings()
        if self.assume_bits is not None:
            settings["assume_bits"] = self.assume_bits
        return with_calibration(settings, self.calibration)

    def rate(self, images: Iterable[Picture]) -> Iterator[Rating]:
        """Ratings in the order of `images`, which may be endless."""
        ratings = map_ahead(self._rate, images, self.workers)
        return with_intervals(ratings, self.calibration)

    def _rate(self, source: Picture) -> Rating:
        start, name = time.perf_counter(), name_of(source)
        origin: dict[str, Any] = {"model": self.classic.name, "mode": "direct", "seed": 0}
        try:
            with _one_large if self._is_large(source) else nullcontext():
                opened = read_image(
                    source, max_image_pixels=self.max_image_pixels, assume_bits=self.assume_bits
                )
                value = round(self.classic(opened.image), 6)
        except UserError as error:
            return Rating.failed(name, str(error), **origin)
        origin["seconds"] = seconds_since(start)
        rating = Rating(name, value, None, (value,), None, None, **origin)
        return rating.with_warnings(opened.warnings)

    def _is_large(self, source: Picture) -> bool:
        """Whether a file has more than `LARGE` pixels. Those in memory already do not count. Raises UserError."""
        if not isinstance(source, str | os.PathLike):
            return False
        with header(Path(source), self.max_image_pixels) as image:
            return image.width * image.height > LARGE


def make_rater(name: str, settings: ScoreSettings) -> Rater:
    """What rates images under this name; a higher score is a better image.

    - `niqe`, `brisque`: this package's own; `niqe:FILE` and `brisque:FILE` with parameters that the user fitted.
    - `pyiqa:NAME`: a metric of pyiqa, such as `pyiqa:musiq` (see `classics.pyiqa`).
    - Any other name is a vision-language model: nano, a folder, or a name of the Hugging Face hub. `settings.engine`
      says what runs it: "here" is `Scorer`, "vllm" the engine of that name, "openai" an OpenAI-compatible server at
      `settings.url`.

    The classics give each image one number, without words or chance: of `settings` they use `calibration`,
    `max_image_pixels` and `assume_bits`, and pyiqa `device`.

    Raises UserError for a model or engine that cannot be had, for options that an engine cannot follow, and for those
    that would change nothing there: the URL without a server, and for a classic each of `MODEL_OPTIONS`.
    """
    kind, _, detail = name.partition(":")
    if kind in CLASSICS:
        for option in MODEL_OPTIONS:
            # Not `model_fields_set`: a benchmark suite gives every option, most at their defaults.
            if getattr(settings, option) != ScoreSettings.model_fields[option].default:
                raise UserError(
                    f"{name} takes no {option}, since it is no vision-language model: leave {option} out"
                )
    elif settings.url is not None and settings.engine != "openai":
        raise UserError(
            "--url is the address of a server: give --engine openai with it, or leave it out"
        )
    # Imported only where it is used: PyTorch and vLLM take seconds to import.
    parameters = Path(detail) if detail else None
    reading = {"calibration_file": settings.calibration, **settings.file_options}
    if kind == "niqe":
        from ..classics.niqe import Niqe

        return ImageFunctionRater(Niqe.load(parameters), **reading)
    if kind == "brisque":
        from ..classics.brisque import Brisque

        return ImageFunctionRater(Brisque.load(parameters), **reading)
    if kind == "pyiqa":
        from ..classics.pyiqa import PyiqaMetric

        # Its networks are not thread-safe.
        return ImageFunctionRater(PyiqaMetric(detail, device=settings.device), workers=1, **reading)
    if settings.engine == "vllm":
        from .vllm import VllmRater

        return VllmRater(name, settings)
    if settings.engine == "openai":
        from .openai import OpenAIRater

        return OpenAIRater(name, settings)
    from .scorer import Scorer

    return Scorer(name, settings)
