"""`visualquality data`: import, check, split and show rated images."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ..data.sources import SOURCES
from ..errors import UserError
from ..terminal import shown, shown_line
from .shared import clean_exit, err, out

if TYPE_CHECKING:
    from ..data.check import Check, DatasetSummary, Overlap
    from ..data.manifest import Manifest

app = typer.Typer(help="Import, check, split and show rated images.", no_args_is_help=True)

_LISTED = 10  # findings of a kind on the terminal; --json holds all
_LISTED_MEMBERS = 4  # images of a finding on the terminal
_FINDINGS = {"exact": "equal pixels", "near": "look alike", "reference": "one reference"}

# Below the help of `import`. Escaped, since brackets would be taken for markup.
_SOURCES = "\n\n".join(escape(f"{name}: {each.source}") for name, each in SOURCES.items())

ManifestPath = Annotated[
    Path, typer.Argument(help="A manifest: CSV or Parquet with image and mos.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The manifest to write: .csv or .parquet.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@app.command("import", epilog=_SOURCES)
def import_(
    name: Annotated[str, typer.Argument(help=f"{', '.join(SOURCES)}.", show_default=False)],
    root: Annotated[
        Path,
        typer.Argument(help="The data set's folder, or its file of ratings.", show_default=False),
    ],
    output: Output,
    split: Annotated[
        str | None, typer.Option(help="A split that comes with the set, such as authors.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Where a field is in the file: --columns image=Name --columns mos=Score."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, if not the set's own.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out images that are not there.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a data set in its official form and write its manifest."""
    with clean_exit():
        from ..data.row import std_notes
        from ..data.sources import import_dataset

        # Before the data set is read, which may take long.
        _writable(output, (".csv", ".parquet"), overwrite)
        pairs = _columns(columns or [])
        with err.status(f"reading {root}"):
            done = import_dataset(
                name,
                root,
                split=split,
                columns=pairs,
                images=images,
                missing="skip" if skip_missing else "error",
            )
            done.manifest.write(output)
        if done.missing:
            # Some names, so that the user sees which folder or suffix is wrong.
            first = ", ".join(done.missing[:3]) + (" …" if len(done.missing) > 3 else "")
            text = f"left out, since not there: {len(done.missing)} images ({first})"
            err.print(shown(text, style="yellow"))
        for note in std_notes(done.manifest.rows, SOURCES[name].mos_range):
            err.print(shown(f"warning: {note}", style="yellow"))
        _print_contents(done.manifest, output)


@app.command()
def check(
    manifests: Annotated[
        list[Path], typer.Argument(help="Manifests; they are compared with each other too.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name also images that this model cannot take."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all that was found to this file.")
    ] = None,
) -> None:
    """Open every image: sizes, broken files, duplicates, and leaks between splits and manifests.

    The exit status is 1 if any image is unreadable, too much for --model, duplicated or leaked.
    """
    with clean_exit():
        from ..data.check import check as check_images
        from ..data.manifest import Manifest
        from ..io import write_text

        # Before the images are opened, which may take long.
        if json_file is not None and not json_file.absolute().parent.is_dir():
            raise UserError(
                f"{json_file.parent} is not a folder: make it, or write --json elsewhere"
            )
        # Unreadable images are findings here, not errors.
        read = {str(path): Manifest.read(path, check_images=False) for path in manifests}
        limits = {}
        if model is not None:
            from ..models.limits import size_refusal
            from ..process import quiet_libraries

            quiet_libraries()
            limits["refusal"] = size_refusal(model)
        found = check_images(read, **limits, console=err)
        if json_file is not None:
            text = json.dumps(found.to_dict(), ensure_ascii=False, indent=1)
            write_text(json_file, text + "\n")
        out.print(_report(found))
        if not found.clean:
            raise typer.Exit(1)


@app.command()
def split(
    manifest: ManifestPath,
    output: Output,
    ratios: Annotated[str, typer.Option(help="Of train, val and test.")] = "6:2:2",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Split at random into train, val and test, all images of one reference together."""
    with clean_exit():
        from ..data.manifest import Manifest
        from ..data.split import split as split_rows

        _writable(output, (".csv", ".parquet"), overwrite)
        # The images themselves do not matter to a split.
        done = split_rows(
            Manifest.read(manifest, check_images=False), ratios=_ratios(ratios), seed=seed
        )
        done.write(output)
        _print_contents(done, output)


@app.command()
def show(
    manifest: ManifestPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The sheet to write: .png or .jpg.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Images of each data set.")] = 24,
    overwrite: Overwrite = False,
) -> None:
    """Draw a contact sheet: images from the worst MOS to the best, of each data set."""
    with clean_exit():
        from ..data.manifest import Manifest
        from ..data.sheet import contact_sheet

        _writable(output, (".png", ".jpg", ".jpeg"), overwrite)
        with err.status(f"drawing {output}"):
            contact_sheet(Manifest.read(manifest, check_images=False), output, count=count)
        err.print(shown(f"contact sheet -> {output}"))


def _writable(output: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse what could not be written, before any work is done."""
    if output.suffix.lower() not in suffixes:
        raise UserError(f"{output} must end in {' or '.join(suffixes)}")
    if output.is_dir():
        # Also where --overwrite is given.
        raise UserError(f"{output} is a folder: give the name of a file")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: give another name, or --overwrite to replace it")


def _columns(texts: list[str]) -> dict[str, str]:
    """Texts of the form ours=theirs."""
    columns = {}
    for text in texts:
        ours, _, theirs = text.partition("=")
        if not (ours and theirs):
            form = "write it like --columns 'mos=Mean Score'"
            raise UserError(f"--columns {text!r} is not of the form ours=theirs: {form}")
        columns[ours] = theirs
    return columns


def _ratios(text: str) -> tuple[float, ...]:
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 <= part < float("inf") for part in parts) or not sum(parts):
        form = "write them like 6:2:2"
        raise UserError(f"--ratios {text!r} are not three numbers of at least 0: {form}")
    # Any three numbers will do, since only their proportions count.
    return tuple(part / sum(parts) for part in parts)


def _print_contents(manifest: "Manifest", output: Path) -> None:
    table = Table("data set", "rows", "references", "splits", "MOS")
    for name in manifest.datasets:
        rows = [row for row in manifest.rows if row.dataset == name]
        mos = [row.mos for row in rows]
        references = {row.reference for row in rows if row.reference}
        splits = _splits(Counter(row.split or "" for row in rows))
        span = f"{min(mos):g} to {max(mos):g}"
        table.add_row(shown_line(name), str(len(rows)), str(len(references) or "-"), splits, span)
    out.print(table)
    err.print(shown(f"{len(manifest)} rows -> {output}"))


def _splits(counts: Mapping[str, int]) -> str:
    # In this order, whatever the order of the rows.
    names = {"train": "train", "val": "val", "test": "test", "": "without"}
    parts = [f"{name} {counts[split]}" for split, name in names.items() if counts.get(split)]
    # Rows without a split are counted only where others have one.
    return "-" if set(counts) <= {""} else ", ".join(parts)


def _report(found: "Check") -> Group:
    parts: list[RenderableType] = [_summary(summary) for summary in found.datasets]
    parts += [shown(f"warning: {note}", style="yellow") for note in found.notes]
    for broken in found.broken[:_LISTED]:
        parts.append(shown(f"broken: {broken.problem}", style="red"))
    if len(found.broken) > _LISTED:
        parts.append(f"and {len(found.broken) - _LISTED} more broken: --json lists all")
    leaks = [overlap for overlap in found.overlaps if overlap.leak]
    others = [overlap for overlap in found.overlaps if not overlap.leak]
    # Where only one manifest was checked, its name says nothing.
    several = len({summary.manifest for summary in found.datasets}) > 1
    sections = {"Leaks, content in several splits or manifests": leaks, "Duplicates": others}
    for title, overlaps in sections.items():
        if overlaps:
            title = f"{title}: {len(overlaps)}"
            parts.append(_overlaps(title, overlaps[:_LISTED], show_manifest=several))
        if len(overlaps) > _LISTED:
            parts.append(f"and {len(overlaps) - _LISTED} more: --json lists all")
    counts = f"broken images: {len(found.broken)}, leaks: {len(leaks)}"
    verdict = f"{counts}, duplicates beside them: {len(others)}"
    parts.append(shown(verdict, style="green" if found.clean else "yellow"))
    return Group(*parts)


def _summary(summary: "DatasetSummary") -> Table:
    # Four digits tell scales of 0 to 1 and of 0 to 100 apart alike.
    low, *quartiles, high = (f"{value:.4g}" for value in summary.mos)
    facts = {
        "images": str(summary.images),
        "splits": _splits(summary.splits),
        "references": str(summary.references or "-"),
        "MOS": f"{low} to {high}, quartiles {', '.join(quartiles)}",
    }
    for name in ("width", "height", "megapixels"):
        sizes = getattr(summary, name)
        # None where no image could be opened.
        if sizes is not None:
            facts[name] = f"{sizes[0]:.4g} to {sizes[2]:.4g}, median {sizes[1]:.4g}"
    kinds = [f"{kind} {count}" for kind, count in summary.kinds.items()]
    facts["stored as"] = ", ".join(kinds) or "-"
    title = shown_line(f"{summary.dataset} ({summary.manifest})")
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in facts.items():
        table.add_row(name, shown(text))
    return table


def _overlaps(title: str, overlaps: "Sequence[Overlap]", *, show_manifest: bool) -> Table:
    from ..data.find import common_folder, relative_path

    images = [member.image for overlap in overlaps for member in overlap.members]
    folder = common_folder([os.path.dirname(image) for image in images])
    table = Table(title=f"{title}, in {folder}", title_justify="left")
    # Folded, since the end of a cut name would be what differs.
    table.add_column("what")
    table.add_column("image", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column("MOS", justify="right")
    for overlap in overlaps:
        what = _FINDINGS[overlap.kind]
        if overlap.kind == "near":
            what += f" ({overlap.bits} of 256 bits)"
        # One member of each place first, so that a leak's two sides are seen although the list is cut.
        firsts = {(m.manifest, m.split): m for m in reversed(overlap.members)}
        members = sorted(firsts.values())
        members += [member for member in overlap.members if member not in members]
        for member in members[:_LISTED_MEMBERS]:
            where = f"{member.manifest} {member.split}" if show_manifest else member.split
            image = shown_line(relative_path(member.image, folder))
            table.add_row(what, image, shown_line(where.strip()), f"{member.mos:.4g}")
            what = ""  # on the first line of a finding only
        if len(members) > _LISTED_MEMBERS:
            table.add_row("", f"and {len(members) - _LISTED_MEMBERS} more", "", "")
        table.add_section()
    return table
