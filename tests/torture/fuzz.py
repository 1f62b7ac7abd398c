"""Attacks every reader with mutated input for some minutes and writes what happened as JSON.

    python tests/torture/fuzz.py --minutes 10 --json benchmarks/results/fuzz.json

The targets and what must hold are in targets.py. Each runs in a process of its own, with a bound on memory and on the
time of an example. Where atheris (coverage-guided, on libFuzzer) is installed half of the time is its, else all of it
goes to the plain mutation. An input that fails is kept in the folder --failures, and the exit status is 1.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src"), str(ROOT / "benchmarks")]

EXAMPLE_SECONDS = 10
MEMORY = 6 * 2**30
NAMES = (
    *("responses", "terminal", "cells", "exports", "manifests", "sheets", "parquet", "recipes"),
    *("journals", "scores", "datasets", "images"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="in all")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--failures", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--engine", choices=("mutation", "atheris"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)  # of one target
    given = parser.parse_args()
    given.failures.mkdir(parents=True, exist_ok=True)
    if given.engine == "mutation":
        return mutate(given.targets[0], given.seconds, given.seed, given.failures)
    if given.engine == "atheris":
        return guide(given.targets[0], given.seconds, given.seed, given.failures)
    engines = ["mutation"] + ["atheris"] * (find_spec("atheris") is not None)
    seconds = given.minutes * 60 / len(given.targets) / len(engines)
    rows = []
    for name in given.targets:
        for engine in engines:
            rows.append(attack(name, engine, seconds, given.seed, given.failures))
            row = rows[-1]
            print(
                f"{name:10} {engine:9} {row['examples']:9,} examples  {row['result']}", flush=True
            )
    failed = [row for row in rows if row["result"] != "held"]
    if given.json:
        figures = {
            "command": "python tests/torture/fuzz.py --minutes " + f"{given.minutes:g}",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
            "python": platform.python_version(),
            "seed": given.seed,
            "example_seconds": EXAMPLE_SECONDS,
            "examples": sum(row["examples"] for row in rows),
            "rows": rows,
        }
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failed else 0


def attack(name: str, engine: str, seconds: float, seed: int, failures: Path) -> dict:
    """One target under one engine, in a process of its own: how many examples it took, and how it ended."""
    command = [sys.executable, __file__, "--engine", engine, "--targets", name]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--failures", str(failures)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    printed = done.stdout + done.stderr
    counts = re.findall(r"(?:number_of_executed_units|examples): *(\d+)", printed)
    slowest = re.findall(r"slowest: *([\d.]+)", printed)
    result = "held"
    if done.returncode:
        lines = [line for line in printed.splitlines() if line.strip()]
        # Of a traceback the last line that names an error says most.
        told = [line for line in lines if re.search(r"^\w*(Error|Exception|Timeout)|ERROR:", line)]
        result = f"exit status {done.returncode}: {(told or lines or ['nothing was printed'])[-1]}"
    row = {"target": name, "engine": engine, "seconds": round(seconds, 1)}
    row |= {"examples": int(counts[-1]) if counts else 0, "result": result}
    if slowest:
        row["slowest_seconds"] = float(slowest[-1])
    return row


def mutate(name: str, seconds: float, seed: int, failures: Path) -> int:
    """Random changes of the target's seeds, and of random bytes, until the time is over."""
    from targets import SEEDS, TARGETS, mutated

    _bound()
    signal.signal(signal.SIGALRM, _too_slow)
    rng = random.Random(seed)
    end, examples, slowest = time.monotonic() + seconds, 0, 0.0
    while time.monotonic() < end:
        data = mutated(rng.choice(SEEDS[name]), rng)
        if examples % 50 == 49:
            data = rng.randbytes(rng.randrange(300))
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, EXAMPLE_SECONDS)
        try:
            TARGETS[name](data)
        except BaseException:
            (failures / f"{name}-{examples}").write_bytes(data)
            print(f"examples: {examples}", flush=True)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - started)
        examples += 1
    print(f"examples: {examples}\nslowest: {slowest:.2f}")
    return 0


def guide(name: str, seconds: float, seed: int, failures: Path) -> int:
    """atheris with the target's seeds: inputs that reach new lines of Python are changed further."""
    import atheris

    with atheris.instrument_imports(include=["visualquality", "PIL", "yaml", "csv", "json"]):
        from targets import SEEDS, TARGETS

    corpus = Path(tempfile.mkdtemp())
    for number, data in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-print_final_stats=1"]
    options += [f"-timeout={EXAMPLE_SECONDS}", f"-rss_limit_mb={MEMORY >> 20}"]
    options += [f"-artifact_prefix={failures}/{name}-", "-max_len=20000"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()  # ends the process
    return 0


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _too_slow(*_: object) -> None:
    # No Exception: a reader that turns every exception into a sentence must not hide it.
    raise SystemExit(f"Timeout: an example took more than {EXAMPLE_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
