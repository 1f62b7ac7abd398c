"""Making a calibration: scores of photos that people rated, and how often intervals from them hold."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..data.manifest import Manifest, Row
from ..data.row import mos_on_1_to_5
from ..data.sources import SOURCES
from ..errors import UserError
from ..models.load import folder_of
from ..score.calibration import FILE, Calibration, check_ratings, fit_calibration, user_file
from ..score.raters import ImageFunctionRater
from ..score.rating import Rater
from ..score.resume import score_all
from ..score.scorer import Scorer
from ..terminal import shown_line
from .matching import rows_of, sources_of


def calibrate(
    rater: Rater,
    manifest: Manifest,
    *,
    coverage: float,
    mos_range: tuple[float, float] | None = None,
    split: str | None = None,
    reference: bool = False,
    journal: Path | None = None,
    trust_names: bool = False,
    console: Console,
) -> Calibration:
    """The calibration of a rater on a manifest of one data set, whose images it must not have been trained on.

    Args:
        coverage: the share of human ratings that the intervals are to hold, such as 0.9.
        mos_range: the ends of the scale that people rated on; by default those of a data set of `SOURCES`.
        split: take only the rows of this split.
        reference: rate each image against its row's `reference_image`; the rater and the manifest must allow this.
        journal: keeps the scores, and is continued. trust_names: as in `score_all`.

    Raises UserError for a rater whose weights are not known, several data sets, an unknown or wrong range, and as
    `fit_calibration` does. What is wrong with the data is found before anything is scored.
    """
    if not isinstance(rater, Scorer | ImageFunctionRater):
        engine = rater.settings().get("engine", "this engine")
        raise UserError(
            f"a calibration belongs to weights, and {engine} does not say which it runs: calibrate the model in this "
            "process, with --engine here"
        )
    # An older calibration is of no use here, and the header of the journal would name it.
    rater.calibration = None
    rows = rows_of(manifest, split)
    dataset, mos_range = scale_of(rows, mos_range)
    names = [row.image.name for row in rows]
    mos = [mos_on_1_to_5(row.mos, mos_range) for row in rows]
    check_ratings(mos, names, coverage, dataset, mos_range)
    images = sources_of(rows, reference=reference)
    ratings = list(
        score_all(rater, images, journal=journal, trust_names=trust_names, console=console)
    )
    return fit_calibration(
        [rating.score for rating in ratings],
        [rating.std for rating in ratings],
        mos,
        names,
        coverage=coverage,
        settings=rater.settings(),
        dataset=dataset,
        mos_range=mos_range,
    )


def scale_of(
    rows: Sequence[Row], mos_range: tuple[float, float] | None
) -> tuple[str, tuple[float, float]]:
    """The one data set of the rows, and the ends of its scale: `mos_range`, else those that `SOURCES` knows.

    Raises UserError for several data sets, an unknown scale, and ends that are not in order.
    """
    names = list(dict.fromkeys(row.dataset for row in rows))
    if len(names) > 1:
        raise UserError(
            f"the manifest holds {len(names)} data sets ({', '.join(names)}), and scales are never mixed: "
            "give the manifest of one"
        )
    known = SOURCES.get(names[0])
    found = mos_range or (known.mos_range if known else None)
    if found is None:
        raise UserError(
            f"the scale of {names[0]} is not known: give the lowest and the highest MOS that its raters could give, "
            "such as --range 0 100"
        )
    # False for NaN too.
    if not found[0] < found[1]:
        raise UserError(
            f"the range {found[0]:g} {found[1]:g} is no scale: give its lower end first and then the higher one"
        )
    return names[0], found


def default_place(rater: Rater) -> Path:
    """Where the calibration of a rater is looked for: its model's folder, else a file in the user's data folder."""
    folder = folder_of(rater.vlm.name) if isinstance(rater, Scorer) else None
    return folder / FILE if folder is not None else user_file(rater.settings()["weights"])


def table(calibration: Calibration) -> Table:
    """What the terminal shows of a calibration: how often its intervals held, by groups of images."""
    check, n = calibration.check, calibration.n
    # An image is among the lowest or highest rated partly by chance, which no predictor sees.
    note = "Only the share of all images is promised. Those rated lowest or highest are often covered less."
    drawn = Table(caption=note, caption_justify="left")
    drawn.add_column(shown_line(f"images of {calibration.dataset}"))
    drawn.add_column("n", justify="right")
    drawn.add_column(f"in their {100 * calibration.coverage:g} % interval", justify="right")
    for name, count, covered in (
        ("all", n, check.coverage),
        ("fifth with the lowest MOS", n // 5, check.lowest_mos),
        ("fifth with the highest MOS", n // 5, check.highest_mos),
        ("fifth with the lowest scores", n // 5, check.lowest_scores),
        ("fifth with the highest scores", n // 5, check.highest_scores),
    ):
        drawn.add_row(name, str(count), f"{covered:.1%}")
    return drawn
