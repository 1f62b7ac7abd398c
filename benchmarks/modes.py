"""SRCC and PLCC with human MOS of each way of scoring, and whether a high std predicts a large error.

    python benchmarks/modes.py --data FOLDER [--model nano] [--json benchmarks/results/modes.json]

The ways: `expect`, the mean of K reasonings, self-consistency, `samples="auto"` and `mode="auto"`. FOLDER is as for
rl2r_biq2021.py. 16 reasonings are drawn per image. Fewer samples are the first of these, which are the same ones that
would be drawn, so the images are scored only once.
"""

import json
from typing import Any

import numpy as np
from common import rated_parser, this_command, write_result
from rich.console import Console
from rich.table import Table
from scipy.stats import trim_mean

from recipes.nano.measure import file_stem, test_sets
from visualquality import Scorer
from visualquality.coefficients import srcc
from visualquality.evaluate.agreement import agreement
from visualquality.evaluate.logistic import logistic4
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.response import Response
from visualquality.score.rating import Rating, is_precise
from visualquality.score.resume import score_all
from visualquality.train.supervised import target_text

MOST = 16  # samples per image
COUNTS = (1, 2, 3, 4, 6, 8, 12)
TOLERANCES = (0.2, 0.1, 0.05)
Scores = list[float | None]


def readable(samples: tuple[float | None, ...], n: int) -> list[float]:
    """The readable ones of the first n samples."""
    return [s for s in samples[:n] if s is not None]


def combined(ratings: list[Rating], n: int, how: str) -> Scores:
    """A score per image from its first n samples: their mean, median, or mean without a quarter at each end."""
    ways = {"mean": np.mean, "median": np.median, "trimmed": lambda x: trim_mean(x, 0.25)}
    samples = [readable(rating.samples, n) for rating in ratings]
    return [float(ways[how](x)) if x else None for x in samples]


def adaptive(ratings: list[Rating], tolerance: float) -> tuple[Scores, float]:
    """Scores by `samples="auto"`, and the mean number of samples that it draws."""
    scores, used = [], []
    for rating in ratings:
        n = 2
        while n < MOST:
            if is_precise([Response(s, None, None) for s in rating.samples[:n]], tolerance):
                break
            n *= 2
        samples = readable(rating.samples, n)
        scores.append(float(np.mean(samples)) if samples else None)
        used.append(n)
    return scores, float(np.mean(used))


def calibration(scores: Scores, stds: list[float | None], mos: list[float]) -> dict[str, float]:
    """SRCC of the std with the absolute error of the score after a logistic fit to the MOS.

    Also the mean error of the quarter of images with the lowest std, and of that with the highest.
    """
    kept = [
        (s, d, m)
        for s, d, m in zip(scores, stds, mos, strict=True)
        if s is not None and d is not None
    ]
    x, std, y = np.array(kept).T
    error = np.abs(y - logistic4(x, y)(x))
    order = np.argsort(std, kind="stable")
    quarter = len(order) // 4
    return {
        "srcc_std_error": srcc(std, error),
        "error_of_surest_quarter": float(error[order[:quarter]].mean()),
        "error_of_least_sure_quarter": float(error[order[-quarter:]].mean()),
    }


def main() -> None:
    options = rated_parser(__doc__, "runs/modes")
    options.add_argument("--model", default="nano", help="a model that `load` knows, or its folder")
    args = options.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    args.work.mkdir(parents=True, exist_ok=True)
    vlm = load(args.model)
    rows: list[dict[str, Any]] = []
    calibrated = {}
    tokenizer, tokens = vlm.processor.tokenizer, list[int]()
    for name, manifest in test_sets(args.data).items():
        images, mos = [str(r.image) for r in manifest.rows], [r.mos for r in manifest.rows]
        # The digest in the name: another model's ratings are never taken for this one's.
        stem = f"{vlm.digest[:8]}_{file_stem(name)}"
        scorers = {
            "reason": Scorer(vlm, samples=MOST, batch=8),
            # Its scores are known from the first six above, but not its std where they are expectations.
            "reason6": Scorer(vlm, samples=6, batch=8),
            "expect": Scorer(vlm, mode="expect", batch=16),
        }
        reasoned, reasoned_six, expected = (
            list(
                score_all(
                    scorer, images, journal=args.work / f"{stem}_{mode}.jsonl", console=console
                )
            )
            for mode, scorer in scorers.items()
        )

        def add(
            case: str, scores: Scores, samples: float, test: str = name, mos: list[float] = mos
        ) -> None:
            a = agreement(scores, mos)
            row = {
                "test": test,
                "case": case,
                "n": a.n,
                "unreadable": a.n_unreadable,
                "samples": round(samples, 2),
            }
            rows.append(
                row | {key: getattr(a, key).to_dict() for key in ("srcc", "plcc", "plcc_logistic")}
            )

        add("expect", [r.score for r in expected], 0)
        for n in COUNTS:
            for how in ("mean",) if n < 3 else ("mean", "median", "trimmed"):
                add(f"reason, {how} of {n}", combined(reasoned, n, how), n)
        for tolerance in TOLERANCES:
            add(f"reason, samples=auto, tolerance {tolerance}", *adaptive(reasoned, tolerance))
        six = combined(reasoned, 6, "mean")
        for share in (0.25, 0.5):
            # As mode="auto" with a doubt that makes it reason about this share of the images.
            doubt = float(np.quantile([r.std for r in expected], 1 - share))
            mixed = [
                mean if rating.std > doubt and mean is not None else rating.score
                for rating, mean in zip(expected, six, strict=True)
            ]
            add(f"auto: the least sure {share:.0%} reasoned about", mixed, 6 * share)
        calibrated[name] = {
            "expect": calibration([r.score for r in expected], [r.std for r in expected], mos),
            "reason, mean of 6": calibration(six, [r.std for r in reasoned_six], mos),
        }
        tokens += [
            len(tokenizer(target_text(r.score, r.reasoning))["input_ids"])
            for r in reasoned
            if r.score is not None
        ]
        samples = [s for r in reasoned for s in r.samples]
        calibrated[name]["readable"] = sum(s is not None for s in samples) / len(samples)
    table = Table("test", "case", "samples", "SRCC", "PLCC", title=f"Ways of scoring, {args.model}")
    for r in rows:
        cells = [
            f"{r[key]['value']:.3f} [{r[key]['low']:.3f}, {r[key]['high']:.3f}]"
            for key in ("srcc", "plcc")
        ]
        table.add_row(r["test"], r["case"], f"{r['samples']:g}", *cells)
    Console(width=120).print(table)
    Console().print_json(json.dumps(calibrated))
    if args.json:
        result = {
            "model": expected[0].model,
            "weights": vlm.digest,
            "reading": vlm.reading,
            "rows": rows,
            "tokens_a_reasoning": float(np.mean(tokens)),
            "calibration": calibrated,
        }
        write_result(args.json, this_command(FOLDER=args.data), result)


if __name__ == "__main__":
    main()
