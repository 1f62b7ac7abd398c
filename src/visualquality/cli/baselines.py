"""baselines fit: parameters of NIQE and BRISQUE from one's own images."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .shared import Split, clean_exit, err, out, say_skipped

if TYPE_CHECKING:
    from ..data.manifest import Manifest

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
    split: Split = None,
) -> None:
    """Fit NIQE's model of pristine photos, or BRISQUE's regression of MOS."""
    with clean_exit("nothing was written"):
        from ..classics.brisque import fit_brisque
        from ..classics.niqe import fit_niqe
        from ..data.find import search

        # Refused here too, before minutes of fitting.
        if output.suffix != ".npz":
            raise UserError(f"{output} must end in .npz: give the fitted parameters such a name")
        if method is Method.BRISQUE:
            manifest = _manifest(data, split)
            metric, srcc = fit_brisque(manifest, console=err)
            metric.save(output)
            count = len(metric.vectors)
            out.print(f"BRISQUE: {count} support vectors of {len(manifest)} images in {output}")
            out.print(f"SRCC {srcc:.3f} on these images, cross-validated")
            return
        manifests = [path for path in data if path.suffix.lower() in (".csv", ".parquet")]
        folders = [path for path in data if path not in manifests]
        if split is not None and folders:
            raise UserError(f"{folders[0]} is no manifest and has no splits: leave --split out")
        images = []
        if folders:
            found = search(folders)
            say_skipped(found)
            images = found.images
        if manifests:
            images += [row.image for row in _manifest(manifests, split).rows]
        fit_niqe(images, console=err).save(output)
        out.print(f"NIQE: pristine model of {len(images)} images in {output}")


def _manifest(paths: list[Path], split: str | None) -> "Manifest":
    from ..data.manifest import read_manifests

    manifest = read_manifests(paths)
    return manifest.subset(split) if split else manifest
