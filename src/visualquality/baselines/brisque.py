"""BRISQUE: scene statistics of the whole image, and a support vector regression of human scores on them.

Mittal, Moorthy, Bovik, "No-Reference Image Quality Assessment in the Spatial Domain", IEEE TIP 21 (2012).
The statistics are those of `nss`. The shipped regression is fitted on other images than the authors': photos with the
distortions of cameras and people's MOS in 0 to 1 (see `recipes/baselines/fit.py`), where theirs had five synthetic ones
and DMOS. It knows blur and noise; blocks of strong JPEG compression do not always lower its score.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import open_image
from ..data.manifest import Manifest
from ..errors import UserError
from ..evaluate.coefficients import srcc
from ..score.rating import Rating
from ..score.source import Picture
from .nss import Array, Fits, fit_sizes, luma
from .parameters import WEIGHTS, digest, load_arrays, save_arrays
from .rate import Progress, map_in_threads, rate_each

FEATURES = 36
FOLDS = 5
COSTS = (1, 4, 16, 64)  # in standard deviations of the MOS
GAMMAS = (0.025, 0.05, 0.1, 0.2)  # the authors' is 0.05
TOLERANCE = 0.2  # ε of the regression, in standard deviations of the MOS


@dataclass(frozen=True)
class BrisqueParameters:
    """An ε-SVR with RBF kernel on features scaled to [-1, 1].

    low, high: (36,) range of the features of the training images. vectors: (S, 36) scaled support vectors;
    coefficients: (S,); intercept and gamma: (). All are float32 numbers in float64.
    """

    low: Array
    high: Array
    vectors: Array
    coefficients: Array
    intercept: Array
    gamma: Array

    def save(self, path: Path) -> None:
        """Write an .npz file of float32; raises UserError for another suffix."""
        save_arrays(path, {name: values.astype(np.float32) for name, values in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> "BrisqueParameters":
        """What `save` wrote, the same to the bit; raises UserError for anything else."""
        shapes = {
            "low": (FEATURES,),
            "high": (FEATURES,),
            "vectors": (None, FEATURES),
            "coefficients": (None,),
        }
        loaded = load_arrays(path, "brisque", shapes | {"intercept": (), "gamma": ()})
        if len(loaded["vectors"]) != len(loaded["coefficients"]):
            raise UserError(
                f"{path} has another number of coefficients than of support vectors: fit it again"
            )
        return cls(**loaded)


def image_features(image: Image.Image) -> Array:
    """Features (36,) of an RGB image of any size, always finite."""
    values = luma(image)
    full, half = fit_sizes(values, values.shape)
    return np.concatenate([_features(full), _features(half)])


def _features(fits: Fits) -> Array:
    """(18,): α and σ² of the coefficients, then shape, mean, σ_l² and σ_r² of each direction."""
    pairs = np.stack([fits.shapes[0], fits.mean[0], fits.left[0] ** 2, fits.right[0] ** 2], axis=1)
    return np.concatenate([fits.shape, fits.sigma**2, pairs.ravel()])


def scale(features: Array, low: Array, high: Array) -> Array:
    """Features (N, 36) with [low, high] mapped to [-1, 1], not clipped; one that never varied becomes 0."""
    span = high - low
    return np.divide(2 * features - low - high, span, out=np.zeros_like(features), where=span > 0)


def predict(features: Array, parameters: BrisqueParameters) -> Array:
    """MOS (N,) of features (N, 36): Σ coefficients · exp(-γ |x - vector|²) + intercept. Always finite."""
    scaled = scale(features, parameters.low, parameters.high)
    squares = (
        (scaled**2).sum(1)[:, None]
        - 2 * scaled @ parameters.vectors.T
        + (parameters.vectors**2).sum(1)
    )
    return (
        np.exp(-parameters.gamma * squares.clip(0)) @ parameters.coefficients + parameters.intercept
    )


def fit_brisque(
    manifest: Manifest, *, workers: int | None = None, progress: Progress | None = None
) -> tuple[BrisqueParameters, float]:
    """The regression of a manifest's MOS, and its SRCC in cross-validation on it.

    Copies of one reference are in one fold. `progress` gets what is done, how much of it, and of how much. Raises
    UserError for an image that cannot be read, several data sets (their scales differ), and too few images or
    references.
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
    features = []
    for found in map_in_threads(
        lambda row: image_features(open_image(row.image)), manifest.rows, workers
    ):
        features.append(found)
        if progress:
            progress("reading images", len(features), len(manifest))
    return fit_regression(
        np.array(features), np.array([row.mos for row in manifest.rows]), groups, progress=progress
    )


def fit_regression(
    features: Array, mos: Array, groups: Sequence[str], *, progress: Progress | None = None
) -> tuple[BrisqueParameters, float]:
    """The regression of `mos` (N,) on features (N, 36), and its SRCC in cross-validation over `groups` (N,).

    Cost and γ are those of the grid `COSTS` × `GAMMAS` with the best SRCC of the predictions of 5 folds.
    """
    from sklearn.model_selection import GroupKFold
    from sklearn.svm import SVR

    low, high = (
        a.astype(np.float32).astype(np.float64) for a in (features.min(0), features.max(0))
    )
    scaled, epsilon = scale(features, low, high), TOLERANCE * mos.std()
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(scaled, groups=groups))

    def cross_validated(cost: float, gamma: float) -> float:
        predicted = np.empty_like(mos)
        for train, test in folds:
            svr = SVR(C=cost * mos.std(), gamma=gamma, epsilon=epsilon).fit(
                scaled[train], mos[train]
            )
            predicted[test] = svr.predict(scaled[test])
        return srcc(predicted, mos)

    found: dict[tuple[float, float], float] = {}
    for choice in product(COSTS, GAMMAS):
        found[choice] = cross_validated(*choice)
        if progress:
            progress("cross-validating", len(found), len(COSTS) * len(GAMMAS))
    cost, gamma = max(found, key=lambda choice: found[choice])
    svr = SVR(C=cost * mos.std(), gamma=gamma, epsilon=epsilon).fit(scaled, mos)
    arrays = (low, high, svr.support_vectors_, svr.dual_coef_[0], svr.intercept_[0], gamma)
    as_saved = (np.asarray(values, dtype=np.float32).astype(np.float64) for values in arrays)
    return BrisqueParameters(*as_saved), found[cost, gamma]


class Brisque:
    """Rates images with BRISQUE (a `Rater`): the score is the fitted MOS, on the scale of the training set.

    parameters: a file that `BrisqueParameters.save` wrote; by default the regression that comes with the package.
    workers: threads; by default one a processor.
    """

    def __init__(self, parameters: Path | None = None, *, workers: int | None = None) -> None:
        self.parameters = BrisqueParameters.load(parameters or WEIGHTS / "brisque.npz")
        self.workers = workers

    def settings(self) -> dict[str, Any]:
        """What a score depends on besides the image."""
        made_by = {
            "model": "brisque",
            "weights": digest(vars(self.parameters)),
            "mode": "direct",
            "seed": 0,
        }
        return {**made_by, "version": version("visualquality")}

    def rate(self, images: Iterable[Picture]) -> Iterator[Rating]:
        """Ratings in the order of `images`."""
        return rate_each(self._score, images, model="brisque", workers=self.workers)

    def _score(self, image: Image.Image) -> float:
        return float(predict(image_features(image)[None], self.parameters)[0])
