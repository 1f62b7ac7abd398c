"""NIQE: how far an image's scene statistics lie from those of pristine photos. It has seen no human score.

Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE SPL 20 (2013).
The statistics are those of `nss`; the shipped pristine model is fitted on other photos than the authors'.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import open_image
from ..errors import UserError
from ..score.rating import Rating
from ..score.source import Picture, name_of
from .nss import Array, Fits, fit_sizes, luma
from .parameters import WEIGHTS, digest, load_arrays, save_arrays
from .rate import Progress, map_in_threads, rate_each

PATCH = 96  # pixels
SHARP = 0.75  # of the sharpest patch of a pristine photo: duller ones, mostly out of focus, are left out
FEATURES = 36


@dataclass(frozen=True)
class NiqeParameters:
    """The Gaussian of the pristine patches' features: mean (36,) and covariance (36, 36)."""

    mean: Array
    covariance: Array

    def save(self, path: Path) -> None:
        """Write an .npz file; raises UserError for another suffix."""
        save_arrays(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "NiqeParameters":
        """What `save` wrote; raises UserError for anything else."""
        return cls(
            **load_arrays(path, "niqe", {"mean": (FEATURES,), "covariance": (FEATURES, FEATURES)})
        )


def patch_features(image: Image.Image) -> tuple[Array, Array]:
    """Features (P, 36) and sharpness (P,) of the 96 × 96 patches of an RGB image.

    P is the number of whole patches; what fills none is left out. An image shorter or narrower than a patch is
    continued by its mirror image up to one.
    """
    values = luma(image)
    missing = [max(0, PATCH - size) for size in values.shape]
    if any(missing):
        values = np.pad(values, [(0, n) for n in missing], mode="symmetric")
    full, half = fit_sizes(values, (PATCH, PATCH))
    return np.concatenate([_features(full), _features(half)], axis=1), full.sharpness


def _features(fits: Fits) -> Array:
    """(P, 18): α and β of the coefficients, then shape, mean, β_l and β_r of each direction."""
    pairs = np.stack([fits.shapes, fits.mean, *fits.scales], axis=2)
    return np.concatenate(
        [fits.shape[:, None], fits.scale[:, None], pairs.reshape(len(pairs), -1)], axis=1
    )


def niqe(image: Image.Image, parameters: NiqeParameters) -> float:
    """The distance of an RGB image from the pristine ones (Eq. 10): 0 or more, lower is better, always finite.

    √((ν₁ - ν₂)ᵀ ((Σ₁ + Σ₂) / 2)⁺ (ν₁ - ν₂)). Patches of one value alone have no statistics and are left out, unless
    there are no others. A single patch has covariance 0.
    """
    features, sharpness = patch_features(image)
    if (sharpness > 0).any():
        features = features[sharpness > 0]
    covariance = (
        np.cov(features, rowvar=False) if len(features) > 1 else np.zeros((FEATURES, FEATURES))
    )
    difference = features.mean(0) - parameters.mean
    inverse = np.linalg.pinv((parameters.covariance + covariance) / 2, hermitian=True)
    return float(np.sqrt(max(0.0, difference @ inverse @ difference)))


def fit_niqe(
    images: Sequence[Picture], *, workers: int | None = None, progress: Progress | None = None
) -> NiqeParameters:
    """The pristine model of photos without visible distortion: of each, the patches that are sharp enough.

    `progress` gets what is done, how much of it, and of how much. Raises UserError for an image that cannot be read or
    is smaller than a patch, and for too few patches to have a covariance.
    """

    def sharp_features(source: Picture) -> Array:
        image = open_image(source)
        if min(image.size) < PATCH:
            raise UserError(
                f"{name_of(source)} has {image.width} × {image.height} pixels: give NIQE {PATCH} × {PATCH} or more"
            )
        features, sharpness = patch_features(image)
        return features[sharpness > SHARP * sharpness.max()]

    found = []
    for features in map_in_threads(sharp_features, images, workers):
        found.append(features)
        if progress:
            progress("reading images", len(found), len(images))
    count = sum(map(len, found))
    if count <= FEATURES:
        raise UserError(
            f"{count} sharp patches in {len(found)} images, but NIQE needs over {FEATURES}: give more photos"
        )
    patches = np.concatenate(found)
    return NiqeParameters(patches.mean(0), np.cov(patches, rowvar=False))


class Niqe:
    """Rates images with NIQE (a `Rater`): the score is minus the distance, so that higher is better; 0 is the best.

    parameters: a file that `NiqeParameters.save` wrote; by default the pristine model that comes with the package.
    workers: threads; by default one a processor.
    """

    def __init__(self, parameters: Path | None = None, *, workers: int | None = None) -> None:
        self.parameters = NiqeParameters.load(parameters or WEIGHTS / "niqe.npz")
        self.workers = workers

    def settings(self) -> dict[str, Any]:
        """What a score depends on besides the image."""
        made_by = {
            "model": "niqe",
            "weights": digest(vars(self.parameters)),
            "mode": "direct",
            "seed": 0,
        }
        return {**made_by, "version": version("visualquality")}

    def rate(self, images: Iterable[Picture]) -> Iterator[Rating]:
        """Ratings in the order of `images`."""
        return rate_each(
            lambda image: -niqe(image, self.parameters), images, model="niqe", workers=self.workers
        )
