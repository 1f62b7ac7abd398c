"""Fitted numbers on disk: plain arrays in an .npz file, checked when they are read."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..errors import UserError

Arrays = Mapping[str, NDArray[np.floating]]

WEIGHTS = Path(__file__).parent / "weights"


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz file. Whoever reads `path` meanwhile sees the old file or the whole new one.

    Raises UserError for another suffix, or a file that cannot be written.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path} must end in .npz: give the fitted parameters such a name")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict(arrays))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another -o") from error
    finally:
        part.unlink(missing_ok=True)


def load_arrays(
    path: Path, method: str, shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, NDArray]:
    """The arrays of `save_arrays` as float64, by name. A size of None may be any, of at least 1.

    Raises UserError for a file that is missing, is no .npz, or lacks an array of that name and shape with finite
    numbers.
    """
    again = f"make it again with: visualquality baselines fit {method}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in shapes}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: correct the path, or {again}") from error
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} holds no fitted parameters of {method} ({error}): {again}"
        ) from error
    for name, shape in shapes.items():
        found = arrays[name].shape
        fits = len(found) == len(shape) and all(
            n > 0 and m in (None, n) for n, m in zip(found, shape, strict=True)
        )
        if not fits or not np.isfinite(arrays[name]).all():
            wanted = " × ".join("any" if size is None else str(size) for size in shape) or "one"
            raise UserError(
                f"{path}: {name} of {method} must be {wanted} finite numbers, not of shape {found}: {again}"
            )
    return arrays


def digest(arrays: Arrays) -> str:
    """Identity of fitted numbers: 32 hex digits, the same on every machine."""
    state = xxhash.xxh3_128()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], dtype="<f8")
        state.update(f"{name}{values.shape}".encode())
        state.update(values.tobytes())
    return state.hexdigest()
