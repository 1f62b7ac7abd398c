"""BRISQUE: scene statistics of the whole image, and a support vector regression of human scores on them.

Mittal, Moorthy, Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", IEEE TIP 21 (2012).
The statistics are those of `nss`. The shipped regression is fitted on other images than the authors': photos with the
distortions of cameras and people's MOS in 0 to 1 (see `recipes/baselines/fit.py`), where theirs had five synthetic ones
and DMOS. It recognises blur and noise; blocks of strong JPEG compression do not always lower its score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from rich.console import Console

from ..data.images import open_image
from ..data.manifest import Manifest
from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from .fitted import FittedMetric
from .nss import FEATURES, Array, Fits, fit_sizes, luma

SMALLEST = 14  # pixels: at half size, the window of the statistics
SIGMA = 1  # the feature that is σ² of the coefficients: 0 where there is a single value
FOLDS = 5
COSTS = (1, 4, 16, 64)  # in standard deviations of the MOS
GAMMAS = (0.025, 0.05, 0.1, 0.2)  # the authors' is 0.05
TOLERANCE = 0.2  # ε of the regression, in standard deviations of the MOS


@dataclass(frozen=True)
class Brisque(FittedMetric):
    """BRISQUE as a classic: the score is the MOS that an ε-SVR with RBF kernel predicts, on the training set's scale.

    low, high: (36,) range of the features of the training images, which is scaled to [-1, 1]. vectors: (S, 36) scaled
    support vectors; coefficients: (S,); intercept and gamma: (). All are float32 numbers in float64, so that a file of
    float32 holds them to the bit.
    """

    low: Array
    high: Array
    vectors: Array
    coefficients: Array
    intercept: Array
    gamma: Array

    name: ClassVar = "brisque"
    stored: ClassVar = np.float32
    shapes: ClassVar = {
        "low": (FEATURES,),
        "high": (FEATURES,),
        "vectors": (None, FEATURES),
        "coefficients": (None,),
        "intercept": (),
        "gamma": (),
    }

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """As `FittedMetric.load`; also raises UserError where coefficients and support vectors do not pair up."""
        loaded = super().load(path)
        if len(loaded.vectors) != len(loaded.coefficients):
            raise UserError(
                f"{path} has another number of coefficients than of support vectors: fit it again"
            )
        return loaded

    def __call__(self, image: Image.Image) -> float:
        """The predicted MOS of an RGB image. Raises UserError as `image_features` does, and for one of one colour."""
        features = image_features(image)
        if not features[SIGMA]:
            raise UserError(
                "BRISQUE knows no texture in this image, which is of one colour: leave it out"
            )
        return float(self.predict(features[None])[0])

    def predict(self, features: Array) -> Array:
        """MOS (N,) of features (N, 36): Σ coefficients · exp(-γ |x - vector|²) + intercept. Always finite."""
        scaled = scale(features, self.low, self.high)
        # |x - v|² = |x|² - 2 x·v + |v|² needs no array (N, S, 36); rounding can leave it below 0.
        feature_squares = (scaled**2).sum(1)[:, None]
        vector_squares = (self.vectors**2).sum(1)
        squares = feature_squares - 2 * scaled @ self.vectors.T + vector_squares
        kernel = np.exp(-self.gamma * squares.clip(0))
        return kernel @ self.coefficients + self.intercept


def image_features(image: Image.Image, name: str = "this image") -> Array:
    """Features (36,) of an RGB image, always finite.

    Raises UserError for one that is smaller than `SMALLEST`, naming it as `name`.
    """
    if min(image.size) < SMALLEST:
        raise UserError(
            f"{name} has {image.width} × {image.height} pixels: give BRISQUE {SMALLEST} × {SMALLEST} or more"
        )
    values = luma(image)
    full, half = fit_sizes(values, values.shape)
    return np.concatenate([_features(full), _features(half)])


def _features(fits: Fits) -> Array:
    """(18,): α and σ² of the coefficients, then shape, mean, σ_l² and σ_r² of each direction."""
    # The whole image is the only patch: each array of `fits` has one row.
    directions = [fits.shapes, fits.mean, fits.left**2, fits.right**2]
    pairs = np.stack(directions, axis=2)
    return np.concatenate([fits.shape, fits.sigma**2, pairs.ravel()])


def scale(features: Array, low: Array, high: Array) -> Array:
    """Features (N, 36) with [low, high] mapped to [-1, 1], not clipped; a feature that never varied becomes 0."""
    span = high - low
    return np.divide(2 * features - low - high, span, out=np.zeros_like(features), where=span > 0)


def fit_brisque(
    manifest: Manifest, *, workers: int | None = None, console: Console = Console(quiet=True)
) -> tuple[Brisque, float]:
    """The regression of a manifest's MOS, and its SRCC in cross-validation on it.

    Copies of one reference image are in one fold. workers: threads; by default one a processor. `console` shows the
    progress. Raises UserError for an image that cannot be read, several data sets (their scales differ), and too few
    images or reference images.
    """
    if len(manifest.datasets) > 1:
        raise UserError(
            f"the data sets {', '.join(manifest.datasets)} have scales of their own: fit on one of them"
        )
    groups = [row.reference or str(row.image) for row in manifest.rows]
    if len(set(groups)) < FOLDS:
        raise UserError(
            f"BRISQUE is fitted on images of {FOLDS} references or more, not of {len(set(groups))}"
        )

    with progress_bar(console) as bar:
        reading = map_ahead(
            lambda row: image_features(open_image(row.image), str(row.image)),
            manifest.rows,
            workers,
        )
        features = list(tracked(bar, reading, "reading images", len(manifest)))
    mos = [row.mos for row in manifest.rows]
    return fit_regression(np.array(features), np.array(mos), groups, console=console)


def fit_regression(
    features: Array,
    mos: Array,
    groups: Sequence[str],
    *,
    console: Console = Console(quiet=True),
) -> tuple[Brisque, float]:
    """The regression of `mos` (N,) on features (N, 36), and its SRCC in cross-validation over `groups` (N,).

    Cost and γ are those of the grid `COSTS` × `GAMMAS` with the best SRCC of the predictions of 5 folds.
    """
    # Slow to import, and scoring needs none of them.
    from scipy.stats import spearmanr
    from sklearn.model_selection import GroupKFold
    from sklearn.svm import SVR

    # Rounded as they are saved, so that the regression is fitted to the features that a loaded one computes.
    low, high = _as_saved(features.min(0)), _as_saved(features.max(0))
    scaled = scale(features, low, high)
    deviation = mos.std()
    # By groups: a copy of a training image in the test fold would make the SRCC too good.
    splitter = GroupKFold(FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(scaled, groups=groups))

    # In units of the MOS's deviation, cost and tolerance mean the same on every scale of scores.
    def regression(cost: float, gamma: float) -> SVR:
        return SVR(C=cost * deviation, gamma=gamma, epsilon=TOLERANCE * deviation)

    def cross_validated(cost: float, gamma: float) -> float:
        predicted = np.empty_like(mos)
        for train, test in folds:
            svr = regression(cost, gamma).fit(scaled[train], mos[train])
            predicted[test] = svr.predict(scaled[test])
        return float(spearmanr(predicted, mos).statistic)

    found: dict[tuple[float, float], float] = {}
    grid = list(product(COSTS, GAMMAS))
    with progress_bar(console) as bar:
        for choice in tracked(bar, grid, "cross-validating", len(grid), unit="fits"):
            found[choice] = cross_validated(*choice)
    # The first of equals: the lowest cost, then the lowest γ.
    cost, gamma = max(found, key=lambda choice: found[choice])

    svr = regression(cost, gamma).fit(scaled, mos)
    fitted = Brisque(
        low=low,
        high=high,
        vectors=_as_saved(svr.support_vectors_),
        coefficients=_as_saved(svr.dual_coef_[0]),
        intercept=_as_saved(svr.intercept_[0]),
        gamma=_as_saved(gamma),
    )
    return fitted, found[cost, gamma]


def _as_saved(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=Brisque.stored).astype(np.float64)
