"""Measure the two embedded models on the test sets and write nano's model card.

    python recipes/nano/card.py --data FOLDER --rated rated.csv      # FOLDER as for benchmarks/rl2r_biq2021.py

SRCC and PLCC with human MOS, and seconds per photo. `--rated` is the part of BIQ2021 that build.py trained on: rows of
their own leave out the test photos that nearly equal one of it. The card also shows the committed results of these
benchmarks: panel.py and opinions.py (other kinds of pictures), truth.py and viewed.py (are the named faults true?).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from recipes.nano.chains import CHAINS, LADDERS, PER_FAMILY
from recipes.nano.faults import LESSONS
from recipes.nano.measure import (
    file_stem,
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


def seconds_per_photo(mode: Mode, size: tuple[int, int] = (512, 512), photos: int = 15) -> float:
    """Median over photos of a size in pixels, in files, one at a time, the model loaded and warm."""
    rng = np.random.default_rng(0)
    scorer = Scorer("nano", mode=mode, samples=1, device="cpu")
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(photos + 1):
            # Noise enlarged: as smooth as a photo, and different each time.
            small = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
            path = Path(folder) / f"{number}.jpg"
            small.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
            started = time.perf_counter()
            scorer(path)
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
    times = {
        "expect": seconds_per_photo("expect"),
        "reason": seconds_per_photo("reason"),
        "expect, 12 MP": seconds_per_photo("expect", (4000, 3000), photos=5),
    }
    result = {
        "weights": {name: vlm.digest for name, vlm in models.items()},
        "reading": models["nano"].reading,
        "rows": rows,
        "seconds a photo, K=1; 512² but for one": times,
    }
    write_result(RESULTS / "nano.json", this_command(FOLDER=args.data), result)
    write_text(CARD, card_text(models["nano"]))
    console.print(f"written: {CARD} and {RESULTS / 'nano.json'}")


def card_text(vlm: VisionLanguageModel) -> str:
    """The model card, from the committed results; `vlm` is nano."""
    found = {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("nano", "truth", "viewed", "panel", "opinions")
    }
    templates = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, autoescape=False
    )
    card = templates.get_template("card.md.jinja").render(
        version=vlm.model.config.version,
        rows=found["nano"]["rows"],
        times=found["nano"]["seconds a photo, K=1; 512² but for one"],
        truth=found["truth"],
        viewed=found["viewed"],
        panel=panel_table(found["panel"]),
        opinions=found["opinions"]["rows"],
        vocabulary=len(vlm.processor.tokenizer),
        side=round(vlm.processor.image_processor.max_pixels**0.5),
        chains=CHAINS,
        ladders=PER_FAMILY * len(LADDERS),
        lessons=LESSONS,
        temperature=vlm.temperature,
        parameters=f"{sum(p.numel() for p in vlm.model.parameters()) / 1e6:.1f}",
    )
    return card + "\n"


def panel_table(panel: dict[str, Any]) -> dict[str, dict[str, str]]:
    """ "set (n)" -> model -> SRCC, of the rows of panel.json."""
    table: dict[str, dict[str, str]] = {}
    for row in panel["rows"]:
        model = "nano 1, expect" if row["model"] == "earlier" else row["model"]
        table.setdefault(f"{row['set']} ({row['n']})", {})[model] = f"{row['srcc']['value']:.3f}"
    return table


if __name__ == "__main__":
    main()
