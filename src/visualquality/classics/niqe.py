"""NIQE: the distance of an image's scene statistics from those of pristine photos. No human score went into it.

Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE SPL 20 (2013).
The statistics are those of `nss`; the shipped pristine model is fitted on other photos than the authors'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from rich.console import Console

from ..data.images import open_image
from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from .fitted import FittedMetric
from .nss import FEATURES, Array, Fits, fit_sizes, luma

PATCH = 96  # pixels
# A patch of a pristine photo counts if it has more than this part of the sharpness of the photo's sharpest patch: the
# others are mostly out of focus.
SHARP = 0.75


@dataclass(frozen=True)
class Niqe(FittedMetric):
    """NIQE as a classic: the score is minus the distance, so that higher is better; 0 is the best.

    mean (36,), covariance (36, 36): the Gaussian of the pristine patches' features.
    """

    mean: Array
    covariance: Array

    name: ClassVar = "niqe"
    shapes: ClassVar = {"mean": (FEATURES,), "covariance": (FEATURES, FEATURES)}

    def __call__(self, image: Image.Image) -> float:
        """Minus the distance of an RGB image from the pristine ones (Eq. 10), always finite.

        √((ν₁ - ν₂)ᵀ ((Σ₁ + Σ₂) / 2)⁺ (ν₁ - ν₂)). Patches of a single value have no statistics and are left out. One
        patch alone has covariance 0. Raises UserError for an image smaller than a patch, and where all patches are of
        a single value.
        """
        features, sharpness = patch_features(image)
        features = features[sharpness > 0]
        if not len(features):
            raise UserError(
                "NIQE knows no texture in this image, which is of one colour: leave it out"
            )
        covariance = np.zeros((FEATURES, FEATURES))
        if len(features) > 1:
            covariance = np.cov(features, rowvar=False)
        difference = features.mean(0) - self.mean
        inverse = np.linalg.pinv((self.covariance + covariance) / 2, hermitian=True)
        # Rounding can make the square of a tiny distance negative.
        return -float(np.sqrt(max(0.0, difference @ inverse @ difference)))


def patch_features(image: Image.Image, name: str = "this image") -> tuple[Array, Array]:
    """Features (P, 36) and sharpness (P,) of the 96 × 96 patches of an RGB image.

    P is the number of whole patches; rows and columns that fill no patch are left out. Raises UserError for an image
    shorter or narrower than a patch, naming it as `name`.
    """
    if min(image.size) < PATCH:
        raise UserError(
            f"{name} has {image.width} × {image.height} pixels: give NIQE {PATCH} × {PATCH} or more"
        )
    full, half = fit_sizes(luma(image), (PATCH, PATCH))
    features = np.concatenate([_features(full), _features(half)], axis=1)
    return features, full.sharpness


def _features(fits: Fits) -> Array:
    """(P, 18): α and β of the coefficients, then shape, mean, β_l and β_r of each direction."""
    coefficients = np.stack([fits.shape, fits.scale], axis=1)
    # (P, 4 directions, 4 numbers) -> (P, 16), all numbers of a direction together
    pairs = np.stack([fits.shapes, fits.mean, *fits.scales], axis=2)
    pairs = pairs.reshape(len(pairs), -1)
    return np.concatenate([coefficients, pairs], axis=1)


def fit_niqe(
    images: Sequence[str | Path | Image.Image | np.ndarray],
    *,
    workers: int | None = None,
    console: Console = Console(quiet=True),
) -> Niqe:
    """The pristine model of photos without visible distortion: of each, the patches that are sharp enough.

    workers: threads; by default one a processor. `console` shows the progress. Raises UserError for an image that
    cannot be read or is smaller than a patch, and for too few patches to have a covariance.
    """

    def sharp_features(source: str | Path | Image.Image | np.ndarray) -> Array:
        name = str(source)
        if not isinstance(source, str | Path):
            name = getattr(source, "filename", "") or "an image"
        features, sharpness = patch_features(open_image(source), name)
        return features[sharpness > SHARP * sharpness.max()]

    with progress_bar(console) as bar:
        reading = map_ahead(sharp_features, images, workers)
        found = list(tracked(bar, reading, "reading images", len(images)))
    count = sum(map(len, found))
    # A covariance of n numbers has full rank only with more than n samples.
    if count <= FEATURES:
        raise UserError(
            f"{count} sharp patches in {len(found)} images, but NIQE needs over {FEATURES}: give more photos"
        )
    patches = np.concatenate(found)
    return Niqe(patches.mean(0), np.cov(patches, rowvar=False))
