"""train: RL2R or supervised training by a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import shown
from .shared import clean_exit, err, out

if TYPE_CHECKING:
    from ..train.recipe import Recipe


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe in YAML; with --resume also the folder of a run.")
    ],
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
        bool,
        typer.Option("--dry-run", help="Check all images, print the plan and its cost, and stop."),
    ] = False,
) -> None:
    """Train a model on rated images, by RL2R or supervised.

    Ctrl-C and SIGTERM end it after the step in progress, with a checkpoint; the exit status is then 128 + the signal.
    """
    with clean_exit("nothing was trained"):
        from ..process import is_main, quiet_libraries

        quiet_libraries()
        from ..train.recipe import RECIPE, read_recipe

        if resume and recipe.is_dir():
            # The folder has the recipe with all that was set on the command line.
            output, recipe = output or recipe, recipe / RECIPE
        read = read_recipe(recipe, tuple(override or ()), output)
        # Imported only where it is needed: PyTorch and TRL take seconds, and a wrong recipe is known before.
        if dry_run:
            _plan(read)
            return
        from ..train.run import train as run
        from ..train.stops import Stopped
        from ..train.weights import BEST, best_of, kept_weights

        try:
            final = run(read, resume=resume, console=err)
        except Stopped as stop:
            if is_main():
                err.print(shown(str(stop)), soft_wrap=True)
            raise typer.Exit(stop.status) from None
        # Of several processes, the first one reports.
        if is_main():
            out.print(f"trained model: {final}")
            if (best := best_of(kept_weights(read.output))) is not None:
                measured = f"{best.metric} {best.value:.3f} at step {best.step}"
                out.print(f"best by validation ({measured}): {read.output / BEST}")
            photo = "PHOTO --reference IMAGE" if read.reference else "PHOTO"
            out.print(f"score with it: visualquality score --model {final} {photo}")


def _plan(recipe: "Recipe") -> None:
    from ..train.faults import usable_examples
    from ..train.plan import known_refusal, plan, plan_table

    usable = usable_examples(recipe, known_refusal(recipe, err), console=err)
    out.print(plan_table(recipe, plan(recipe, usable.examples)))
