"""How the nano models and the benchmarks are measured: the two human-rated sets, agreement with MOS, result files.

benchmarks/ imports this module; nothing here imports benchmarks/.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visualquality.data.manifest import Manifest, Row
from visualquality.evaluate.agreement import agreement
from visualquality.io import write_text
from visualquality.score.rating import Rating

ROOT = Path(__file__).parents[2]

# The sets. FOLDER holds biq2021/ (train.csv, test.csv, images/) and agiqa3k/ (data.csv, images/).


def train_set(folder: Path) -> Manifest:
    """BIQ2021's train part with its human MOS, 0 to 1."""
    return _biq2021(folder, "train")


def test_sets(folder: Path) -> dict[str, Manifest]:
    """BIQ2021's test part and AGIQA-3K (human MOS, 0 to 1 and 0 to 5), by their names in results."""
    agiqa3k = Manifest.read(
        folder / "agiqa3k" / "data.csv",
        columns={"image": "name", "mos": "mos_quality"},
        images=folder / "agiqa3k" / "images",
    )
    return {"BIQ2021 test": _biq2021(folder, "test"), "AGIQA-3K": agiqa3k}


def _biq2021(folder: Path, part: str) -> Manifest:
    return Manifest.read(
        folder / "biq2021" / f"{part}.csv",
        columns={"image": "Image Name", "mos": "MOS"},
        images=folder / "biq2021" / "images",
    )


def file_stem(test: str) -> str:
    """A test set's name as part of a file name: "BIQ2021 test" gives "biq2021"."""
    return test.split()[0].lower()


# Agreement


def summary(rows: Sequence[Row], ratings: Sequence[Rating]) -> dict[str, Any]:
    """SRCC and PLCC with the MOS, the mean std over images, and the share of readable answers.

    `n` counts all images. `readable` is 1 where no answer was drawn, as in the mode `expect`.
    """
    found = agreement([r.score for r in ratings], [row.mos for row in rows])
    # None stands for an answer that could not be read.
    samples = [s for r in ratings for s in r.samples]
    return {
        "n": found.n + found.n_unreadable,
        "srcc": found.srcc.to_dict(),
        "plcc": found.plcc.to_dict(),
        "plcc_logistic": found.plcc_logistic.to_dict(),
        "std": float(np.mean([r.std for r in ratings if r.std is not None])),
        "readable": sum(s is not None for s in samples) / len(samples) if samples else 1.0,
    }


# Result files


def machine(device: str = "cpu") -> str:
    """The machine in words, without its name: cores, CPU, GPU, system, versions, threads."""
    cpu = platform.processor() or platform.machine()
    for line in lines_of("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else "no GPU"
    threads = torch.get_num_threads()
    return (
        f"{os.cpu_count()} CPU cores ({cpu}), {gpu}, {platform.system()}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"{threads} thread{'s' if threads > 1 else ''}"
    )


def lines_of(path: str) -> list[str]:
    """The lines of a file of the system; none where the system has no such file."""
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def this_command(**words: object) -> str:
    """The running command as a result file names it.

    `words` gives placeholders for values of this machine, `FOLDER=args.data` for instance. Other absolute paths are
    cut to their last part.
    """
    # Nobody else has this machine's folders, and their names may be private.
    placeholders = {str(value): word for word, value in words.items()}
    parts = ["python", Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()]
    for argument in sys.argv[1:]:
        short = Path(argument).name if os.path.isabs(argument) else argument
        parts.append(placeholders.get(argument, short))
    return shlex.join(parts)


def write_result(path: Path, command: str, result: dict[str, Any], device: str = "cpu") -> None:
    """Write `{"machine", "command", **result}` as JSON, whole or not at all."""
    described = {"machine": machine(device), "command": command, **result}
    write_text(path, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
