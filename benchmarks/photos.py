"""Photos for the benchmarks, out of a package, so that anybody can run them: tiles of scikit-image's own."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry", "hubble_deep_field")


def tiles(folder: Path, count: int, side: int, suffix: str = ".png") -> list[str]:
    """`count` different square tiles of `side` pixels, cut out at any place and brought to size; kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{side}_{index:04d}{suffix}" for index in range(count)]
    sources: dict[str, Image.Image] = {}
    for index, path in enumerate(paths):
        if path.exists():
            continue
        name = NAMES[index % len(NAMES)]
        photo = sources.setdefault(name, Image.fromarray(getattr(data, name)()))
        rng = np.random.default_rng(index)
        part = int(rng.integers(min(photo.size) // 2, min(photo.size)))
        left, top = (int(rng.integers(0, length - part + 1)) for length in photo.size)
        tile = photo.crop((left, top, left + part, top + part)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        tile.save(path, quality=95)
    return [str(path) for path in paths]
