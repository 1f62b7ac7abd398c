"""The folder of a run: whose it is, its checkpoints, and logs that fit the checkpoint that it goes on from."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.console import Console

from ..errors import UserError
from ..io import read_yaml, validated, write_text
from ..parsing import parse_json
from ..process import first_decides, is_main, seen_by_all
from .faults import Fault, read_left_out
from .launch import launcher
from .logs import METRICS, cut_back
from .recipe import RECIPE, Recipe

FINAL = "final"
# What does not change the weights may differ between a run and its resumption.
FREE = ("checkpoint_every", "keep_checkpoints", "report_to")


def checkpoint_step(checkpoint: Path) -> int:
    """The number of steps that were done when a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    # Checkpoints get their name when they are complete. Older versions wrote them in place, the trainer's state last:
    # one without it, or with a part of it, was interrupted.
    found = []
    for path in output.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError):
            parse_json(path.read_bytes())
            found.append(path.parent)
    return max(found, key=checkpoint_step, default=None)


class Start(NamedTuple):
    """Where a run begins: at a checkpoint, and then with the images left out that it left out before; or anew."""

    checkpoint: Path | None
    left_out: list[Fault] | None


def where_to_start(recipe: Recipe, resume: bool, console: Console) -> Start:
    """Make the recipe's output this run's, and find the checkpoint to go on from: the same on every process.

    The first process decides, as the others may see another disk. `console` warns where they do. Raises UserError on
    all of them where the output is another run's, or where a process does not see the checkpoint: it would begin anew
    while the others go on.
    """
    name, left_out = first_decides(lambda: _decide(recipe, resume))
    seen = seen_by_all((recipe.output / RECIPE).is_file())
    if not all(seen):
        if not (recipe.output / RECIPE).is_file():
            _write_record(recipe)  # so that --resume finds the recipe there, too
        if is_main():
            console.print(
                f"process {seen.index(False)} does not see {recipe.output} of the first process: checkpoints are whole "
                "only where all machines share the disk of the output",
                style="yellow",
                soft_wrap=True,
                markup=False,
            )
    if name is None:
        return Start(None, None)
    checkpoint = recipe.output / name
    seen = seen_by_all(checkpoint.is_dir())
    if not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see the checkpoint {checkpoint} of the first process: put the "
            "output on a disk that all machines share, or copy the folder to each"
        )
    return Start(checkpoint, left_out)


def _decide(recipe: Recipe, resume: bool) -> tuple[str | None, list[Fault] | None]:
    """`where_to_start` on the first process, with the checkpoint's name, since its folder is another elsewhere."""
    checkpoint = claim(recipe, resume)
    if checkpoint is None:
        return None, None
    return checkpoint.name, read_left_out(recipe.output / METRICS)


def _write_record(recipe: Recipe) -> None:
    resolved = recipe.model_dump(mode="json", exclude={"output"})
    write_text(recipe.output / RECIPE, yaml.safe_dump(resolved, sort_keys=False))


def claim(recipe: Recipe, resume: bool) -> Path | None:
    """Make `output` this run's: its recipe is written there, or is the one that stands there already.

    Returns the last checkpoint, if there is one. Raises UserError where `output` is another run's.
    """
    output = recipe.output
    resolved = recipe.model_dump(mode="json", exclude={"output"})
    record = output / RECIPE
    if resume:
        if not record.is_file():
            raise UserError(f"nothing to resume: {output} holds no run")
        # Read as a recipe: fields that an older version did not have get what they mean where nothing is said.
        tree = {**read_yaml(record, "recipe"), "output": output}
        before = validated(Recipe, tree, record, "recipe").model_dump(mode="json")
        changed = [key for key in resolved if key not in FREE and before[key] != resolved[key]]
        if changed:
            raise UserError(
                f"the run in {output} had other settings ({', '.join(changed)}): resume with the same recipe"
            )
        return last_checkpoint(output)
    if (output / METRICS).exists() or last_checkpoint(output) or (output / FINAL).exists():
        raise UserError(
            f"{output} already holds a run: continue it with --resume, or give another --output"
        )
    _write_record(recipe)
    return None


def cut_logs_back(output: Path, checkpoint: Path | None) -> None:
    """Drop the lines of the steps after `checkpoint`, which the run will write again."""
    done = checkpoint_step(checkpoint) if checkpoint else 0
    # Probes are scored before a step, under the number of steps done; the other files are written after it.
    for name, last in (("metrics", done), ("samples", done), ("probes", done - 1)):
        cut_back(output / f"{name}.jsonl", last)


def resume_command(recipe: Recipe) -> str:
    """What to type to go on with the run."""
    return f"{launcher(recipe)}visualquality train --resume {shlex.quote(str(recipe.output))}"
