"""What each way of scoring is worth: `expect` against the mean of K reasonings, self-consistency, `samples="auto"`,
`mode="auto"`, and whether a high std predicts a large error. On human-rated test sets.

python benchmarks/modes.py --data FOLDER [--model nano] [--json benchmarks/results/modes.json]

FOLDER as for rl2r_biq2021.py. Every image is reasoned about 16 times; fewer samples are the first ones of these, as
they would be drawn, so one journal answers all questions.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, parser
from rich.console import Console
from rich.table import Table
from rl2r_biq2021 import test_sets
from scipy.stats import trim_mean

from visualquality import Scorer
from visualquality.evaluate.agreement import agreement
from visualquality.evaluate.coefficients import logistic4, srcc
from visualquality.models.load import load
from visualquality.quiet import quiet_libraries
from visualquality.response import Response
from visualquality.score.batch import score_all
from visualquality.score.rating import Rating
from visualquality.score.scorer import settled
from visualquality.train.sft import target_text

MOST = 16
COUNTS = (1, 2, 3, 4, 6, 8, 12)
TOLERANCES = (0.2, 0.1, 0.05)
Scores = list[float | None]


def readable(samples: tuple[float | None, ...], n: int) -> list[float]:
    return [s for s in samples[:n] if s is not None]


def combined(ratings: list[Rating], n: int, how: str) -> Scores:
    """Scores of the first n samples of each image, by one way of putting them together."""
    ways = {"mean": np.mean, "median": np.median, "trimmed": lambda x: trim_mean(x, 0.25)}
    found = [readable(r.samples, n) for r in ratings]
    return [float(ways[how](x)) if x else None for x in found]


def adaptive(ratings: list[Rating], tolerance: float) -> tuple[Scores, float]:
    """Scores by `samples="auto"`, and the mean number of samples that it takes."""
    scores, used = [], []
    for rating in ratings:
        n = 2
        while n < MOST and not settled(
            [Response(s, None, None) for s in rating.samples[:n]], tolerance
        ):
            n *= 2
        scores.append(float(np.mean(x)) if (x := readable(rating.samples, n)) else None)
        used.append(n)
    return scores, float(np.mean(used))


def calibration(scores: Scores, stds: list[float | None], mos: list[float]) -> dict[str, float]:
    """SRCC of std with |error| after the logistic fit, and the mean error of the surest and the least sure quarter."""
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
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--model", default="nano")
    made.add_argument("--work", type=Path, default=Path("runs/modes"))
    args = made.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    args.work.mkdir(parents=True, exist_ok=True)
    vlm = load(args.model)
    rows: list[dict[str, Any]] = []
    calibrated = {}
    tokenizer, tokens = vlm.processor.tokenizer, list[int]()
    for name, manifest in test_sets(args.data).items():
        images, mos = [str(r.image) for r in manifest.rows], [r.mos for r in manifest.rows]
        stem = f"{vlm.digest[:8]}_{name.split()[0].lower()}"
        reasoned = Scorer(vlm, samples=MOST, batch=8)
        drawn = list(
            score_all(reasoned, images, journal=args.work / f"{stem}_reason.jsonl", console=console)
        )
        scorer = Scorer(vlm, mode="expect", batch=16)
        expected = list(
            score_all(scorer, images, journal=args.work / f"{stem}_expect.jsonl", console=console)
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
                add(f"reason, {how} of {n}", combined(drawn, n, how), n)
        for tolerance in TOLERANCES:
            add(f"reason, samples=auto, tolerance {tolerance}", *adaptive(drawn, tolerance))
        six = combined(drawn, 6, "mean")
        for share in (0.25, 0.5):
            doubt = float(np.quantile([r.std for r in expected], 1 - share))
            mixed = [
                k if e.std > doubt and k is not None else e.score
                for e, k in zip(expected, six, strict=True)
            ]
            add(f"auto: the least sure {share:.0%} reasoned about", mixed, 6 * share)
        spread = [
            float(np.std(x, ddof=1)) if len(x := readable(r.samples, 6)) > 1 else None
            for r in drawn
        ]
        calibrated[name] = {
            "expect": calibration([r.score for r in expected], [r.std for r in expected], mos),
            "reason, mean of 6": calibration(six, spread, mos),
        }
        tokens += [
            len(tokenizer(target_text(r.score, r.reasoning))["input_ids"])
            for r in drawn
            if r.score is not None
        ]
        samples = [s for r in drawn for s in r.samples]
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
            "machine": machine(),
            "command": f"python benchmarks/modes.py --data FOLDER --model {Path(args.model).name}",
            "weights": vlm.digest,
            "rows": rows,
            "tokens_a_reasoning": float(np.mean(tokens)),
            "calibration": calibrated,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
