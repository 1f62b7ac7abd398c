"""Images per second of `score`, against the authors' way of scoring with the same weights.

    python benchmarks/scoring.py --json benchmarks/results/scoring.json

Two models: nano, whose vision tower takes longer than its text, and a randomly initialised Qwen2.5-VL of 10 M
parameters, in which text takes longer, as in the real ones. A model with random weights does not end its answers, so
both sides stop at 128 tokens, about the length of VisualQuality-R1's reasonings. With a GPU: `--size 3b --device cuda`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from authors_recipe import score
from common import Row, finish, interleaved, parser, row
from photos import tiles
from qwen import SIZES, save

from visualquality import Scorer
from visualquality.models.load import VisionLanguageModel, load
from visualquality.process import quiet_libraries

RANDOM_TOKENS = 128


def compare(
    vlm: VisionLanguageModel, name: str, paths: list[str], tokens: int, repeats: int
) -> list[Row]:
    """Rates of three ways of scoring against one or six runs of the authors', the two sides taking turns."""
    modes = {
        "expect": Scorer(vlm, mode="expect", batch=8),
        "reason, K=1": Scorer(vlm, samples=1, batch=32, max_new_tokens=tokens),
        "reason, K=6": Scorer(vlm, samples=6, batch=16, max_new_tokens=tokens),
    }
    sides: dict[str, Callable[[list[str]], object]] = {
        **{mode: lambda some, s=scorer: list(s.rate(some)) for mode, scorer in modes.items()},
        "authors": lambda some: score(vlm, some, max_new_tokens=tokens),
    }
    for run in sides.values():
        run(paths[:4])  # warm-up
    seconds = interleaved(
        {side: lambda run=run: run(paths) for side, run in sides.items()}, repeats
    )
    # Other load on the machine only ever adds time: the fastest repeat is the nearest to the true cost.
    rate = {side: len(paths) / min(times) for side, times in seconds.items()}
    rows = []
    for mode, case, runs in (
        ("expect", "expect against one run of the recipe", 1),
        ("reason, K=1", "reason, K=1, against one run", 1),
        ("reason, K=6", "reason, K=6, against six runs", 6),
    ):
        ours, theirs = rate[mode], rate["authors"] / runs
        line = row(f"{name}: {case}", ours, theirs, "images/s")
        rows.append(line | {"ratio": ours / theirs})  # of rates, more is better
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--size", default="10m", choices=SIZES, help="parameters of the random model"
    )
    options.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    args = options.parse_args()
    quiet_libraries()
    count, repeats = (16, 1) if args.short else (64, 3)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        # nano ends its answers by itself, long before 512 tokens.
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
