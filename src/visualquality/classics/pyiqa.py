"""The no-reference metrics of pyiqa (https://github.com/chaofengc/IQA-PyTorch) as classics.

pyiqa is an optional extra, `pip install "visualquality[pyiqa]"`. Its licence, PolyForm Noncommercial 1.0.0, allows
noncommercial use only, and the weights that it downloads at first use have terms of their own. This package neither
contains nor needs any of it.

The paper's baselines that it has are in `NAMED_IN_THE_PAPER`. DeQA-Score is not among its metrics (version 0.1.16).
"""

import math
import sys
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from ..process import usable_device, use_model_here
from .fitted import classic_settings

NAMED_IN_THE_PAPER = ("unique", "musiq", "maniqa", "liqe", "qalign", "niqe", "brisque")


class PyiqaMetric:
    """A no-reference metric of pyiqa as a classic, on an image at its full size. Not safe to call from two threads.

    The score is the metric's own, with its sign turned where pyiqa says that lower is better (NIQE, BRISQUE), so that
    higher is better. A call raises UserError for an image that the metric fails on or gives no finite number for.
    """

    def __init__(self, metric: str, *, device: str | None = None) -> None:
        """device: cpu, cuda, cuda:N or mps; by default "cuda" where there is one, else "cpu".

        Raises UserError where pyiqa is missing or cannot be imported, has no such metric, or cannot fetch its weights,
        and for a device that is not there.
        """
        pyiqa = _import_pyiqa()
        if metric not in pyiqa.list_models(metric_mode="NR"):
            raise UserError(
                f"pyiqa {pyiqa.__version__} has no no-reference metric {metric!r}: choose one of "
                f"{', '.join(NAMED_IN_THE_PAPER)}, or another of pyiqa.list_models('NR')"
            )
        self.name = f"pyiqa:{metric}"
        self.device = usable_device(device)
        self.metric = _create(pyiqa, metric, self.device)
        self.lower_better = bool(self.metric.lower_better)
        self._version = pyiqa.__version__

    def settings(self) -> dict[str, Any]:
        """All that a score depends on besides the image: pyiqa's version stands for the weights, which it pins."""
        weights = f"pyiqa {self._version}"
        return classic_settings(self.name, weights, lower_better=self.lower_better)

    def __call__(self, image: Image.Image) -> float:
        use_model_here(self.device)
        pixels = np.array(image, dtype=np.float32) / 255
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, H, W) in [0, 1]
        try:
            value = float(torch.as_tensor(self.metric(batch)).item())
        # Its metrics raise nearly any kind of error for images that they were not made for, such as small ones.
        except Exception as fault:
            raise UserError(
                f"{self.name} failed on this image ({_first_line(fault)}): leave it out"
            ) from fault
        if not math.isfinite(value):
            raise UserError(
                f"{self.name} gave {value} for this image, which is no score: leave it out"
            )
        return -value if self.lower_better else value


def _import_pyiqa() -> Any:
    try:
        # The package, not this module of the same name: imports without dots are absolute.
        import pyiqa
    # Any Exception: a torchvision that does not fit torch raises RuntimeError or AttributeError.
    except Exception as fault:
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
        # pyiqa prints what it loads, but standard output is for results.
        with redirect_stdout(sys.stderr):
            return pyiqa.create_metric(metric, device=device)
    # The errors of urllib, requests and huggingface_hub are OSErrors.
    except OSError as fault:
        raise UserError(
            f"the weights of pyiqa:{metric} could not be fetched ({_first_line(fault)}): connect to the network once, "
            "or copy ~/.cache/torch/hub and ~/.cache/huggingface from a machine that has them"
        ) from fault
    # An optional package that is missing, or a version that does not fit.
    except Exception as fault:
        raise UserError(
            f"pyiqa:{metric} cannot be set up here: {_first_line(fault)}; install what it needs"
        ) from fault


def _first_line(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0]}" if lines else type(fault).__name__
