"""Does a score fall with every level of a distortion, and stay where nothing about the quality changes?

    python benchmarks/monotone.py --photos KODAK BSDS500 --json benchmarks/results/monotone.json
    python benchmarks/monotone.py --photos KODAK BSDS500 --per-photo 4

Each photo is rated as it is; distorted, by each family at levels 1 to 5; recoded as JPEG; and with plain borders.

- A step goes from the photo to level 1, from level 1 to 2, and so on. The score should fall in 95 % of the steps.
- JPEG of quality 95, 90 or 80 should not be above the photo. 0.02 is allowed.
- Borders (white, black, letterbox, pillarbox, a thin frame) should move a score by 0.15 at most, on average.

200 photos, taken at even distances in the order of their names, with 26 families at 5 levels are 27,800 images: one to
two hours for nano on two cores. --per-photo 4 gives each photo only four of the families, in turn, so that each family
is measured on 30 of 200 photos. Intervals are 95 % bootstrap intervals over photos. Scores are kept in --work, by
photo and variant: if the code of a distortion changes, give another folder. Photos are not resized; the levels are made
for photos of about 512 x 384 pixels.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import add_work, clean_exit, mode_of, parser, this_command, write_result
from monotone_table import ALLOWED, change_table, family_table, verdicts
from monotone_variants import (
    BORDERS,
    ORIGINAL,
    QUALITIES,
    Variant,
    families_of,
    variants,
)
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from visualquality.coefficients import srcc
from visualquality.data.distort import LEVELS
from visualquality.data.distortions import FAMILIES
from visualquality.data.find import find_images
from visualquality.data.images import open_image
from visualquality.errors import UserError
from visualquality.evaluate.agreement import RESAMPLES, resampled
from visualquality.evaluate.page import pick_evenly
from visualquality.io import progress_bar, tracked
from visualquality.process import quiet_libraries
from visualquality.score.journal import Journal, journal_of
from visualquality.score.raters import make_rater
from visualquality.score.rating import Rater
from visualquality.score.settings import score_settings
from visualquality.seeds import seed_number

Scores = dict[Variant, float]  # of one photo; NaN for an image without a score


class Case(NamedTuple):
    """One image to rate. `name` is that in the journal."""

    photo: Path
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.photo}: {self.variant.what} {self.variant.value}"


def images(cases: Sequence[Case]) -> Iterator[Image.Image]:
    """The image of each case. The cases of a photo follow each other, and it is opened once."""
    opened, photo = None, Image.new("RGB", (1, 1))
    for case in cases:
        if case.photo != opened:
            opened, photo = case.photo, open_image(case.photo)
        # By its stem, so that no two photos share one pattern of noise.
        yield case.variant.of(photo, seed_number(f"monotone:{case.photo.stem}"))


def rate(rater: Rater, cases: Sequence[Case], path: Path, console: Console) -> list[Scores]:
    """The scores of each photo, in the order of the cases. Those in the journal `path` are not made again."""
    with Journal(path, rater.settings()) as journal, progress_bar(console) as bar:
        done = {name for name, rating in journal.ratings.items() if rating.answered}
        todo = [case for case in cases if case.name not in done]
        if len(todo) < len(cases):
            console.print(f"{len(cases) - len(todo)} of {len(cases)} images are in {path} already")
        ratings = tracked(bar, rater.rate(images(todo)), "scoring", len(todo))
        for case, rating in zip(todo, ratings, strict=True):
            # The images have no file, so the rater does not know what they are.
            journal.append(replace(rating, image=case.name))
    found: dict[Path, Scores] = {}
    for case in cases:
        score = journal.ratings[case.name].score
        found.setdefault(case.photo, {})[case.variant] = np.nan if score is None else score
    return list(found.values())


# Statistics, of scores (n, 6): a photo a row, from the photo as it is to level 5; NaN for no score


def levels_of(scores: Sequence[Scores], family: str) -> NDArray[np.float64]:
    """(n, 6): the scores of the photos that have this family, from the photo as it is to level 5."""
    row = [ORIGINAL, *(Variant(family, level) for level in LEVELS)]
    found = [[own[variant] for variant in row] for own in scores if row[-1] in own]
    return np.array(found, dtype=float).reshape(-1, len(row))


def falls(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 5): 1 where the score falls in a step, 0 where it rises or stays, NaN where one of its scores is missing."""
    difference = np.diff(levels, axis=1)
    return np.where(np.isnan(difference), np.nan, difference < 0)


def in_order(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 15): 1 for a pair of levels of which the stronger has the lower score, else 0; NaN as in `falls`."""
    pairs = np.array(list(combinations(range(levels.shape[1]), 2)))
    return falls(levels[:, pairs].reshape(-1, 2)).reshape(len(levels), len(pairs))


def rank_correlations(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): SRCC of weakness (minus the level) with the score: 1 in perfect order. NaN where undefined."""
    weakness = -np.arange(levels.shape[1], dtype=float)
    return np.array([srcc(row, weakness) for row in levels])


def mean_with_interval(values: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Mean over all values, an array for each photo, with its 95 % interval over photos. NaN are left out."""
    kept = [own[~np.isnan(own)] for own in values]
    kept = [own for own in kept if len(own)]
    sums, counts = (np.array([f(own) for own in kept], dtype=float) for f in (np.sum, len))
    if not len(kept):
        return {"photos": 0, "n": 0, "value": None, "low": None, "high": None}
    drawn = resampled(lambda times: (times @ sums) / (times @ counts), len(kept), RESAMPLES)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "photos": len(kept),
        "n": int(counts.sum()),
        "value": float(sums.sum() / counts.sum()),
        "low": float(low),
        "high": float(high),
    }


def mean(values: NDArray[np.float64]) -> float | None:
    """The mean without NaN; None where nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None


def family_row(family: str, levels: NDArray[np.float64]) -> dict[str, Any]:
    """A family: shares of falling steps (all, and by step), share of pairs in order, mean rank correlation."""
    steps, ranks = falls(levels), rank_correlations(levels)
    return {
        "family": family,
        "photos": len(levels),
        "falling": mean(steps),
        "by_step": [mean(step) for step in steps.T],
        "in_order": mean(in_order(levels)),
        "srcc": mean(ranks),
        "srcc_undefined": int(np.isnan(ranks).sum()),
    }


def changes(scores: Sequence[Scores], variant: Variant) -> NDArray[np.float64]:
    """(n,): by how much the variant of each photo is above the photo; NaN where a score is missing."""
    return np.array([own[variant] - own[ORIGINAL] for own in scores])


def change_row(name: str, change: NDArray[np.float64]) -> dict[str, Any]:
    """One kind of border, or quality of JPEG: how its scores differ from those of the photos."""
    kept = change[~np.isnan(change)]
    return {
        "variant": name,
        "n": len(kept),
        "not_above": mean(np.where(np.isnan(change), np.nan, change <= ALLOWED)),
        "mean": mean(change),
        "mean_absolute": mean(np.abs(change)),
        "largest": float(np.abs(kept).max()) if len(kept) else None,
    }


def measure(scores: Sequence[Scores]) -> dict[str, Any]:
    """All that the result has about the scores of the photos."""
    levels = {family: levels_of(scores, family) for family in FAMILIES}
    levels = {family: found for family, found in levels.items() if len(found)}
    # By photo, a row for each of its families.
    by_photo = [np.concatenate([levels_of([own], family) for family in levels]) for own in scores]
    recodings = {q: changes(scores, Variant("recoded", q)) for q in QUALITIES}
    borders = {kind: changes(scores, Variant("border", kind)) for kind in BORDERS}
    return {
        "falling": mean_with_interval([falls(own).ravel() for own in by_photo]),
        "in_order": mean_with_interval([in_order(own).ravel() for own in by_photo]),
        "srcc": mean_with_interval([rank_correlations(own) for own in by_photo]),
        "border_change": mean_with_interval(list(np.abs(np.stack(list(borders.values()), axis=1)))),
        "families": [family_row(family, found) for family, found in levels.items()],
        "jpeg": [change_row(f"quality {q}", change) for q, change in recodings.items()],
        "borders": [change_row(kind, change) for kind, change in borders.items()],
        "without_score": sum(bool(np.isnan(value)) for own in scores for value in own.values()),
    }


def run(args: argparse.Namespace) -> None:
    quiet_libraries()
    if args.per_photo is not None and not 1 <= args.per_photo <= len(FAMILIES):
        raise UserError(f"--per-photo {args.per_photo}: choose from 1 to {len(FAMILIES)} families")
    if args.limit < 1:
        raise UserError(f"--limit {args.limit}: give at least one photo")
    # By name alone, so that the choice does not depend on where the folders lie.
    photos = pick_evenly(sorted(find_images(args.photos), key=lambda path: path.name), args.limit)
    cases = [
        Case(photo, variant)
        for index, photo in enumerate(photos)
        for variant in variants(families_of(index, args.per_photo))
    ]
    rater = make_rater(args.model, score_settings(batch=16, **mode_of(args)))
    scores = rate(rater, cases, journal_of(args.work, rater.settings()), Console(stderr=True))
    found = measure(scores)
    console = Console(width=100)
    console.print(family_table(found["families"]))
    console.print(change_table(found["jpeg"], "JPEG against the photo"))
    console.print(change_table(found["borders"], "Within a border against the photo"))
    for sentence in verdicts(found):
        console.print(sentence, markup=False, highlight=False)
    if args.json:
        described = {
            "weights": rater.settings().get("weights"),
            "mode": args.mode,
            "photos": len(photos),
            "per_photo": args.per_photo,
            "images": len(cases),
        }
        write_result(args.json, this_command(), described | found)


def main() -> None:
    options = parser(__doc__, short=False)
    add_work(options, "runs/monotone")
    options.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photos")
    options.add_argument("--model", default="nano", help="nano, a folder, or another name")
    options.add_argument("--mode", choices=("expect", "reason"), default="expect")
    options.add_argument("--limit", type=int, default=200, help="photos that are used (200)")
    options.add_argument("--per-photo", type=int, help="families of each photo; by default all")
    with clean_exit():
        run(options.parse_args())


if __name__ == "__main__":
    main()
