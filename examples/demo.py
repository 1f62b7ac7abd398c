"""The whole system in some minutes, offline: score photos, build a small ranking set, train on it by RL2R, and compare.

    python examples/demo.py --output runs/demo

The photos come inside scikit-image. The ranking set is made of distorted copies with a pseudo-MOS (a full-reference
metric's opinion, nobody's). Training starts from `nano-base` and sees tiles of nine photos; the comparison is on six
others.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import skimage
from rich.console import Console
from rich.table import Table

from visualquality.data.distort import build_set
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.evaluate.coefficients import plcc, srcc
from visualquality.evaluate.results_page import report_results
from visualquality.evaluate.run_page import report_run
from visualquality.process import quiet_libraries
from visualquality.score.journal import score_all
from visualquality.score.rating import Rating
from visualquality.score.scorer import Scorer
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

PHOTOS = Path(skimage.__file__).parent / "data"
SHOWN = ("chelsea.png", "rocket.jpg", "clock_motion.png")
TRAINED_ON = (
    *("astronaut.png", "brick.png", "coffee.png", "coins.png", "grass.png"),
    *("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg"),
)
HELD_OUT = (
    "camera.png",
    "chelsea.png",
    "gravel.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
TILE = 224
FAMILIES = (
    *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "white_noise"),
    *("impulse_noise", "color_noise", "multiplicative_noise", "denoise", "pixelate", "resize"),
)
PSEUDO_MOS = "The MOS here are pseudo-MOS, computed by the metric SSIMULACRA 2: no person rated these images."
RECIPE = Path(__file__).with_name("demo.yaml")


def show_scores(console: Console) -> None:
    """Step 1: the embedded model, as it comes, on three photos."""
    scorer = Scorer("nano")
    table = Table("photo", "score", "std", "reason", show_lines=True)
    for rating in scorer.rate([PHOTOS / name for name in SHOWN]):
        table.add_row(
            Path(rating.image).name, number(rating.score), number(rating.std), rating.reasoning
        )
    console.print(table)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def tiles(name: str, folder: Path) -> list[Path]:
    """Four tiles of a photo, so that fourteen photos give more than fourteen contents."""
    photo = open_image(PHOTOS / name)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (x, y) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        left, top = x * (photo.width - TILE), y * (photo.height - TILE)
        paths.append(folder / f"{Path(name).stem}_{index}.png")
        photo.crop((left, top, left + TILE, top + TILE)).save(paths[-1])
    return paths


def ranking_set(names: tuple[str, ...], folder: Path, copies: int) -> Path:
    """Step 2: distorted copies of the tiles of some photos with their pseudo-MOS; returns the manifest."""
    references = [tile for name in names for tile in tiles(name, folder / "photos")]
    return build_set(references, folder, per_reference=copies, seed=0, families=FAMILIES, workers=2)


def predict(model: str, rows: tuple[Row, ...], results: Path, console: Console) -> list[Rating]:
    """Ratings of the images of `rows`, in order, which are also written to `results`."""
    results.unlink(missing_ok=True)
    images = [str(row.image) for row in rows]
    return list(score_all(Scorer(model), images, journal=results, console=console))


def summarise(rows: tuple[Row, ...], ratings: list[Rating]) -> dict[str, str]:
    """What the ratings are worth, as it is printed."""
    scores, mos = [], []
    for row, rating in zip(rows, ratings, strict=True):
        if rating.score is not None:
            scores.append(rating.score)
            mos.append(row.mos)
    answers = [sample for rating in ratings for sample in rating.samples]
    readable = sum(answer is not None for answer in answers) / len(answers)
    mean_std = float(np.mean([r.std for r in ratings if r.std is not None]))
    return {
        "SRCC": f"{srcc(scores, mos):.3f}",
        "PLCC": f"{plcc(scores, mos):.3f}",
        "mean std over K": f"{mean_std:.3f}",
        "readable": f"{readable:.1%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    output = parser.parse_args().output
    console = Console()
    quiet_libraries()
    started = time.monotonic()

    console.rule("1. Scores of the embedded model, nano")
    show_scores(console)

    console.rule("2. A ranking set from distorted photos, with pseudo-MOS")
    training = ranking_set(TRAINED_ON, output / "data" / "train", copies=10)
    test_set = ranking_set(HELD_OUT, output / "data" / "test", copies=5)
    held_out = Manifest.read(test_set).rows
    console.print(
        f"{len(Manifest.read(training))} images to train on, {len(held_out)} of other photos to test on"
    )

    console.rule("3. RL2R from nano-base")
    before = predict("nano-base", held_out, output / "before.jsonl", console)
    run = output / "rl2r"
    shutil.rmtree(run, ignore_errors=True)
    final = train(
        read_recipe(RECIPE, (f"data.0.manifest={training.resolve()}",), run), console=console
    )

    console.rule("4. Held-out photos, before and after")
    after = predict(str(final), held_out, output / "after.jsonl", console)
    summary = {
        "before RL2R": summarise(held_out, before),
        "after RL2R": summarise(held_out, after),
    }
    columns = list(summary["after RL2R"])
    table = Table("", *columns, title=f"{len(held_out)} images of held-out photos")
    for name, numbers in summary.items():
        table.add_row(name, *numbers.values())
    console.print(table)
    comparison = [
        f"On {len(held_out)} images of held-out photos, {name}: "
        + ", ".join(f"{column} {number}" for column, number in numbers.items())
        + "."
        for name, numbers in summary.items()
    ]
    report, agreement = output / "report.html", output / "after.html"
    report_run(
        run,
        report,
        notes=[
            *comparison,
            f"Trained on {len(TRAINED_ON)} photos of scikit-image, tested on {len(HELD_OUT)} others.",
            PSEUDO_MOS,
        ],
        console=console,
    )
    report_results(output / "after.jsonl", agreement, manifests=[test_set], notes=[PSEUDO_MOS])
    console.print(f"held-out images after RL2R: {agreement}")
    minutes = (time.monotonic() - started) / 60
    console.print(f"report: {report}   model: {final}   time: {minutes:.1f} min")


if __name__ == "__main__":
    main()
