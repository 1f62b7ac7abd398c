"""Photos for the benchmarks that come inside a package, so that anybody can run them: tiles of scikit-image's own."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry", "hubble_deep_field")


def tiles(folder: Path, count: int, side: int, suffix: str = ".png") -> list[str]:
    """Paths of `count` different square tiles of `side` pixels, cut at random places and resized.

    Tiles that `folder` has already are not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{side}_{index:04d}{suffix}" for index in range(count)]
    sources: dict[str, Image.Image] = {}
    for index, path in enumerate(paths):
        if path.exists():
            continue
        name = NAMES[index % len(NAMES)]
        if name not in sources:
            sources[name] = Image.fromarray(getattr(data, name)())
        photo = sources[name]
        # A generator per tile: a tile does not depend on which others exist.
        rng = np.random.default_rng(index)
        part = int(rng.integers(min(photo.size) // 2, min(photo.size)))
        left, top = (int(rng.integers(0, length - part + 1)) for length in photo.size)
        tile = photo.crop((left, top, left + part, top + part))
        tile.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=95)
    return [str(path) for path in paths]
