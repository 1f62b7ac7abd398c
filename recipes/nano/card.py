"""Measure the two embedded models on the test sets and write their model card.

    python recipes/nano/card.py --data FOLDER --rated rated.csv      # FOLDER as for benchmarks/rl2r_biq2021.py

SRCC and PLCC with human MOS, and seconds per photo. `--rated` is the part of BIQ2021 that build.py trained on: rows of
their own leave out the test photos that nearly equal one of it. The card also shows the committed results of
benchmarks/truth.py (are the named faults true?) and benchmarks/transfer.py (what carries over to another data set?).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from rich.console import Console

from visualquality import Scorer
from visualquality.data.check import check
from visualquality.data.manifest import Manifest, Row
from visualquality.io import write_text
from visualquality.models.load import EMBEDDED, VisionLanguageModel, load
from visualquality.process import quiet_libraries
from visualquality.score.resume import score_all
from visualquality.score.settings import Mode

# Python puts only this script's folder on its path; the package `recipes` lies in the repository's root.
sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.nano.faults import LESSONS
from recipes.nano.measure import (
    file_stem,
    mean_transfer,
    summary,
    test_sets,
    this_command,
    write_result,
)

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
CARD = EMBEDDED / "README.md"
CASES: tuple[tuple[str, Mode], ...] = (
    ("nano-base", "reason"),
    ("nano", "reason"),
    ("nano", "expect"),
)


def near_copies(test: Sequence[Row], rated: Path) -> set[Path]:
    """The test images that nearly equal one in `rated`, by the perceptual hash of `data check`."""
    train = Manifest.read(rated, check_images=False)
    found = check({"train": train, "test": Manifest(tuple(test))})
    # Groups of near-equal images with members in both manifests.
    leaks = [
        overlap for overlap in found.overlaps if len({m.manifest for m in overlap.members}) == 2
    ]
    return {Path(m.image) for overlap in leaks for m in overlap.members if m.manifest == "test"}


def seconds_per_photo(mode: Mode) -> float:
    """Median over 15 photos of 512 x 512 pixels, one at a time, the model loaded and warm."""
    rng = np.random.default_rng(0)
    scorer = Scorer("nano", mode=mode, samples=1, device="cpu")
    seconds = []
    for _ in range(16):
        # Noise enlarged 32 times: as smooth as a photo, and different each time.
        small = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        photo = small.resize((512, 512), Image.Resampling.BICUBIC)
        started = time.perf_counter()
        scorer(photo)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of biq2021/ and agiqa3k/")
    parser.add_argument(
        "--rated", type=Path, required=True, help="manifest of the photos that nano was trained on"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/nano/card"), help="keeps the ratings"
    )
    args = parser.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    args.work.mkdir(parents=True, exist_ok=True)
    models = {name: load(name, device="cpu") for name in ("nano", "nano-base")}
    rows = []
    for test, manifest in test_sets(args.data).items():
        left_out = near_copies(manifest.rows, args.rated) if test == "BIQ2021 test" else set()
        for name, mode in CASES:
            scorer = Scorer(models[name], mode=mode, batch=16)
            journal = args.work / f"{models[name].digest[:8]}_{mode}_{file_stem(test)}.jsonl"
            images = [str(row.image) for row in manifest.rows]
            ratings = list(score_all(scorer, images, journal=journal, console=console))
            model = {"model": name, "mode": mode}
            rows.append({"test": test, **model, **summary(manifest.rows, ratings)})
            if left_out and name == "nano":
                pairs = zip(manifest.rows, ratings, strict=True)
                kept = [(row, rating) for row, rating in pairs if row.image not in left_out]
                label = {"test": f"{test}, no near copy in training"}
                rows.append({**label, **model, **summary(*zip(*kept, strict=True))})
    times = {mode: seconds_per_photo(mode) for mode in ("expect", "reason")}
    result = {
        "weights": {name: vlm.digest for name, vlm in models.items()},
        "reading": models["nano"].reading,
        "rows": rows,
        "seconds a photo of 512², K=1": times,
    }
    write_result(RESULTS / "nano.json", this_command(FOLDER=args.data), result)
    write_text(CARD, card_text(models["nano"]))
    console.print(f"written: {CARD} and {RESULTS / 'nano.json'}")


def card_text(vlm: VisionLanguageModel) -> str:
    """The model card, from the results of nano.json, truth.json and transfer.json; `vlm` is nano."""
    nano, truth, transfer = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("nano", "truth", "transfer")
    )
    templates = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, autoescape=False
    )
    card = templates.get_template("card.md.jinja").render(
        rows=nano["rows"],
        # Results from before there was this option have drawn numbers.
        reading=nano.get("reading", "drawn"),
        truth=truth,
        transfer=mean_transfer(transfer["rows"]),
        times=nano["seconds a photo of 512², K=1"],
        vocabulary=len(vlm.processor.tokenizer),
        side=round(vlm.processor.image_processor.max_pixels**0.5),
        lessons=LESSONS,
        temperature=vlm.temperature,
        parameters=f"{sum(p.numel() for p in vlm.model.parameters()) / 1e6:.1f}",
    )
    return card + "\n"


if __name__ == "__main__":
    main()
