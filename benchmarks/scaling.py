"""How time and memory of scoring grow with image size, K, batch size and number of images.

    python benchmarks/scaling.py [--json benchmarks/results/scaling.json]

The unit of time is an exponent e: the time grows as size^e, so 1 is proportional. Ours is the mode `reason` (`expect`
where the case says so). Theirs is `generate` as the authors use it, K sequences at once. With K, ours stays below 1
because the K responses share the work on the prompt and the image. The unit of memory is MB.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from authors_recipe import score
from common import finish, parser, resident_megabytes, row, seconds_of
from photos import tiles

from visualquality import Scorer
from visualquality.models.load import VisionLanguageModel, load
from visualquality.process import quiet_libraries


def exponent(sizes: Sequence[float], cost: Callable[[int], float], repeats: int) -> float:
    """Slope of log(seconds) over log(size), with the fastest of `repeats` runs of each size."""
    seconds = [min(cost(size) for _ in range(repeats)) for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def growth(vlm: VisionLanguageModel, paths: Sequence[str], many: int) -> float:
    """MB by which scoring `many` images grows the process, after 200 images that fill buffers and caches once."""
    scorer = Scorer(vlm, mode="expect")
    ratings = scorer.rate(paths[i % len(paths)] for i in range(many + 200))
    for _ in range(200):
        next(ratings)
    before = resident_megabytes()
    for _ in ratings:
        pass
    return resident_megabytes() - before


def main() -> None:
    args = parser(__doc__).parse_args()
    quiet_libraries()
    vlm = load("nano")
    repeats = 1 if args.short else 3
    with tempfile.TemporaryDirectory() as name:
        sides = [128, 256, 512]
        by_side = {side: tiles(Path(name), 16, side) for side in sides}
        small = tiles(Path(name), 256, 64)

        def ours(paths: Sequence[str], k: int = 1, batch: int = 16, mode: str = "reason") -> float:
            scorer = Scorer(vlm, mode=mode, samples=k, batch=batch)
            return seconds_of(lambda: list(scorer.rate(paths)))

        def theirs(paths: Sequence[str], k: int = 1) -> float:
            return seconds_of(lambda: score(vlm, paths, returned=k))

        # Warm-up of both.
        ours(by_side[512][:2])
        theirs(by_side[512][:2])
        pixels = [side * side for side in sides]
        side_of = dict(zip(pixels, sides, strict=True))
        counts, several = [16, 32, 64] if args.short else [32, 64, 128, 256], [1, 2, 4, 8, 16]
        rows = [
            row(
                "time by pixels, 128² to 512², expect (theirs: reason)",
                exponent(pixels, lambda p: ours(by_side[side_of[p]], mode="expect"), repeats),
                exponent(pixels, lambda p: theirs(by_side[side_of[p]]), repeats),
                "exponent",
            ),
            row(
                "time by K, 1 to 16, reason, 8 images of 128²",
                exponent(several, lambda k: ours(by_side[128][:8], k=k, batch=8), repeats),
                exponent(several, lambda k: theirs(by_side[128][:8], k=k), repeats),
                "exponent",
            ),
            row(
                "time by batch, 1 to 16 images at a time, reason, 16 images of 64²",
                exponent([1, 4, 16], lambda b: ours(small[:16], k=6, batch=b), repeats),
                None,
                "exponent",
            ),
            row(
                f"time by number of images, {counts[0]} to {counts[-1]} of 64²",
                exponent(counts, lambda n: ours(small[:n], batch=32), repeats),
                exponent(counts, lambda n: theirs(small[:n]), repeats),
                "exponent",
            ),
            row(
                f"memory grown over {500 if args.short else 10_000} more images, expect",
                growth(vlm, small, 500 if args.short else 10_000),
                None,
                "MB",
            ),
        ]
    for each in rows:  # a ratio of exponents would say nothing
        each["ratio"] = None
    finish("Scaling", rows, args)


if __name__ == "__main__":
    main()
