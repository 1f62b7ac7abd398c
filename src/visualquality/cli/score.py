"""score, compare and rank: what people run on their photos."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from ..terminal import shown, shown_line, visible_line
from .shared import TrustNames, check_trust_names, clean_exit, err, kept_in, out, rates, say_skipped

if TYPE_CHECKING:
    from ..score.rating import Rater, Rating
    from ..score.source import Referenced

Reference = Annotated[
    Path | None,
    typer.Option(
        help="Reference image to rate against, or a folder with one of the same name for each image."
    ),
]


@rates
def score(
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Results: .jsonl, .csv or .parquet. Run again to continue."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on standard output.")
    ] = False,
    reference: Reference = None,
    trust_names: TrustNames = False,
    *,
    make: "Callable[..., Rater]",
) -> None:
    """Score images from 1 (bad) to 5 (excellent), with an uncertainty and a reason.

    With -o a second run scores only what is new, and what changed under its name. The exit status is 1 if any image
    could not be scored.
    """
    with clean_exit(kept_in(output)):
        from ..data.find import search
        from ..score.journal import journal_path
        from ..score.resume import score_all

        check_trust_names(trust_names, output)
        found = search(paths)
        say_skipped(found)
        images = _sources(found.images, reference)
        journal = None if output is None else journal_path(output)
        ratings = []
        for rating in score_all(
            make(reference=reference is not None),
            images,
            journal=journal,
            # -o x.jsonl is its own journal.
            export_to=output if output != journal else None,
            references=reference,
            trust_names=trust_names,
            console=err,
        ):
            ratings.append(rating)
            if as_json:
                # Each as soon as it is there, for a program that reads along.
                line = json.dumps(rating.to_dict(), ensure_ascii=False)
                sys.stdout.write(visible_line(line) + "\n")
                sys.stdout.flush()
        if not as_json and output is None:
            out.print(_ratings_table(ratings))
        # Results go to standard output, everything else to standard error: pipes stay clean.
        failed = [rating for rating in ratings if rating.problem is not None]
        if output is not None:
            err.print(f"{len(ratings) - len(failed)} of {len(ratings)} images scored -> {output}")
            say_skipped(found)
        _say_warnings(ratings)
        if failed:
            for rating in failed[:5]:
                err.print(shown_line(f"{rating.image}: {rating.problem}", style="yellow"))
            if len(failed) > 5:
                err.print(f"and {len(failed) - 5} more without a score")
            raise typer.Exit(1)


@rates
def compare(
    a: Annotated[Path, typer.Argument(help="An image.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    reference: Reference = None,
    *,
    make: "Callable[..., Rater]",
) -> None:
    """Probability that A looks better than B, by Thurstone's model.

    It is that of people where there is a calibration for the model and these options, else the model's own.
    """
    with clean_exit():
        from ..score.rating import compare as thurstone
        from ..score.rating import has_uncertainty

        pair = _sources([a, b], reference)
        first, second = make(reference=reference is not None).rate(pair)
        _say_warnings([first, second])
        scored = first.score is not None and second.score is not None
        if scored and not (has_uncertainty(first) and has_uncertainty(second)):
            out.print(_ratings_table([first, second]))
            out.print(shown_line(_which_is_better(first, second)))
            return
        probability = thurstone(first, second)
        out.print(_ratings_table([first, second]))
        out.print(shown_line(f"P({a.name} better than {b.name}) = {probability:.3f}"))
        if first.mos_std is None:
            note = "No calibration is known for this model and these options: the probability is the model's own, and "
            out.print(
                shown(f"{note}was not checked against people (visualquality calibrate).", "dim")
            )


@rates
def rank(
    paths: Annotated[list[Path], typer.Argument(help="Images and folders.")],
    reference: Reference = None,
    *,
    make: "Callable[..., Rater]",
) -> None:
    """Order images from the best to the worst."""
    with clean_exit():
        from ..data.find import search
        from ..score.resume import score_all

        found = search(paths)
        say_skipped(found)
        images = _sources(found.images, reference)
        scorer = make(reference=reference is not None)
        ratings = list(score_all(scorer, images, console=err))
        # Images without a score stand at the end, not among the worst. Names make the order of equals repeatable.
        ratings.sort(key=lambda r: (r.score is None, -(r.score or 0), r.image))
        out.print(_ratings_table(ratings, ranked=True))
        _say_warnings(ratings)
        if any(r.score is None for r in ratings):
            raise typer.Exit(1)


def _say_warnings(ratings: "list[Rating]") -> None:
    from ..score.rating import warning_lines

    lines = warning_lines(ratings)
    for line in lines[:5]:
        err.print(shown_line(line, style="yellow"), soft_wrap=True)
    if len(lines) > 5:
        err.print(f"and {len(lines) - 5} more warnings: -o keeps them all")


def _which_is_better(a: "Rating", b: "Rating") -> str:
    """Of two ratings without an uncertainty: one sentence."""
    assert a.score is not None
    assert b.score is not None
    why = (
        f"how likely that is, {a.model} cannot say without a calibration (visualquality calibrate)"
    )
    if a.score == b.score:
        return f"{a.model} finds both equally good; {why}."
    better, worse = (a, b) if a.score > b.score else (b, a)
    return f"{better.image} looks better than {worse.image} to {a.model}; {why}."


def _sources(images: list[Path], reference: Path | None) -> "list[str | Referenced]":
    """The images by path, each with its reference where there is one."""
    from ..data.find import find_references
    from ..score.source import Referenced

    if reference is None:
        return list(map(str, images))
    pairs = zip(images, find_references(images, reference), strict=True)
    return [Referenced(str(image), str(beside)) for image, beside in pairs]


def _ratings_table(ratings: "list[Rating]", *, ranked: bool = False) -> Table:
    # Lines between the rows only where reasons run over several lines.
    table = Table(show_lines=any(rating.reasoning for rating in ratings))
    if ranked:
        table.add_column("#", justify="right")
    table.add_column("image", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("std", justify="right")
    # The same for all ratings of a run; None where no calibration fits.
    coverage = next((rating.coverage for rating in ratings if rating.coverage), None)
    if coverage is not None:
        table.add_column(f"MOS\n{100 * coverage:g} %", justify="right", no_wrap=True)
    table.add_column("reason")
    for place, rating in enumerate(ratings, start=1):
        reason = shown(rating.reasoning or "")
        if rating.problem:
            reason = shown_line(rating.problem, style="yellow")
        cells: list[RenderableType] = [
            shown_line(rating.image),
            "-" if rating.score is None else f"{rating.score:.2f}",
            "-" if rating.std is None else f"{rating.std:.2f}",
        ]
        if coverage is not None:
            cells.append("-" if rating.low is None else f"{rating.low:.1f}–{rating.high:.1f}")
        table.add_row(*([str(place)] if ranked else []), *cells, reason)
    return table
