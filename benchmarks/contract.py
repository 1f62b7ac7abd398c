"""The tests that touch transformers' interfaces, on the lowest and the highest version that pyproject.toml allows.

    make contract      # builds .venv-contract, runs this, writes results/contract.json

Run by the Python of an environment that may be changed: each version is installed into it. The tests are those of
loading, prompts, drawing, digits and scoring, and the contract tests of what is overridden in the trainers.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from common import this_command, write_result

ROOT = Path(__file__).parents[1]
TESTS = (
    *("tests/models", "tests/score/test_scorer.py", "tests/rl2r/test_objective.py"),
    *("tests/train/test_packed.py", "tests/train/test_trainer.py"),
    "tests/train/test_hostile_checkpoint.py",
)
PACKAGES = ("transformers", "trl", "peft", "accelerate", "tokenizers", "torch")


def allowed() -> tuple[str, str]:
    """The lowest version of transformers that is allowed, and the first that is too high."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [one for one in project["dependencies"] if one.startswith("transformers")]
    found = re.fullmatch(r"transformers>=([\d.]+),<([\d.]+)", wanted)
    assert found, wanted
    return found[1], found[2]


def run_with(wanted: str) -> dict[str, Any]:
    """The outcome of the tests with the version of transformers that pip finds for `wanted`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", wanted], check=True)
    code = f"from importlib.metadata import version as v; print(*map(v, {PACKAGES}))"
    installed = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    done = subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=ROOT, check=False)
    return {
        "versions": dict(zip(PACKAGES, installed, strict=True)),
        "exit status": done.returncode,  # pytest's: 0 where all tests passed
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, required=True)
    args = options.parse_args()
    low, too_high = allowed()
    rows = []
    for wanted in (f"transformers<{too_high}", f"transformers=={low}"):
        rows.append(run_with(wanted))
        write_result(args.json, this_command(), {"tests": TESTS, "rows": rows})
    print(json.dumps(rows, indent=1))
    sys.exit(max(row["exit status"] for row in rows))


if __name__ == "__main__":
    main()
