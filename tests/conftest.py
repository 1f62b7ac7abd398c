"""Models and images that the tests share; everything is made here, nothing is fetched."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from PIL import Image, ImageFilter

from small_models import small_nano, small_qwen

FAMILIES = ("nano", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="session", autouse=True)
def no_calibrations_of_ones_own(tmp_path_factory):
    """Those of whoever runs the tests would change what ratings look like."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data-home"))


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_ones_own(tmp_path_factory):
    """And what the tests remember of images is nothing to whoever runs them."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache-home"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A function: family -> folder of a small random model of it."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            target = tmp_path_factory.mktemp(family)
            made[family] = small_nano(target) if family == "nano" else small_qwen(target, family)
        return made[family]

    return folder


def picture(seed: int, size: tuple[int, int] = (84, 56)) -> Image.Image:
    """A textured image of its own for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    return Image.blend(
        coarse, Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)), 0.3
    )


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [picture(i, size) for i, size in enumerate([(84, 56), (260, 60), (60, 60), (40, 150)])]


@pytest.fixture(scope="session")
def ranking_set(tmp_path_factory) -> Path:
    """Two data sets of eight images each, sharper is better, on scales of their own; the manifest's path."""
    folder = tmp_path_factory.mktemp("ranking")
    lines = ["image,mos,dataset,reasoning"]
    for dataset, scale in (("lab", 1.0), ("wild", 20.0)):
        for i in range(8):
            name = f"{dataset}{i}.png"
            picture(i).filter(ImageFilter.GaussianBlur(i / 3)).save(folder / name)
            lines.append(f"{name},{(5 - i / 2) * scale},{dataset},blur {i}")
    (folder / "ranking.csv").write_text("\n".join(lines) + "\n")
    return folder / "ranking.csv"
