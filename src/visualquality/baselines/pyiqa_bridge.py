"""The no-reference metrics of pyiqa (https://github.com/chaofengc/IQA-PyTorch) under this package's `Rater`.

pyiqa is an optional extra, `pip install "visualquality[pyiqa]"`. Its licence, PolyForm Noncommercial 1.0.0, allows
noncommercial use only, and the weights that it downloads at first use have terms of their own. This package neither
contains nor needs any of it.

The names of the paper's baselines there: unique, musiq, maniqa, liqe, qalign, niqe, brisque. DeQA-Score is not among
pyiqa's metrics (version 0.1.16).
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from ..score.rating import Rating
from ..score.source import Picture
from .rate import rate_each

NAMED_IN_THE_PAPER = ("unique", "musiq", "maniqa", "liqe", "qalign", "niqe", "brisque")


class PyiqaRater:
    """Rates images with a no-reference metric of pyiqa (a `Rater`), one image at a time at its full size.

    The score is the metric's own, with its sign turned where pyiqa says that lower is better (NIQE, BRISQUE), so that
    higher is better. An image that the metric fails on, or gives no finite number for, has that as its problem.

    Raises UserError where pyiqa is missing or cannot be imported, has no such metric, or cannot fetch its weights.
    """

    def __init__(self, metric: str, *, device: str | None = None) -> None:
        """device: "cuda" where there is one, else "cpu"."""
        pyiqa = _pyiqa()
        if metric not in pyiqa.list_models(metric_mode="NR"):
            raise UserError(
                f"pyiqa {pyiqa.__version__} has no no-reference metric {metric!r}: choose one of "
                f"{', '.join(NAMED_IN_THE_PAPER)}, or another of pyiqa.list_models('NR')"
            )
        self.name = f"pyiqa:{metric}"
        self.metric = _create(pyiqa, metric, device)
        self.lower_better = bool(self.metric.lower_better)
        self._version = pyiqa.__version__

    def settings(self) -> dict[str, Any]:
        """What a score depends on besides the image: pyiqa's version stands for the weights, which it pins."""
        made_by = {
            "model": self.name,
            "weights": f"pyiqa {self._version}",
            "mode": "direct",
            "seed": 0,
        }
        return {**made_by, "lower_better": self.lower_better, "version": version("visualquality")}

    def rate(self, images: Iterable[Picture]) -> Iterator[Rating]:
        """Ratings in the order of `images`."""
        return rate_each(
            self._score, images, model=self.name, workers=1
        )  # pyiqa's networks are not thread-safe

    def _score(self, image: Image.Image) -> float:
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
        try:
            value = float(torch.as_tensor(self.metric(pixels)).item())
        except (
            Exception
        ) as fault:  # pyiqa's metrics raise nearly anything for images that they were not made for
            raise UserError(
                f"{self.name} failed on this image ({_first_line(fault)}): leave it out"
            ) from fault
        if not math.isfinite(value):
            raise UserError(
                f"{self.name} gave {value} for this image, which is no score: leave it out"
            )
        return -value if self.lower_better else value


def _pyiqa() -> Any:
    try:
        import pyiqa
    except (
        Exception
    ) as fault:  # a torchvision that does not fit torch raises RuntimeError or AttributeError
        if isinstance(fault, ModuleNotFoundError) and fault.name == "pyiqa":
            raise UserError(
                'pyiqa is not installed: pip install "visualquality[pyiqa]" (for noncommercial use)'
            ) from fault
        raise UserError(
            f"pyiqa is installed but cannot be imported ({_first_line(fault)}): install what it needs, above all a "
            f"torchvision made for torch {torch.__version__}"
        ) from fault
    return pyiqa


def _create(pyiqa: Any, metric: str, device: str | None) -> Any:
    try:
        with redirect_stdout(
            sys.stderr
        ):  # pyiqa prints what it loads; our own output is for results
            return pyiqa.create_metric(metric, device=device)
    except OSError as fault:  # so are the errors of urllib, requests and huggingface_hub
        raise UserError(
            f"the weights of pyiqa:{metric} could not be fetched ({_first_line(fault)}): connect to the network once, "
            "or copy ~/.cache/torch/hub and ~/.cache/huggingface from a machine that has them"
        ) from fault
    except (
        Exception
    ) as fault:  # an optional package that is missing, or a version that does not fit
        raise UserError(
            f"pyiqa:{metric} cannot be set up here: {_first_line(fault)}; install what it needs"
        ) from fault


def _first_line(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__
