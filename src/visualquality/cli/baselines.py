"""baselines fit: parameters of NIQE and BRISQUE from one's own images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .shared import err, errors, out

app = typer.Typer(no_args_is_help=True, help="The classic baselines, NIQE and BRISQUE.")


class Method(StrEnum):
    NIQE = "niqe"
    BRISQUE = "brisque"


@app.callback()
def _group() -> None:
    """Keeps `fit` a word of its own while it is the only command."""


@app.command()
def fit(
    method: Annotated[
        Method,
        typer.Argument(help="niqe: pristine photos. brisque: images with MOS of one data set."),
    ],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="A manifest (CSV or Parquet); for niqe also a folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    split: Annotated[
        str | None, typer.Option(help="Only rows of this split: train, val or test.")
    ] = None,
) -> None:
    """Fit NIQE's model of pristine photos, or BRISQUE's regression of MOS."""
    with errors("nothing was written"):
        if output.suffix != ".npz":
            raise UserError(f"{output} must end in .npz: give the fitted parameters such a name")
        (_fit_niqe if method is Method.NIQE else _fit_brisque)(data, output, split)


def _fit_niqe(data: list[Path], output: Path, split: str | None) -> None:
    from ..baselines.niqe import fit_niqe
    from ..data.find import find_images
    from ..data.manifest import read_manifests

    manifests = [path for path in data if path.suffix.lower() in (".csv", ".parquet")]
    others = [path for path in data if path not in manifests]
    if split is not None and others:
        raise UserError(f"{others[0]} is no manifest and has no splits: leave --split out")
    images = find_images(others) if others else []
    if manifests:
        manifest = read_manifests(manifests)
        images += [row.image for row in (manifest.subset(split) if split else manifest).rows]
    with _progress() as progress:
        fit_niqe(images, progress=progress).save(output)
    out.print(f"NIQE: pristine model of {len(images)} images in {output}")


def _fit_brisque(data: list[Path], output: Path, split: str | None) -> None:
    from ..baselines.brisque import fit_brisque
    from ..data.manifest import read_manifests

    manifest = read_manifests(data)
    if split:
        manifest = manifest.subset(split)
    with _progress() as progress:
        parameters, srcc = fit_brisque(manifest, progress=progress)
    parameters.save(output)
    out.print(
        f"BRISQUE: {len(parameters.vectors)} support vectors of {len(manifest)} images in {output}"
    )
    out.print(f"SRCC {srcc:.3f} on these images, cross-validated")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        tasks: dict[str, TaskID] = {}  # by stage

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate="")
            speed = bar.tasks[tasks[stage]].speed
            bar.update(tasks[stage], completed=done, rate=f"{speed:.1f}/s" if speed else "")

        yield advance
