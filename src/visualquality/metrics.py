"""Image quality where people already measure: `torchmetrics.Metric`s, and a call in the manner of pyiqa.

VisualQualityScore     images in, their mean score out; right in several processes
SRCC, PLCC, KRCC       scores and MOS in, their correlation out; right in several processes
create_metric          create_metric("visualquality-nano")("photo.jpg")
"""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from . import coefficients
from .data.images import Picture
from .errors import UserError
from .score.raters import make_rater
from .score.rating import Rater
from .score.settings import ScoreSettings, score_settings

# What a metric takes: pictures as `open_image` takes them, tensors, or a sequence of these.
Images = Picture | Tensor | Sequence[Picture | Tensor]

# How far beyond [0, 1] a float may be, as for pyiqa: a normalisation undone in float32.
ROUNDING = 1e-6


class VisualQualityScore(Metric):
    """The mean quality score of all images seen, of those whose score could be read.

    rater: a `Rater`, such as a `Scorer`, or the name of a method: nano, a folder or hub name, niqe, pyiqa:musiq, ….
    options: for a name, those of `ScoreSettings`, such as mode, samples, seed and preset; the rest are
    `torchmetrics.Metric`'s. `device` is where the model runs, and `.to()` moves the sums alone.

    `update` takes a tensor (N, 3, H, W) or (3, H, W), float in [0, 1] or uint8 in [0, 255], a path, a PIL image, an
    array (H, W, 3) as `open_image` takes it, or a list of these. An image without a score, such as one with an
    unreadable answer, is left out of the mean with a warning, and counted in the state `unreadable`. `compute` gives a
    0-d float64 tensor, in the unit of the rater (1 to 5 for a vision-language model); NaN with a warning, as is the
    habit of torchmetrics, where no image had a score.

    >>> metric = VisualQualityScore("nano", samples=1, mode="direct", device="cpu")
    >>> metric.update(torch.zeros(2, 3, 64, 64))
    >>> 1 <= metric.compute() <= 5
    tensor(True)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    unreadable: Tensor

    def __init__(self, rater: Rater | str = "nano", **options: Any) -> None:
        names = options.keys() & ScoreSettings.model_fields.keys()
        of_method = {name: options.pop(name) for name in sorted(names)}
        super().__init__(**options)
        if isinstance(rater, str):
            rater = make_rater(rater, score_settings(**of_method))
        elif of_method:
            raise UserError(
                f"{', '.join(of_method)}: options of a rater that exists already; give them to it instead"
            )
        self.rater = rater
        for name, dtype in (
            ("total", torch.float64),
            ("count", torch.long),
            ("unreadable", torch.long),
        ):
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, images: Images) -> None:
        """Rate `images` and add them to the mean. Raises UserError for tensors of another shape or range."""
        sources = _sources(images)
        problems = []
        for rating in self.rater.rate(sources):
            if rating.score is None:
                problems.append(f"{rating.image}: {rating.problem}")
                self.unreadable += 1
            else:
                self.total += rating.score
                self.count += 1
        if problems:
            warnings.warn(
                f"{len(problems)} of {len(sources)} images have no score and are left out ({problems[0]})",
                stacklevel=2,
            )

    def compute(self) -> Tensor:
        """The mean so far, of all processes."""
        if self.count == 0:
            warnings.warn("no image had a score: their mean is NaN", stacklevel=2)
        return self.total / self.count


class _Correlation(Metric):
    """What the coefficients share.

    `update(preds, target)` takes scores and MOS, each (n,), in any unit and in batches of any size. `compute` gives a
    0-d float64 tensor; NaN with a warning that says why where there is none: fewer than 3 images, a number that is not
    finite, or all scores or all MOS the same.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    coefficient: ClassVar[Callable[..., float]]

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        """kwargs: those of `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")
        # What a process without an image sends must be of the others' type.
        self.set_dtype(torch.float64)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add n images. Raises UserError where the two are not tensors of one shape (n,)."""
        if not (torch.is_tensor(preds) and torch.is_tensor(target)):
            raise UserError("preds and target must be tensors: give torch.tensor(...) of each")
        if preds.ndim != 1 or preds.shape != target.shape:
            raise UserError(
                f"preds and target are of shapes {tuple(preds.shape)} and {tuple(target.shape)}; both must be (n,)"
            )
        self.preds.append(preds.detach().to(torch.float64))
        self.target.append(target.detach().to(torch.float64))

    def compute(self) -> Tensor:
        """The coefficient of all images so far, of all processes."""
        # The states are lists of batches, and after a reduction over processes single tensors.
        preds, target = (
            dim_zero_cat(state).cpu().numpy() if len(state) else np.empty(0)
            for state in (self.preds, self.target)
        )
        why = coefficients.why_undefined(preds, target)
        if why is not None:
            warnings.warn(f"{type(self).__name__} is NaN: {why}", stacklevel=2)
        found = self.coefficient(preds, target)
        return torch.tensor(found, dtype=torch.float64, device=self.device)


class SRCC(_Correlation):
    """Spearman's rank correlation of scores with MOS, in [-1, 1]; ties share their average rank.

    >>> metric = SRCC()
    >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 20.0]))
    >>> metric.update(torch.tensor([3.0, 4.0]), torch.tensor([4000.0, 300.0]))
    >>> round(metric.compute().item(), 6)
    0.8
    """

    coefficient = staticmethod(coefficients.srcc)


class PLCC(_Correlation):
    """Pearson's correlation of scores with MOS, in [-1, 1], of the scores as they are: no logistic mapping."""

    coefficient = staticmethod(coefficients.plcc)


class KRCC(_Correlation):
    """Kendall's rank correlation tau-b of scores with MOS, in [-1, 1]."""

    coefficient = staticmethod(coefficients.krcc)


class InferenceMetric:
    """A no-reference metric to be called as those of pyiqa are: `metric(images)` gives a tensor (N,) of scores.

    Attributes, named as pyiqa names them: metric_name; metric_mode, always "NR" (no reference is used); lower_better,
    always False; score_range, "1, 5".
    """

    metric_mode = "NR"
    lower_better = False
    score_range = "1, 5"

    def __init__(self, metric_name: str, rater: Rater) -> None:
        self.metric_name = metric_name
        self.rater = rater

    def __call__(self, images: Images) -> Tensor:
        """Scores (N,), float32 on the CPU, in [1, 5], without gradient; N is 1 for one image.

        images: a path, a PIL image, an array (H, W, 3) as `open_image` takes it or (N, H, W, 3), a tensor (N, 3, H, W)
        or (3, H, W), float in [0, 1] or uint8 in [0, 255], or a list of these. The same picture has the same score in
        each of these forms.

        Raises UserError that names the image for one that cannot be opened or has no readable answer: a NaN would be
        averaged with the others, and no number is made up.
        """
        sources = _sources(images)
        scores = []
        for number, rating in enumerate(self.rater.rate(sources), 1):
            if rating.score is None:
                raise UserError(
                    f"image {number} of {len(sources)} ({rating.image}) has no score: {rating.problem}"
                )
            scores.append(rating.score)
        return torch.tensor(scores, dtype=torch.float32)


NAMES = {"visualquality-nano": "nano", "visualquality-r1": "TianheWu/VisualQuality-R1-7B"}
ANY_MODEL = "visualquality:"  # before the name or folder of a model


def create_metric(
    metric_name: str, device: str | torch.device | None = None, **options: Any
) -> InferenceMetric:
    """A metric to be called as those of pyiqa are; see `InferenceMetric`.

    metric_name: "visualquality-nano", "visualquality-r1" (the paper's weights, from the Hugging Face hub), or
    "visualquality:MODEL" with a folder or any hub name. device: cpu, cuda, cuda:N or mps; by default "cuda" where there
    is one, else "cpu". options: those of `Scorer`, such as samples, mode and seed.

    Raises UserError for a name that is none of these, and where the model or the device cannot be had.
    """
    if not isinstance(metric_name, str):
        raise UserError(
            f"the name of a metric is a text, not {type(metric_name).__name__}: "
            'make it first, create_metric("visualquality-nano"), and call it with the images'
        )
    model = NAMES.get(metric_name)
    if metric_name.startswith(ANY_MODEL):
        model = metric_name.removeprefix(ANY_MODEL)
    if not model:
        raise UserError(
            f"no metric {metric_name!r}: choose {', '.join(NAMES)}, or {ANY_MODEL}MODEL (a folder or name)"
        )
    from .score.scorer import Scorer  # here, as transformers takes seconds to import

    if device is not None:
        options["device"] = str(device)
    return InferenceMetric(metric_name, Scorer(model, **options))


def _sources(images: Images) -> list[Any]:
    """One image after another, in a form that every `Rater` takes."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    # An array of one axis is no image: it may be a column of paths.
    if isinstance(images, np.ndarray) and images.ndim > 1:
        # Four axes are a batch, as of tensors.
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Tensor):
        # Iterating would give numbers of bytes, keys of a dictionary, and no order of a set.
        no_list = isinstance(images, bytes | bytearray | memoryview | Mapping | Set)
        if no_list or not isinstance(images, Iterable) or getattr(images, "ndim", 1) == 0:
            raise UserError(
                f"images are given as {type(images).__name__}: give a path, a PIL image (of bytes "
                "PIL.Image.open(io.BytesIO(data))), an array (H, W, 3), a tensor (N, 3, H, W), or a list of these"
            )
        return [source for image in images for source in _sources(image)]
    if images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise UserError(
            f"the tensor has shape {tuple(images.shape)}: give (N, 3, H, W) or (3, H, W), RGB"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(
            f"the tensor has dtype {images.dtype}: give floats in [0, 1] or uint8 in [0, 255]"
        )
    # A rater moves images to its own device.
    pixels = images.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()
        # NaN fails both comparisons.
        if not ((pixels >= -ROUNDING) & (pixels <= 1 + ROUNDING)).all():
            raise UserError(
                "the tensor has values outside [0, 1]: undo its normalisation, and scale it so that 1 is white"
            )
        pixels = pixels.clamp(0, 1)
    return list(pixels.reshape(-1, *images.shape[-3:]).permute(0, 2, 3, 1).numpy())
