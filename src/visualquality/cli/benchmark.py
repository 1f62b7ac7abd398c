"""benchmark: methods by data sets, in the layout of the paper's Table 2."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..terminal import shown
from .shared import clean_exit, err, out

if TYPE_CHECKING:
    from ..evaluate.suite import Method
    from ..score.rating import Rater


def benchmark(
    suite: Annotated[Path, typer.Argument(help="A YAML file of methods and data sets.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the tables; by default runs/SUITE."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of scores to continue from; by default OUTPUT.cache."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 8,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:N or mps; by default cuda where there is one."),
    ] = None,
) -> None:
    """Score data sets with several methods, and write Table 2 of the paper with your numbers.

    Writes table.md, table.tex, table.csv, table.html, results.json, and rerun.yaml, a suite with all that the numbers
    depend on: give that in place of SUITE to measure the same again. Scores are kept by the content of an image and the
    settings of a method: run again to continue. The exit status is 1 if a method or data set could not be measured.
    """
    with clean_exit("what is scored is kept: run the same command to continue"):
        from ..process import quiet_libraries, usable_device

        # Before the imports below, some of which print.
        quiet_libraries()
        from ..evaluate.benchmark import run
        from ..evaluate.render import terminal, write_all
        from ..evaluate.rerun import changed_versions, versions, write_rerun
        from ..evaluate.suite import read_suite

        # A wrong device would otherwise be the fault of every method.
        usable_device(device)
        wanted = read_suite(suite)
        folder = output or _default_folder(suite)
        if wanted.record and (changed := changed_versions(wanted.record, versions())):
            err.print(shown(f"not as recorded: {'; '.join(changed)}", style="yellow"))
        results = run(
            wanted,
            lambda method: _rater(method, batch, device),
            cache=cache or folder.with_name(f"{folder.name}.cache"),
            console=err,
        )
        table = write_all(results, folder)
        write_rerun(results, wanted, folder, {"batch": batch, "device": device})
        # A line that is too wide runs over the edge: wrapped, its columns would be lost.
        out.print(terminal(table), no_wrap=True, overflow="ignore", crop=False)
        for note in table.notes:
            out.print(shown(f"· {note}", style="dim"))
        err.print(shown(f"-> {folder}"))
        if missing := results.missing():
            for sentence in missing:
                err.print(shown(f"not measured: {sentence}", style="yellow"))
            raise typer.Exit(1)


def _default_folder(suite: Path) -> Path:
    from ..evaluate.rerun import FILE

    # The record of runs/NAME is measured again beside it, and does not replace it.
    name = f"{suite.resolve().parent.name}-again" if suite.name == FILE else suite.stem
    return Path("runs") / name


def _rater(method: "Method", batch: int, device: str | None) -> "Rater":
    from ..score.raters import make_rater

    assert method.model is not None
    defaults: dict[str, Any] = {}
    # An engine has a batch size and a device of its own.
    if method.engine == "here":
        defaults = {"device": device, "batch": batch}
    return make_rater(method.model, method.settings(**defaults))
