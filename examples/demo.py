"""The whole system in some minutes, offline: score photos, build a small ranking set, train on it by RL2R, and compare.

    python examples/demo.py --output runs/demo

The photos come inside scikit-image. The ranking set is made of distorted copies with a pseudo-MOS (computed by a
full-reference metric: no person rated them). Training starts from `nano-base` and sees tiles of nine photos; the
comparison is on six others.
"""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import skimage
from rich.console import Console
from rich.table import Table

from visualquality.coefficients import plcc, srcc
from visualquality.data.distort import build_set
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.evaluate.results_page import report_results
from visualquality.evaluate.run_page import report_run
from visualquality.process import quiet_libraries
from visualquality.score.resume import score_all
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
    *("camera.png", "chelsea.png", "gravel.png"),
    *("moon.png", "motorcycle_left.png", "motorcycle_right.png"),
)
TILE = 224  # pixels
FAMILIES = (
    *("gaussian_blur", "lens_blur", "motion_blur", "jpeg", "jpeg2000", "white_noise"),
    *("impulse_noise", "color_noise", "multiplicative_noise", "denoise", "pixelate", "resize"),
)
PSEUDO_MOS = "The MOS here are pseudo-MOS, computed by the metric SSIMULACRA 2: no person rated these images."
RECIPE = Path(__file__).with_name("demo.yaml")


def show_scores(console: Console) -> None:
    """The embedded model, as it comes, on three photos."""
    table = Table("photo", "score", "std", "reason", show_lines=True)
    for rating in Scorer("nano").rate([PHOTOS / name for name in SHOWN]):
        # There is neither where no answer could be read.
        numbers = ["-" if x is None else f"{x:.2f}" for x in (rating.score, rating.std)]
        table.add_row(Path(rating.image).name, *numbers, rating.reasoning)
    console.print(table)


def ranking_set(names: tuple[str, ...], folder: Path, copies: int) -> Path:
    """Distorted copies of the tiles of some photos with their pseudo-MOS; returns the manifest."""
    tiles = []
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for name in names:
        photo = open_image(PHOTOS / name)
        # The four corners, so that a few photos give more contents.
        right, bottom = photo.width - TILE, photo.height - TILE
        for i, (x, y) in enumerate([(0, 0), (right, 0), (0, bottom), (right, bottom)]):
            tiles.append(folder / "photos" / f"{Path(name).stem}_{i}.png")
            photo.crop((x, y, x + TILE, y + TILE)).save(tiles[-1])
    return build_set(tiles, folder, per_reference=copies, seed=0, families=FAMILIES, workers=2)


def agreement_of(
    model: str, rows: tuple[Row, ...], results: Path, console: Console
) -> dict[str, str]:
    """How well a model's ratings of `rows`, which are written to `results`, agree with the MOS; as it is printed."""
    results.unlink(missing_ok=True)  # else an earlier run of the demo would be resumed
    images = [str(row.image) for row in rows]
    ratings = list(score_all(Scorer(model), images, journal=results, console=console))
    scored = [
        (r.score, row.mos) for r, row in zip(ratings, rows, strict=True) if r.score is not None
    ]
    scores, mos = zip(*scored, strict=True)
    readable = [answer is not None for rating in ratings for answer in rating.samples]
    return {
        "SRCC": f"{srcc(scores, mos):.3f}",
        "PLCC": f"{plcc(scores, mos):.3f}",
        "mean std over K": f"{np.mean([r.std for r in ratings if r.std is not None]):.3f}",
        "readable": f"{np.mean(readable):.1%}",
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
    what = f"{len(held_out)} images of held-out photos"
    console.print(f"{len(Manifest.read(training))} images to train on, and {what} to test on")

    console.rule("3. RL2R from nano-base")
    before = agreement_of("nano-base", held_out, output / "before.jsonl", console)
    run = output / "rl2r"
    shutil.rmtree(run, ignore_errors=True)
    recipe = read_recipe(RECIPE, (f"data.0.manifest={training.resolve()}",), run)
    final = train(recipe, console=console)

    console.rule("4. Held-out photos, before and after")
    after = agreement_of(str(final), held_out, output / "after.jsonl", console)
    table = Table("", *after, title=what)
    notes = []
    for name, numbers in (("before RL2R", before), ("after RL2R", after)):
        table.add_row(name, *numbers.values())
        listed = ", ".join(f"{column} {number}" for column, number in numbers.items())
        notes.append(f"On {what}, {name}: {listed}.")
    console.print(table)
    photos = f"{len(TRAINED_ON)} photos of scikit-image, tested on {len(HELD_OUT)} others"
    notes += [f"Trained on {photos}.", PSEUDO_MOS]
    report, agreement = output / "report.html", output / "after.html"
    report_run(run, report, notes=notes, console=console)
    report_results(output / "after.jsonl", agreement, manifests=[test_set], notes=[PSEUDO_MOS])
    console.print(f"held-out images after RL2R: {agreement}")
    minutes = (time.monotonic() - started) / 60
    console.print(f"report: {report}   model: {final}   time: {minutes:.1f} min")


if __name__ == "__main__":
    main()
