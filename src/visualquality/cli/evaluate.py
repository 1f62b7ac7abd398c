"""evaluate: agreement with human ratings."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from ..terminal import shown_line
from .shared import (
    Split,
    TrustNames,
    WithReferences,
    check_trust_names,
    clean_exit,
    err,
    kept_in,
    out,
    pixel_limit,
    rates,
)

if TYPE_CHECKING:
    from ..score.rating import Rater


@rates
def evaluate(
    data: Annotated[
        list[Path], typer.Option("--data", help="Manifests: CSV or Parquet with image and mos.")
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further manifests.", show_default=False)
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="A file of scores instead of a model.")
    ] = None,
    split: Split = None,
    reference: WithReferences = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the scores in this .jsonl file.")
    ] = None,
    trust_names: TrustNames = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the agreement to this file.")
    ] = None,
    *,
    make: "partial[Rater]",
) -> None:
    """SRCC, KRCC and PLCC with human ratings, each with its 95 % interval.

    Of a model that answers in words it also says how many answers each reading (--reading) reads.
    """
    with clean_exit(kept_in(output)):
        # Here, so that --help does not wait for NumPy and SciPy.
        from ..data.manifest import read_manifests
        from ..evaluate.agreement import answers_line, average, table
        from ..evaluate.matching import evaluate_model, evaluate_scores
        from ..io import write_text

        if reference and scores is not None:
            raise UserError(
                "--reference is for scoring with a model, and --scores gives scores already: leave one of them out"
            )
        # What a model was given is in `make`; nano is only its default.
        options = [
            name for name, value in make.keywords.items() if (name, value) != ("model", "nano")
        ]
        if scores is not None and options:
            raise UserError(
                f"--scores gives scores already: leave --{options[0].replace('_', '-')} out"
            )
        check_trust_names(trust_names, output)
        if output is not None and output.suffix != ".jsonl":
            raise UserError(f"{output} must end in .jsonl: give -o such a name")
        # Before hours of scoring, not after them.
        if json_file is not None and not json_file.absolute().parent.is_dir():
            raise UserError(f"--json: there is no folder {json_file.parent}; make it first")
        manifest = read_manifests(
            [*data, *(more or [])],
            references=reference,
            max_image_pixels=pixel_limit(make),
        )
        if scores is not None:
            results = evaluate_scores(scores, manifest, split=split)
            # What made the scores, for --json.
            by: dict[str, Any] = {"scores": str(scores)}
        else:
            scorer = make(reference=reference)
            results = evaluate_model(
                scorer,
                manifest,
                split=split,
                reference=reference,
                journal=output,
                trust_names=trust_names,
                console=err,
            )
            by = scorer.settings()
        out.print(table(results))
        for name, agreed in results.items():
            if (line := answers_line(name, agreed)) is not None:
                out.print(shown_line(line), soft_wrap=True)
        if json_file is not None:
            sets = {name: found.to_dict() for name, found in results.items()}
            mean = average(results.values()).to_dict() if len(results) > 1 else None
            found = {"by": by, "datasets": sets, "average": mean}
            write_text(json_file, json.dumps(found, indent=1) + "\n")
