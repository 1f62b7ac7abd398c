"""calibrate: an interval of the human rating with each score."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..terminal import shown
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
def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="nano, a folder, a Hugging Face name, niqe, brisque, or pyiqa:NAME.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="A manifest of one data set, of images that the model was not trained on.",
        ),
    ],
    coverage: Annotated[
        float, typer.Option(help="Share of the human ratings that the intervals are to hold.")
    ] = 0.9,
    mos_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="Ends of the scale that people rated on; not needed for data sets of data import.",
        ),
    ] = None,
    split: Split = None,
    reference: WithReferences = False,
    journal: Annotated[
        Path | None,
        typer.Option(help="Keep the scores in this .jsonl file. Run again to continue."),
    ] = None,
    trust_names: TrustNames = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, for --calibration.",
        ),
    ] = None,
    *,
    make: "partial[Rater]",
) -> None:
    """Learn from human ratings how far scores are off: then each score has an interval of the human rating.

    The calibration is for this model with these options of scoring, except the seed. It is written to the model's
    folder, else to your data folder, where score, compare and rank find it; -o writes it elsewhere.
    """
    with clean_exit(kept_in(journal)):
        from ..data.manifest import Manifest
        from ..evaluate.calibrate import calibrate as calibrate_model
        from ..evaluate.calibrate import default_place, table
        from ..score.calibration import keep_calibration, read_calibrations

        if "calibration" in make.keywords:
            raise UserError(
                "calibrate makes a calibration: name its file with -o, and leave --calibration out"
            )
        check_trust_names(trust_names, journal, "--journal")
        if journal is not None and journal.suffix != ".jsonl":
            raise UserError(f"{journal} must end in .jsonl: give --journal such a name")
        # What could not be added to is found before hours of scoring.
        if output is not None and output.exists():
            read_calibrations(output)
        manifest = Manifest.read(
            data,
            references=reference,
            max_image_pixels=pixel_limit(make),
        )
        rater = make(model=model, reference=reference)
        made = calibrate_model(
            rater,
            manifest,
            coverage=coverage,
            mos_range=mos_range,
            split=split,
            reference=reference,
            journal=journal,
            trust_names=trust_names,
            console=err,
        )
        place = output or default_place(rater)
        keep_calibration(place, made)
        out.print(table(made))
        out.print(f"mean width {made.check.mean_width:.2f}, on a scale from 1 to 5")
        how = "score, compare and rank find it there"
        if output is not None:
            how = f"use it with --calibration {output}"
        err.print(shown(f"-> {place}: {how}"), soft_wrap=True)
