"""The weights that validation keeps in the folder of a run, each of which loads like any model.

`weights-STEP` are those of a validated step, with what was measured in `validation.json`. `best` is the best of them:
hard links where the disk has them, so that it takes no room, else copies.

Weights are dropped only after a checkpoint is written. So whatever checkpoint a run goes on from, the weights that
were the best at its step are there.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..io import write_text
from ..parsing import parse_json

BEST = "best"
MEASURED = "validation.json"


class Kept(NamedTuple):
    """Weights of a step. `value`: the metric of their validation, None where they cannot be the best."""

    step: int
    metric: str
    value: float | None


def write_measured(folder: Path, kept: Kept, found: dict[str, float]) -> None:
    """Write what a validation found into the folder of its weights."""
    write_text(folder / MEASURED, json.dumps({**kept._asdict(), **found}) + "\n")


def read_measured(folder: Path) -> Kept | None:
    """What stands in a folder of weights; None where it is not there, or not as `write_measured` wrote it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        record = parse_json((folder / MEASURED).read_bytes())
        return Kept(int(record["step"]), str(record["metric"]), record["value"])
    return None


def kept_weights(output: Path) -> list[Kept]:
    """The weights in the folder of a run, in the order of their steps."""
    found = (read_measured(folder) for folder in output.glob("weights-*"))
    return sorted(each for each in found if each is not None)


def best_of(kept: list[Kept]) -> Kept | None:
    """The best weights: of equal ones the first. None where no weights can be the best.

    >>> best_of([Kept(2, "srcc", None), Kept(4, "srcc", 0.5), Kept(6, "srcc", 0.5)])
    Kept(step=4, metric='srcc', value=0.5)
    """
    valued = [(each.value, -each.step, each) for each in kept if each.value is not None]
    return max(valued)[2] if valued else None


def is_kept(new: Kept, before: list[Kept], keep: str) -> bool:
    """Whether weights that were just validated are to be written, by `keep` of the recipe's section validate."""
    return keep != "best" or best_of([*before, new]) == new


def drop_weights(output: Path, keep: str) -> None:
    """Delete the weights that `keep` does not ask for; the best ones stay in any case."""
    kept = kept_weights(output)
    stay = {each.step for each in kept} if keep == "all" else set()
    if keep.startswith("last "):
        stay = {each.step for each in kept[-int(keep.removeprefix("last ")) :]}
    best = best_of(kept)
    for each in kept:
        if each.step not in stay and each != best:
            shutil.rmtree(output / f"weights-{each.step}")


def go_back(output: Path, step: int) -> None:
    """Delete the weights of the steps after `step`, which the run will do again."""
    for each in kept_weights(output):
        if each.step > step:
            shutil.rmtree(output / f"weights-{each.step}")
    point_to_best(output)


def point_to_best(output: Path) -> None:
    """Make `best` the best weights that are kept; without any there is no `best`."""
    target, part = output / BEST, output / f".{BEST}"
    best = best_of(kept_weights(output))
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    if best is not None:
        shutil.copytree(output / f"weights-{best.step}", part, copy_function=_link)
    shutil.rmtree(target, ignore_errors=True)
    if best is not None:
        os.replace(part, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)
