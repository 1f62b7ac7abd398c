"""train: RL2R or supervised training by a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from .shared import clean_exit, err, out


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: --set optimizer.steps=100.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")
    ] = False,
) -> None:
    """Train a model on rated images, by RL2R or supervised."""
    with clean_exit("add --resume to continue from the last checkpoint"):
        from ..process import quiet_libraries

        quiet_libraries()
        from ..train.recipe import read_recipe

        read = read_recipe(recipe, tuple(override or ()), output)
        # Imported only where it is needed: PyTorch and TRL take seconds, and a wrong recipe is known before.
        if dry_run:
            from ..train.examples import read_examples
            from ..train.plan import plan, plan_table

            out.print(plan_table(read, plan(read, read_examples(read))))
            return
        from ..train.run import is_main
        from ..train.run import train as run

        final = run(read, resume=resume, console=err)
        # Of several processes, the first one reports.
        if is_main():
            out.print(f"trained model: {final}")
            photo = "PHOTO --reference IMAGE" if read.reference else "PHOTO"
            out.print(f"score with it: visualquality score --model {final} {photo}")
