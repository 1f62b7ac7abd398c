"""merge: a LoRA adapter and its base become one model."""

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import shown_line
from .shared import clean_exit, err, out


def merge(
    run: Annotated[
        Path, typer.Argument(help="The folder of a LoRA run, or of a model with a LoRA adapter.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder for the whole model.")
    ],
) -> None:
    """Merge a LoRA adapter into its base model, for servers and other software.

    The result has all weights, in the number format of the base, and the processor.
    """
    with clean_exit("nothing was written"):
        from ..process import quiet_libraries

        quiet_libraries()
        from ..train.merge import merge as write_merged

        with err.status(f"merging {run}"):
            notes = write_merged(run, output)
        for note in notes:
            err.print(shown_line(note, style="yellow"), soft_wrap=True)
        out.print(shown_line(f"merged model: {output}"), soft_wrap=True)
