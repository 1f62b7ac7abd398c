"""The folder of a run: whose it is, its checkpoints, and logs that fit the checkpoint that it goes on from."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

import yaml

from ..errors import UserError
from ..io import read_yaml, validated, write_text
from ..parsing import parse_json
from .logs import cut_back
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
    if (output / "metrics.jsonl").exists() or last_checkpoint(output) or (output / FINAL).exists():
        raise UserError(
            f"{output} already holds a run: continue it with --resume, or give another --output"
        )
    write_text(record, yaml.safe_dump(resolved, sort_keys=False))
    return None


def cut_logs_back(output: Path, checkpoint: Path | None) -> None:
    """Drop the lines of the steps after `checkpoint`, which the run will write again."""
    done = checkpoint_step(checkpoint) if checkpoint else 0
    # Probes are scored before a step, under the number of steps done; the other files are written after it.
    for name, last in (("metrics", done), ("samples", done), ("probes", done - 1)):
        cut_back(output / f"{name}.jsonl", last)


def resume_command(recipe: Recipe) -> str:
    """What to type to go on with the run."""
    launcher = ""
    if recipe.devices > 1:
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        each = recipe.devices // nodes
        launcher = f"torchrun --nproc_per_node {each} -m "
    return f"{launcher}visualquality train --resume {shlex.quote(str(recipe.output))}"
