"""A metric that is its fitted numbers: arrays in an .npz file, checked when they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..io import write_whole
from ..parsing import refuse_archive_bomb
from ..seeds import arrays_digest

Shape = tuple[int | None, ...]  # None: any size of at least 1
WEIGHTS = Path(__file__).parent / "weights"  # of the metrics that come with the package


@dataclass(frozen=True)
class FittedMetric:
    """What NIQE and BRISQUE share: dataclasses whose fields are arrays, kept in a file under the names of the fields.

    name: what users call the metric. shapes: field -> the shape that its array must have. stored: number format of the
    file.
    """

    name: ClassVar[str]
    shapes: ClassVar[Mapping[str, Shape]]
    stored: ClassVar[type[np.floating]] = np.float64

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all.

        Raises UserError for another suffix, or a file that cannot be written.
        """
        if path.suffix != ".npz":
            raise UserError(f"{path} must end in .npz: give the fitted parameters such a name")
        arrays = {name: values.astype(self.stored) for name, values in vars(self).items()}
        # NumPy adds .npz to a path that lacks it, but not to an open file.
        with write_whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The metric that `save` wrote to `path`, by default the one that comes with the package.

        Raises UserError for a file that is missing, is not an .npz file, or lacks an array of the right name and shape
        with finite numbers.
        """
        path = path or WEIGHTS / f"{cls.name}.npz"
        again = f"make it again with: visualquality baselines fit {cls.name}"
        try:
            refuse_archive_bomb(path)
            # A pickle in a stranger's file could run code. Little-endian, so that the digest is the same everywhere.
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], dtype="<f8") for name in cls.shapes}
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist: correct the path, or {again}") from error
        # NumPy raises nearly anything for a file that is not what it should be.
        except Exception as error:
            raise UserError(
                f"{path} holds no fitted parameters of {cls.name} ({error}): {again}"
            ) from error
        for name, shape in cls.shapes.items():
            if not _matches(arrays[name], shape):
                sizes = " × ".join("any" if size is None else str(size) for size in shape)
                raise UserError(
                    f"{path}: {name} of {cls.name} must be {sizes or 'one'} finite numbers, "
                    f"not of shape {arrays[name].shape}: {again}"
                )
        return cls(**arrays)

    def settings(self) -> dict[str, Any]:
        """All that a score depends on besides the image."""
        # A single number counts as an array of one: journals hold digests that were made so.
        arrays = {name: np.atleast_1d(values) for name, values in vars(self).items()}
        return classic_settings(self.name, arrays_digest(arrays))


def _matches(array: NDArray, shape: Shape) -> bool:
    if array.ndim != len(shape) or array.size == 0:
        return False
    sizes_match = all(size in (None, n) for size, n in zip(shape, array.shape, strict=True))
    return sizes_match and bool(np.isfinite(array).all())


def classic_settings(name: str, weights: str, **more: Any) -> dict[str, Any]:
    """The settings of a classic, in the order of the header of a results file.

    weights: identity of the fitted numbers. `mode` and `seed` never vary: nothing is drawn at random.
    """
    settings = {"model": name, "weights": weights, "mode": "direct", "seed": 0}
    return {**settings, **more, "version": version("visualquality")}
