"""Images a second of `score`, against the authors' recipe with the same weights, side by side.

    python benchmarks/scoring.py --json benchmarks/results/scoring.json

With nano, whose tower costs more than its words, and with a randomly initialised Qwen2.5-VL of 10 M parameters, which
costs as the real ones do. Random weights do not end their answers: both sides stop at 128 tokens there, which is about
what VisualQuality-R1's reasonings take. `--size 3b --device cuda` is for a machine with a GPU.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from authors_recipe import score
from common import Row, finish, parser, row
from photos import tiles
from qwen import save

from visualquality import Scorer
from visualquality.models.load import VisionLanguageModel, load
from visualquality.process import quiet_libraries

RANDOM_TOKENS = 128


def compare(
    vlm: VisionLanguageModel, name: str, paths: list[str], tokens: int, repeats: int
) -> list[Row]:
    modes = {
        "expect": Scorer(vlm, mode="expect", batch=8),
        "reason, K=1": Scorer(vlm, samples=1, batch=32, max_new_tokens=tokens),
        "reason, K=6": Scorer(vlm, samples=6, batch=16, max_new_tokens=tokens),
    }
    sides: dict[str, Callable[[list[str]], object]] = {
        **{mode: lambda some, s=scorer: list(s.rate(some)) for mode, scorer in modes.items()},
        "authors": lambda some: score(vlm, some, max_new_tokens=tokens),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        run(paths[:4])  # warm
    for _ in range(repeats):
        for side, run in sides.items():
            started = time.perf_counter()
            run(paths)
            seconds[side].append(time.perf_counter() - started)
    # Interference only ever adds: the quickest of the repeats is the nearest to what the work costs.
    rate = {side: len(paths) / min(times) for side, times in seconds.items()}
    rows = [
        row(
            f"{name}: expect against one run of the recipe",
            rate["expect"],
            rate["authors"],
            "images/s",
        ),
        row(
            f"{name}: reason, K=1, against one run",
            rate["reason, K=1"],
            rate["authors"],
            "images/s",
        ),
        row(
            f"{name}: reason, K=6, against six runs",
            rate["reason, K=6"],
            rate["authors"] / 6,
            "images/s",
        ),
    ]
    for each in rows:  # a rate: more is better
        each["ratio"] = each["ours"] / each["theirs"]
    return rows


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--size", default="10m", choices=("10m", "3b", "7b"))
    made.add_argument("--device", default=None)
    args = made.parse_args()
    quiet_libraries()
    count, repeats = (16, 1) if args.short else (64, 3)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        nano = load("nano", device=args.device)
        rows += compare(
            nano, f"nano, {count} images of 512²", tiles(Path(folder), count, 512), 512, repeats
        )
        random = load(str(save(Path(folder) / "qwen", args.size)), device=args.device)
        name = f"random Qwen2.5-VL {args.size}, {count // 2} images of 336², {RANDOM_TOKENS} tokens"
        rows += compare(random, name, tiles(Path(folder), count // 2, 336), RANDOM_TOKENS, repeats)
    finish("Scoring", rows, args, device=str(nano.model.device))


if __name__ == "__main__":
    main()
