"""Images a second of `score`, against the authors' recipe with the same weights, side by side.

python benchmarks/scoring.py [--model nano] [--json benchmarks/results/scoring.json]
"""

import tempfile
import time
from pathlib import Path

from authors_recipe import score
from common import finish, parser, row
from photos import tiles

from visualquality import Scorer
from visualquality.models.load import load
from visualquality.quiet import quiet_libraries


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", default="nano")
    made.add_argument("--device", default=None)
    made.add_argument("--images", type=int, default=96)
    made.add_argument("--side", type=int, default=512)
    args = made.parse_args()
    quiet_libraries()
    vlm = load(args.model, device=args.device)
    count, repeats = (32, 1) if args.short else (args.images, 3)
    with tempfile.TemporaryDirectory() as folder:
        paths = tiles(Path(folder), count, args.side)
        modes = {
            "expect": Scorer(vlm, mode="expect"),
            "reason, K=1": Scorer(vlm, samples=1, batch=32),
            "reason, K=6": Scorer(vlm, samples=6, batch=16),
        }
        for scorer in modes.values():  # warm
            list(scorer.rate(paths[:4]))
        score(vlm, paths[:4])
        seconds: dict[str, list[float]] = {name: [] for name in (*modes, "authors")}
        for _ in range(repeats):
            for name, scorer in modes.items():
                seconds[name].append(timed(lambda scorer=scorer: list(scorer.rate(paths))))
            seconds["authors"].append(timed(lambda: score(vlm, paths)))
    # Interference only ever adds: the quickest of the repeats is the nearest to what the work costs.
    rate = {name: count / min(times) for name, times in seconds.items()}
    what = f"{args.model}, {count} images of {args.side}²"
    rows = [
        row(f"{what}: expect against one run of the recipe", rate["expect"], rate["authors"], "images/s"),
        row(f"{what}: reason, K=1, against one run", rate["reason, K=1"], rate["authors"], "images/s"),
        row(f"{what}: reason, K=6, against six runs", rate["reason, K=6"], rate["authors"] / 6, "images/s"),
    ]
    for each in rows:  # a rate: more is better
        each["ratio"] = each["ours"] / each["theirs"]
    finish("Scoring", rows, args, device=str(vlm.model.device))


def timed(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
