"""Golden files: what a version of the package does, written down, so that a later version can be compared with it.

    python tests/golden/golden.py models GOLD/models --package OLD/src     once, with the older version
    python tests/golden/golden.py make GOLD/old --package OLD/src
    python tests/golden/golden.py make GOLD/new
    python tests/golden/golden.py compare GOLD/old GOLD/new

`--package` is a folder that holds `visualquality`, by default this repository's `src`. `make ... --only ratings,data`
makes some of the parts: ratings, training, evaluation, data, options. Of the package only the command line and its
public names are used, so this script runs against any version. Models and data sets in their official forms are made
once, since what makes them imports more; `make` looks for them in `models` beside its folder (or `--models`).

What a folder holds is compared to the bit. Left out are times (seconds, dates) and the number of resamples in which
the logistic fit fails, which is not the same each time; the interval of that coefficient may then differ too.
Numbers depend on the processor and on the versions of PyTorch and NumPy: make both folders on one machine.

    python tests/golden/golden.py unit --package OLD/src                   writes golden.json for test_golden.py
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from golden_compare import compare
from golden_inputs import (
    write_images,
    write_manifests,
    write_suites,
)
from golden_parts import PARTS, Golden
from golden_unit import facts
from golden_worker import ENVIRONMENT, Worker

TESTS = Path(__file__).resolve().parents[1]
UNIT_FILE = Path(__file__).with_name("golden.json")


def make(folder: Path, package: Path, models: Path, only: list[str]) -> None:
    if not (models / "sources").is_dir():
        sys.exit(f"no models in {models}: make them with `golden.py models {models}`")
    shutil.rmtree(folder / "inputs", ignore_errors=True)
    inputs = folder / "inputs"
    write_images(inputs)
    write_manifests(inputs)
    write_suites(inputs)
    # Images that are there twice, and leak from one manifest to another.
    (inputs / "copies.csv").write_text(
        "image,mos,split\nrated/lab0.png,3,train\nimages/chelsea.png,4,train\n"
        "images/photo.webp,4,test\nimages/compressed.jpg,2,val\nimages/broken-half.png,1,val\n"
    )
    with Worker(package) as worker:
        golden = Golden(folder, models, worker)
        for part in only:
            for kind in ("work", "golden"):
                shutil.rmtree(folder / kind / part, ignore_errors=True)
            golden.part = part
            started = time.monotonic()
            PARTS[part](golden)
            golden.finish()
            print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)


def make_models(folder: Path, package: Path) -> None:
    folder.mkdir(parents=True)
    paths = os.pathsep.join(map(str, (package.resolve(), TESTS)))
    subprocess.run(
        [sys.executable, TESTS / "golden" / "golden_inputs.py", folder.resolve()],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
        check=True,
    )


def write_unit(package: Path) -> None:
    sys.path[:0] = [str(package.resolve()), str(TESTS)]
    with tempfile.TemporaryDirectory() as folder:
        found = facts(Path(folder).resolve())
    UNIT_FILE.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    source = TESTS.parent / "src"
    for name in ("make", "models", "unit"):
        command = commands.add_parser(name)
        command.add_argument("--package", type=Path, default=source)
        if name != "unit":
            command.add_argument("folder", type=Path)
        if name == "make":
            command.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
            command.add_argument("--models", type=Path, help="by default beside the folder")
    command = commands.add_parser("compare")
    command.add_argument("old", type=Path)
    command.add_argument("new", type=Path)
    command.add_argument("--limit", type=int, default=10, help="differences shown of a file")
    given = parser.parse_args()
    if given.command == "make":
        models = given.models or given.folder.resolve().parent / "models"
        make(given.folder, given.package, models, given.only.split(","))
    elif given.command == "models":
        make_models(given.folder, given.package)
    elif given.command == "unit":
        write_unit(given.package)
    else:
        sys.exit(compare(given.old / "golden", given.new / "golden", given.limit))


if __name__ == "__main__":
    main()
