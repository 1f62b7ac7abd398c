"""report: one HTML page about a training run or a file of results."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..process import quiet_matplotlib
from .shared import Split, clean_exit, err, out


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_RESULTS",
            help="A run's folder, or what score or evaluate wrote with -o.",
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Manifests with the ratings of the images of the results."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further manifests.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    split: Split = None,
) -> None:
    """Write one self-contained HTML page about a training run, or about results and their agreement with people."""
    with clean_exit():
        manifests = [*(data or []), *(more or [])]
        if output.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"{output} must end in .html: give -o such a name")
        if split is not None and not manifests:
            raise UserError("--split picks rows of manifests: give --data as well")
        if source.is_dir() and manifests:
            raise UserError(
                f"{source} is a folder, and --data belongs to a file of results: leave --data out"
            )
        quiet_matplotlib()
        with err.status(f"writing {output}"):
            # A run is a folder, results are a file. Imported here, because matplotlib takes seconds.
            if source.is_dir():
                from ..evaluate.run_page import report_run

                report_run(source, output, console=err)
            else:
                from ..evaluate.results_page import report_results

                report_results(source, output, manifests=manifests, split=split)
        out.print(f"report: {output}", soft_wrap=True)
