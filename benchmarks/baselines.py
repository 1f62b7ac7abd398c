"""NIQE and BRISQUE: SRCC and PLCC with human MOS, and images per second side by side with pyiqa's.

    python benchmarks/baselines.py --data FOLDER --json benchmarks/results/baselines.json --pyiqa-python PYTHON

FOLDER holds agiqa3k/ (data.csv, images/) and biq2021/ (test.csv, images/). The shipped parameters have seen neither.
PYTHON is the interpreter of an environment with pyiqa 0.1.16. Without it only our speed is measured, and the JSON says
so. Both open the same files with the same number of threads, and take turns for three rounds. The fastest round of each
counts, since other load on the machine only ever adds time. Processor time is given beside wall-clock time.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import rated_parser, this_command, write_result

from recipes.nano.measure import test_sets
from visualquality.classics.brisque import Brisque
from visualquality.classics.niqe import Niqe
from visualquality.coefficients import srcc
from visualquality.data.manifest import Manifest
from visualquality.evaluate.agreement import agreement
from visualquality.score.raters import ImageFunctionRater
from visualquality.score.rating import Rater

ROUNDS = 3
PAPERS = {"AGIQA-3K": {"niqe": 0.533, "brisque": 0.497}}  # SRCC in Table 2 of VisualQuality-R1
OTHER = Path(__file__).with_name("baselines_pyiqa.py")
NO_PYIQA = "pyiqa was not timed: no --pyiqa-python was given"
PARAMETERS = (
    "pyiqa got our fitted numbers in its own file formats, since it would download its own. With them its NIQE "
    "computes the same as ours, except for details of the edges. Its BRISQUE has other constants in its code: only its "
    "time is meaningful"
)


def measure(rater: Rater, manifest: Manifest, paper: float | None) -> dict[str, Any]:
    """Agreement with the MOS; `paper` is the paper's SRCC where it has one."""
    scores = [rating.score for rating in rater.rate([row.image for row in manifest.rows])]
    found = agreement(scores, [row.mos for row in manifest.rows]).to_dict()
    names = ("n", "n_unreadable", "srcc", "plcc", "plcc_logistic")
    result: dict[str, Any] = {name: found[name] for name in names}
    if paper is not None:
        result["paper_srcc"] = paper
        result["srcc_minus_paper"] = round(found["srcc"]["value"] - paper, 4)
    return result


def our_round(rater: Rater, images: Sequence[str]) -> dict[str, Any]:
    """Seconds of wall-clock and processor time for all images, and their scores."""
    list(rater.rate(images[:1]))  # warm-up
    started = time.perf_counter(), time.process_time()
    scores = [rating.score for rating in rater.rate(images)]
    seconds = {
        "wall": time.perf_counter() - started[0],
        "processor": time.process_time() - started[1],
    }
    return seconds | {"scores": scores}


def speeds(
    raters: dict[str, Rater], images: Sequence[str], other: subprocess.Popen[str] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of images/s, and the SRCC of our scores with pyiqa's where they compute the same."""
    rows, same = [], {}
    for name, rater in raters.items():
        rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for _ in range(ROUNDS):
            rounds["ours"].append(our_round(rater, images))
            if other is not None:
                assert other.stdin is not None
                assert other.stdout is not None
                print(name, file=other.stdin, flush=True)
                rounds["theirs"].append(json.loads(other.stdout.readline()))
        for clock, unit in (
            ("wall", "images/s"),
            ("processor", "images per second of processor time"),
        ):
            best = {
                side: len(images) / min(r[clock] for r in found)
                for side, found in rounds.items()
                if found
            }
            ours, theirs = best["ours"], best.get("theirs")
            row: dict[str, Any] = {"case": name.upper(), "ours": round(ours, 1), "theirs": None}
            row["unit"] = unit
            if theirs is not None:
                row |= {"theirs": round(theirs, 1), "ratio": round(ours / theirs, 2)}
            rows.append(row)
        if name == "niqe" and rounds["theirs"]:
            ours, theirs = (rounds[side][0]["scores"] for side in ("ours", "theirs"))
            # pyiqa's NIQE is lower for better images, ours is its negative.
            pairs = [
                (a, -b)
                for a, b in zip(ours, theirs, strict=True)
                if a is not None and b is not None and np.isfinite(b)
            ]
            a, b = np.array(pairs).T
            same = {
                "n": len(pairs),
                "srcc": srcc(a, b),
                "median_difference": float(np.median(np.abs(a - b))),
            }
    return rows, same


@contextmanager
def pyiqa_process(
    python: str | None, threads: int, images: Sequence[str], parameters: dict[str, Any]
) -> Iterator[subprocess.Popen[str] | None]:
    """baselines_pyiqa.py, running in that Python with our parameters; None without a Python."""
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/ours.npz", **parameters)
        command = [python, str(OTHER), f"{folder}/ours.npz", str(threads), *images]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield process


def main() -> None:
    parser = rated_parser(__doc__)
    parser.add_argument("--pyiqa-python", help="the Python of an environment with pyiqa")
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument(
        "--images", type=int, default=60, help="number of AGIQA-3K's images that are timed"
    )
    options = parser.parse_args()

    niqe, brisque = Niqe.load(), Brisque.load()
    raters: dict[str, Rater] = {
        classic.name: ImageFunctionRater(classic, workers=options.threads)
        for classic in (niqe, brisque)
    }
    sets = test_sets(options.data)
    rows = sets["AGIQA-3K"].rows
    step = max(1, len(rows) // options.images)
    images = [str(row.image) for row in rows[::step]][: options.images]
    parameters = vars(niqe.parameters) | vars(brisque.parameters)
    with pyiqa_process(options.pyiqa_python, options.threads, images, parameters) as other:
        speed, same = speeds(raters, images, other)
    agreements = {
        name: {
            method: measure(rater, manifest, PAPERS.get(name, {}).get(method))
            for method, rater in raters.items()
        }
        for name, manifest in sets.items()
    }
    result = {
        "weights": {name: rater.settings()["weights"] for name, rater in raters.items()},
        "threads": options.threads,
        "images": f"{len(images)} of AGIQA-3K, 512 × 512, opened from their files; the best of {ROUNDS} rounds in turn",
        "pyiqa": PARAMETERS if options.pyiqa_python else NO_PYIQA,
        "rows": speed,
        "niqe_with_pyiqas": same,
        "agreement": agreements,
    }
    if options.json:
        command = this_command(FOLDER=options.data, PYTHON=options.pyiqa_python)
        write_result(options.json, command, result)
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
