"""Agreement of a model's scores, or of a file of scores, with the ratings of manifests."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..score.files import read_scores
from ..score.journal import score_all
from ..score.rating import Rater
from ..score.source import Referenced
from .correlation import Agreement, agreement


def rows_of(manifest: Manifest, split: str | None) -> dict[str, list[Row]]:
    """Rows by data set. Raises UserError where the split is empty."""
    rows = manifest.rows if split is None else manifest.subset(split).rows
    if not rows:
        raise UserError(f"the manifests have no row of split {split!r}")
    return {
        name: [r for r in rows if r.dataset == name]
        for name in dict.fromkeys(r.dataset for r in rows)
    }


def evaluate_model(
    scorer: Rater,
    manifest: Manifest,
    *,
    split: str | None = None,
    reference: bool = False,
    journal: Path | None = None,
    console: Console,
    bootstrap: int = 1000,
) -> dict[str, Agreement]:
    """Scores every image and compares with its MOS, a data set at a time. `journal` keeps the scores, and resumes.

    reference: rate each image against its row's `reference_image`; `scorer` and the manifest must have been made so.
    """
    groups = rows_of(manifest, split)
    images = [_source(row, reference) for rows in groups.values() for row in rows]
    scores = {r.image: r.score for r in score_all(scorer, images, journal=journal, console=console)}
    return _agreements(groups, scores, bootstrap)


def _source(row: Row, reference: bool) -> str | Referenced:
    return Referenced(str(row.image), str(row.reference_image)) if reference else str(row.image)


def evaluate_scores(
    path: Path, manifest: Manifest, *, split: str | None = None, bootstrap: int = 1000
) -> dict[str, Agreement]:
    """The same for a file of scores made elsewhere, whose images are named by path or, where unique, by file name.

    A folder that is given with the name must be the image's own. Raises UserError naming an image of the manifest that
    has no row in the file.
    """
    groups = rows_of(manifest, split)
    given = read_scores(path)
    by_name: dict[str, list[str]] = {}
    for image in given:
        by_name.setdefault(Path(image).name, []).append(image)
    every = [row for rows in groups.values() for row in rows]
    counts = Counter(row.image.name for row in every)
    scores: dict[str, float | None] = {}
    for row in every:
        key = str(row.image)
        if key not in given:
            named = by_name.get(row.image.name, [])
            if len(named) != 1:
                how = "no row" if not named else f"{len(named)} rows of that name"
                raise UserError(
                    f"{path} has {how} for {row.image}: give every image of the manifest one score"
                )
            key = named[0]
            folder = Path(key).parent.name
            if counts[row.image.name] > 1 or (folder and folder != row.image.parent.name):
                raise UserError(
                    f"{path} has {key}, which may not be {row.image}: give the path that the manifest has"
                )
        scores[str(row.image)] = given[key]
    return _agreements(groups, scores, bootstrap)


def _agreements(
    groups: dict[str, list[Row]], scores: dict[str, float | None], bootstrap: int
) -> dict[str, Agreement]:
    def one(rows: Sequence[Row]) -> Agreement:
        return agreement(
            [scores[str(r.image)] for r in rows], [r.mos for r in rows], bootstrap=bootstrap
        )

    return {name: one(rows) for name, rows in groups.items()}
