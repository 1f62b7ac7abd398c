"""Measure the two embedded models on the test sets and write their card.

    python recipes/nano/card.py --data FOLDER --rated rated.csv      # FOLDER as for benchmarks/rl2r_biq2021.py

`--rated` is the part of BIQ2021 that build.py trained on: a row of its own leaves out test photos that look like one
of it. What the models say is judged by benchmarks/truth.py, and how quality is best read by benchmarks/transfer.py;
their results are read here.
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

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common import machine
from faults import LESSONS
from rl2r_biq2021 import summary, test_sets
from transfer import carried

from visualquality import Scorer
from visualquality.data.check import check
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import EMBEDDED, load
from visualquality.process import quiet_libraries
from visualquality.score.journal import score_all
from visualquality.score.scorer import Mode

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
CASES: tuple[tuple[str, Mode], ...] = (
    ("nano-base", "reason"),
    ("nano", "reason"),
    ("nano", "expect"),
)


def copied(test: Sequence[Row], rated: Path) -> set[Path]:
    """The test images of which a near-equal one was trained on, by the perceptual hash of `data check`."""
    train = Manifest.read(rated, check_images=False)
    found = check({"train": train, "test": Manifest(tuple(test))})
    leaks = [
        overlap for overlap in found.overlaps if len({m.manifest for m in overlap.members}) == 2
    ]
    return {Path(m.image) for overlap in leaks for m in overlap.members if m.manifest == "test"}


def seconds_a_photo(mode: Mode) -> float:
    """Median of 15 photos of 512², one at a time, the model loaded and warm."""
    rng = np.random.default_rng(0)
    scorer = Scorer("nano", mode=mode, samples=1, device="cpu")
    seconds = []
    for _ in range(16):
        small = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        photo = small.resize((512, 512), Image.Resampling.BICUBIC)
        started = time.perf_counter()
        scorer(photo)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rated", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/nano/card"))
    args = parser.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    args.work.mkdir(parents=True, exist_ok=True)
    models = {name: load(name, device="cpu") for name in ("nano", "nano-base")}
    rows = []
    for test, manifest in test_sets(args.data).items():
        without = copied(manifest.rows, args.rated) if test == "BIQ2021 test" else set()
        for name, mode in CASES:
            scorer = Scorer(models[name], mode=mode, batch=16)
            journal = (
                args.work / f"{models[name].digest[:8]}_{mode}_{test.split()[0].lower()}.jsonl"
            )
            images = [str(row.image) for row in manifest.rows]
            ratings = list(score_all(scorer, images, journal=journal, console=console))
            by = {"model": name, "mode": mode}
            rows.append({"test": test, **by, **summary(manifest.rows, ratings)})
            if without and name == "nano":
                kept = [
                    (r, s)
                    for r, s in zip(manifest.rows, ratings, strict=True)
                    if r.image not in without
                ]
                rows.append(
                    {
                        "test": f"{test}, no near copy in training",
                        **by,
                        **summary(*zip(*kept, strict=True)),
                    }
                )
    times = {mode: seconds_a_photo(mode) for mode in ("expect", "reason")}
    truth, transfer = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("truth", "transfer")
    )
    (RESULTS / "nano.json").write_text(
        json.dumps(
            {
                "machine": machine(),
                "command": "python recipes/nano/card.py --data FOLDER --rated rated.csv",
                "weights": {name: vlm.digest for name, vlm in models.items()},
                "rows": rows,
                "seconds a photo of 512², K=1": times,
            },
            indent=1,
        )
        + "\n"
    )
    vlm = models["nano"]
    template = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, autoescape=False
    )
    card = template.get_template("card.md.jinja").render(
        rows=rows,
        truth=truth,
        carried=carried(transfer["rows"]),
        times=times,
        vocabulary=len(vlm.processor.tokenizer),
        side=round(vlm.processor.image_processor.max_pixels**0.5),
        lessons=LESSONS,
        temperature=vlm.temperature,
        parameters=f"{sum(p.numel() for p in vlm.model.parameters()) / 1e6:.1f}",
    )
    (EMBEDDED / "README.md").write_text(card + "\n")
    console.print(f"written: {EMBEDDED / 'README.md'} and {RESULTS / 'nano.json'}")


if __name__ == "__main__":
    main()
