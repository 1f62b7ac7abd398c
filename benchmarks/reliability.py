"""Do the probabilities of `compare` and the intervals of a calibration hold on photos that people rated?

    python benchmarks/reliability.py --data a.csv [b.csv] [--model nano] [--mode expect]
        [--json benchmarks/results/reliability.json]

The manifests must hold neither what the model nor what its calibration was made with. Of each data set up to 20 000
pairs of photos are drawn (seed 0; all pairs, if there are no more). A pair counts in the bin of the predicted
probability that its first photo is better; the curve is the share of the pairs of a bin whose first photo people rated
higher. Pairs with equal MOS are left out. It is drawn twice: with the calibration, and for the scores and their std
alone. The intervals are compared with the MOS taken to 1 to 5. The figure is drawn beside the JSON.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
from common import add_work, mode_of, parser, this_command, write_result
from rich.console import Console
from rich.table import Table

from visualquality import Rating, compare
from visualquality.data.manifest import Row, read_manifests
from visualquality.data.row import mos_on_1_to_5
from visualquality.evaluate.agreement import RESAMPLES, resampled
from visualquality.evaluate.calibrate import scale_of
from visualquality.evaluate.matching import sources_of
from visualquality.process import quiet_libraries
from visualquality.score.conformal import as_array, coverage_check
from visualquality.score.journal import journal_of
from visualquality.score.raters import make_rater
from visualquality.score.resume import score_all
from visualquality.score.settings import Mode, score_settings

mpl.use("Agg")
import matplotlib.pyplot as plt

PAIRS = 20_000
BINS = 10
SIDES = {"calibrated": "with the calibration", "uncalibrated": "scores and std alone"}


def pairs_of(n: int) -> np.ndarray:
    """(m, 2) places of two different images, each pair once and in a random order, at most `PAIRS` of them."""
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(n, k=1)
    chosen = rng.permutation(len(first))[:PAIRS]
    pairs = np.stack([first[chosen], second[chosen]], axis=1)
    # Else the image that comes first in the manifest would always be the first of the pair.
    return rng.permuted(pairs, axis=1)


def reliability(ratings: Sequence[Rating], mos: Sequence[float]) -> dict[str, Any]:
    """The curve of `compare`: for each bin its range, the number of pairs, their mean prediction, and the share.

    error: the mean distance of prediction and share over the pairs (expected calibration error, Guo et al. 2017).
    brier: the mean squared distance of the prediction and what people say, 0 or 1; 0.25 for a coin.
    """
    pairs = [(i, j) for i, j in pairs_of(len(ratings)) if mos[i] != mos[j]]
    predicted = np.array([compare(ratings[i], ratings[j]) for i, j in pairs])
    agrees = np.array([mos[i] > mos[j] for i, j in pairs], dtype=np.float64)
    place = (predicted * BINS).astype(int).clip(0, BINS - 1)
    bins = []
    for k in range(BINS):
        inside = place == k
        found: dict[str, Any] = {"from": k / BINS, "to": (k + 1) / BINS, "n": int(inside.sum())}
        for name, values in (("predicted", predicted), ("share", agrees)):
            found[name] = float(values[inside].mean()) if inside.any() else None
        bins.append(found)
    error = sum(b["n"] * abs(b["predicted"] - b["share"]) for b in bins if b["n"]) / len(pairs)
    brier = float(np.mean((predicted - agrees) ** 2))
    return {"pairs": len(pairs), "error": error, "brier": brier, "bins": bins}


def coverage(ratings: Sequence[Rating], mos: Sequence[float]) -> dict[str, Any]:
    """How often the intervals hold the MOS (on 1 to 5): of all images with its 95 % interval, and of outer fifths."""
    low, high = (
        np.array([getattr(rating, name) for rating in ratings]) for name in ("low", "high")
    )
    held = ((low <= mos) & (mos <= high)).astype(np.float64)
    n = len(held)
    drawn = resampled(lambda counts: counts @ held / n, n, RESAMPLES)
    scores = as_array([rating.score for rating in ratings])
    return {
        "stated": ratings[0].coverage,
        "coverage_95": np.percentile(drawn, [2.5, 97.5]).tolist(),
        **coverage_check(held, high - low, scores, as_array(mos)).model_dump(),
    }


def measure(rows: Sequence[Row], ratings: Sequence[Rating], ends: Any) -> dict[str, Any]:
    """Everything about one data set; images without a score are left out, and counted."""
    dataset, mos_range = scale_of(rows, ends)
    scored = [(row, r) for row, r in zip(rows, ratings, strict=True) if r.score is not None]
    kept = [rating for _, rating in scored]
    mos = np.array([mos_on_1_to_5(row.mos, mos_range) for row, _ in scored])
    found: dict[str, Any] = {"dataset": dataset, "n": len(kept), "no score": len(rows) - len(kept)}
    calibrated = kept[0].low is not None
    found["intervals"] = coverage(kept, mos) if calibrated else None
    found["calibrated"] = reliability(kept, mos) if calibrated else None
    found["uncalibrated"] = reliability([rating.without_interval() for rating in kept], mos)
    return found


def draw(sets: Sequence[dict[str, Any]], figure: Path) -> None:
    """The curves of each data set; the area of a point grows with the number of its pairs."""
    fig, axes = plt.subplots(
        1, len(sets), figsize=(4.2 * len(sets), 4), layout="constrained", squeeze=False
    )
    for axis, found in zip(axes[0], sets, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for side, colour in zip(SIDES, ("C0", "0.5"), strict=True):
            if found[side] is None:
                continue
            bins = [b for b in found[side]["bins"] if b["n"]]
            x, y = [b["predicted"] for b in bins], [b["share"] for b in bins]
            axis.plot(x, y, color=colour, linewidth=1)
            sizes = [4 + 300 * b["n"] / found[side]["pairs"] for b in bins]
            label = f"{SIDES[side]}: error {found[side]['error']:.3f}"
            axis.scatter(x, y, s=sizes, color=colour, label=label)
        axis.set(
            title=f"{found['dataset']}, {found['n']} images",
            xlabel="predicted probability that a looks better than b",
            ylabel="share of pairs whose a people rate higher",
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="upper left", markerscale=0.5)
    fig.savefig(figure, dpi=130)


def show(sets: Sequence[dict[str, Any]], console: Console) -> None:
    """The numbers as tables."""
    for found in sets:
        sides = {side: words for side, words in SIDES.items() if found[side] is not None}
        table = Table(title=f"{found['dataset']}, {found['n']} images")
        table.add_column("predicted")
        for words in sides.values():
            for name in ("pairs", "predicted", "share"):
                table.add_column(f"{words}\n{name}", justify="right")
        for k in range(BINS):
            cells = [f"{k / BINS:.1f} to {(k + 1) / BINS:.1f}"]
            for side in sides:
                b = found[side]["bins"][k]
                cells.append(str(b["n"]))
                cells += [f"{b[name]:.3f}" if b["n"] else "-" for name in ("predicted", "share")]
            table.add_row(*cells)
        console.print(table)
        for side, words in sides.items():
            curve = found[side]
            console.print(f"{words}: error {curve['error']:.3f}, Brier score {curve['brier']:.3f}")
        if held := found["intervals"]:
            low, high = held["coverage_95"]
            console.print(
                f"intervals of {held['stated']:.0%}: they hold {held['coverage']:.1%} [{low:.1%}, {high:.1%}], "
                f"mean width {held['mean_width']:.2f}; lowest and highest fifth of the MOS "
                f"{held['lowest_mos']:.1%}, {held['highest_mos']:.1%}, of the scores "
                f"{held['lowest_scores']:.1%}, {held['highest_scores']:.1%}"
            )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, nargs="+", required=True, help="manifests")
    options.add_argument("--range", type=float, nargs=2, help="ends of the scale of unknown sets")
    options.add_argument("--model", default="nano", help="as of visualquality score")
    options.add_argument("--mode", choices=get_args(Mode), default="expect")
    options.add_argument("--calibration", type=Path, help="by default the one that is found")
    add_work(options, "runs/reliability")
    args = options.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    rater = make_rater(args.model, score_settings(calibration=args.calibration, **mode_of(args)))
    settings = rater.settings()
    journal = journal_of(args.work, settings)
    manifest = read_manifests(args.data)
    sets = []
    for name in manifest.datasets:
        rows = [row for row in manifest.rows if row.dataset == name]
        images = sources_of(rows, reference=False)
        ratings = list(score_all(rater, images, journal=journal, console=console))
        sets.append(measure(rows, ratings, args.range))
    show(sets, Console(width=120))
    if args.json:
        write_result(args.json, this_command(), {"settings": settings, "sets": sets})
        draw(sets, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
