"""NIQE and BRISQUE: agreement with human scores, and speed side by side with pyiqa's.

    python benchmarks/baselines.py --data FOLDER --json benchmarks/results/baselines.json --pyiqa-python PYTHON

FOLDER holds agiqa3k/ (data.csv, images/) and biq2021/ (test.csv, images/). The shipped parameters have seen neither.
PYTHON is that of an environment with pyiqa 0.1.16; without it the speeds are ours alone, and the JSON says so.
Both open the same files in turn, with the same number of threads, three rounds; the best round of each counts, since
other work on the machine can only slow one down, and processor time is given beside wall time.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from visualquality.baselines.brisque import Brisque
from visualquality.baselines.niqe import Niqe
from visualquality.data.manifest import Manifest
from visualquality.evaluate.agreement import agreement
from visualquality.evaluate.coefficients import srcc
from visualquality.score.rating import Rater

ROUNDS = 3
PAPERS = {"AGIQA-3K": {"niqe": 0.533, "brisque": 0.497}}  # SRCC in Table 2 of VisualQuality-R1
OTHER = Path(__file__).with_name("baselines_pyiqa.py")
NO_PYIQA = "pyiqa was not timed: no --pyiqa-python was given"
PARAMETERS = (
    "pyiqa got our fitted numbers in its own file formats, since its own are downloaded; its NIQE then computes ours "
    "but for details of the edges, while its BRISQUE has other constants in its code: only its time is meaningful"
)


def test_sets(data: Path) -> dict[str, Manifest]:
    biq, agiqa = data / "biq2021", data / "agiqa3k"
    return {
        "AGIQA-3K": Manifest.read(
            agiqa / "data.csv",
            columns={"image": "name", "mos": "mos_quality"},
            images=agiqa / "images",
        ),
        "BIQ2021 test": Manifest.read(
            biq / "test.csv", columns={"image": "Image Name", "mos": "MOS"}, images=biq / "images"
        ),
    }


def measure(rater: Rater, manifest: Manifest, paper: float | None) -> dict[str, Any]:
    scores = [rating.score for rating in rater.rate([row.image for row in manifest.rows])]
    found = agreement(scores, [row.mos for row in manifest.rows]).to_dict()
    kept: dict[str, Any] = {
        key: found[key] for key in ("n", "n_unreadable", "srcc", "plcc", "plcc_logistic")
    }
    if paper is not None:
        kept |= {"paper_srcc": paper, "srcc_minus_paper": round(found["srcc"]["value"] - paper, 4)}
    return kept


def ours_once(rater: Rater, images: Sequence[str]) -> dict[str, Any]:
    list(rater.rate(images[:1]))
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
            rounds["ours"].append(ours_once(rater, images))
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
            row: dict[str, Any] = {
                "case": name.upper(),
                "ours": round(best["ours"], 1),
                "theirs": None,
                "unit": unit,
            }
            if "theirs" in best:
                row |= {
                    "theirs": round(best["theirs"], 1),
                    "ratio": round(best["ours"] / best["theirs"], 2),
                }
            rows.append(row)
        if name == "niqe" and rounds["theirs"]:
            pairs = [
                (a, -b)
                for a, b in zip(
                    rounds["ours"][0]["scores"], rounds["theirs"][0]["scores"], strict=True
                )
                if a is not None and b is not None and np.isfinite(b)
            ]
            a, b = np.array(pairs).T
            same = {
                "n": len(pairs),
                "srcc": srcc(a, b),
                "median_difference": float(np.median(np.abs(a - b))),
            }
    return rows, same


def machine() -> str:
    cpu = next(
        (x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")),
        platform.machine(),
    )
    return f"{os.cpu_count()} CPU cores ({cpu}), no GPU, {platform.system()}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def started(
    python: str | None, threads: int, images: Sequence[str], parameters: dict[str, Any]
) -> Iterator[subprocess.Popen[str] | None]:
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pyiqa-python")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--images", type=int, default=60, help="how many of AGIQA-3K's the speed is measured on"
    )
    options = parser.parse_args()

    niqe, brisque = Niqe(workers=options.threads), Brisque(workers=options.threads)
    raters: dict[str, Rater] = {"niqe": niqe, "brisque": brisque}
    sets = test_sets(options.data)
    rows = sets["AGIQA-3K"].rows
    step = max(1, len(rows) // options.images)
    images = [str(row.image) for row in rows[::step]][: options.images]
    parameters = vars(niqe.parameters) | vars(brisque.parameters)
    with started(options.pyiqa_python, options.threads, images, parameters) as other:
        speed, same = speeds(raters, images, other)
    agreements = {
        name: {
            method: measure(rater, manifest, PAPERS.get(name, {}).get(method))
            for method, rater in raters.items()
        }
        for name, manifest in sets.items()
    }
    shown = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for word, value in (
        ("FOLDER", str(options.data)),
        ("PYTHON", options.pyiqa_python),
        ("FILE", str(options.json)),
    ):
        shown = [word if part == value else part for part in shown]
    result = {
        "machine": machine(),
        "command": "python benchmarks/" + shlex.join(shown),
        "weights": {name: rater.settings()["weights"] for name, rater in raters.items()},
        "threads": options.threads,
        "images": f"{len(images)} of AGIQA-3K, 512 × 512, opened from their files; the best of {ROUNDS} rounds in turn",
        "pyiqa": PARAMETERS if options.pyiqa_python else NO_PYIQA,
        "rows": speed,
        "niqe_with_pyiqas": same,
        "agreement": agreements,
    }
    options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
