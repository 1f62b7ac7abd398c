"""Scores beside human ratings: which score belongs to which image of a manifest, and how well the two agree.

`evaluate` and `report` match scores to images by the one rule of `match`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..score.files import read_scores
from ..score.journal import read_journal, score_all
from ..score.rating import Rater, Rating
from ..score.source import Referenced
from .agreement import RESAMPLES, Agreement, agreement

T = TypeVar("T")


class Rated(NamedTuple):
    """An image of a manifest and its rating by a model."""

    row: Row
    rating: Rating


def rows_of(manifest: Manifest, split: str | None) -> dict[str, list[Row]]:
    """Rows of a manifest, or of one split of it, by data set. Raises UserError where the split is empty."""
    rows = manifest.rows if split is None else manifest.subset(split).rows
    if not rows:
        raise UserError(f"the manifests have no row of split {split!r}")
    # A data set may be spread over several manifests.
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.dataset].append(row)
    return dict(groups)


def match(
    rows: Sequence[Row], found: Mapping[str, T], *, source: str, complete: bool
) -> list[tuple[Row, T]]:
    """The rows of a manifest with what `found` (image -> score or rating) holds of them, in the order of the rows.

    An image is matched by its path. A row whose path is not in `found` is matched by its file name, if exactly one
    image in `found` and one row have this name, and if the folder that `found` gives, where it gives one, is named
    like the row's folder.

    complete: every row must have a match; otherwise rows without one are left out, but at least one must have one.
    `source` names `found` in errors. Raises UserError naming the images where a row has no match, or several.
    """
    by_path, by_name = _index(found, source)
    rows_by_name = Counter(row.image.name for row in rows)
    paths = {str(row.image) for row in rows}
    matched = []
    for row in rows:
        image = by_path.get(str(row.image))
        if image is None:
            # What belongs to another row by its path is not this row's.
            named = [other for path, other in by_name[row.image.name] if path not in paths]
            if not any(_same_folder(other, row) for other in named):
                # Names such as 1.png are in many data sets: another folder means another image.
                if complete:
                    raise UserError(_why_missing(row, named, source))
                continue
            # A folder's name alone is no proof, so a name that comes twice on either side is refused.
            if len(named) > 1 or rows_by_name[row.image.name] > 1:
                raise UserError(
                    f"{source} has {' and '.join(sorted(named))}, and it is not clear which image of the manifests is "
                    f"meant ({_namesakes(rows, row)}): give the paths that the manifests have"
                )
            image = named[0]
        matched.append((row, found[image]))
    if not matched:
        raise UserError(
            f"no image of the manifests is in {source}: give the manifest of the images that were scored"
        )
    return matched


def _index(
    images: Iterable[str], source: str
) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """The images by path, and by file name with their paths. A relative path starts at the current folder."""
    # As in a manifest, links are followed in the folder but not in the file. Images share few folders.
    realpath = cache(os.path.realpath)
    by_path: dict[str, str] = {}
    by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image in images:
        path = str(Path(realpath(Path(image).parent), Path(image).name))
        if path in by_path:
            raise UserError(
                f"{source} has {by_path[path]} and {image}, which are the same file: remove one of the two"
            )
        by_path[path] = image
        by_name[Path(image).name].append((path, image))
    return by_path, by_name


def _same_folder(image: str, row: Row) -> bool:
    return Path(image).parent.name in ("", row.image.parent.name)


def _why_missing(row: Row, named: Sequence[str], source: str) -> str:
    if named:
        return (
            f"{source} has {' and '.join(sorted(named))}, which may not be {row.image}: "
            "give the path that the manifest has"
        )
    return f"{source} has no row for {row.image}: give every image of the manifest one score"


def _namesakes(rows: Iterable[Row], row: Row) -> str:
    return " or ".join(str(other.image) for other in rows if other.image.name == row.image.name)


def read_results(path: Path) -> tuple[dict[str, Any], list[Rating]]:
    """The header and the ratings of a journal of results.

    Raises UserError where `path` is no such journal, or has no rating yet.
    """
    header, ratings = read_journal(path)
    if not ratings:
        raise UserError(
            f"{path} has no results yet: wait until the command that writes it has some"
        )
    return header, ratings


def evaluate_model(
    rater: Rater,
    manifest: Manifest,
    *,
    split: str | None = None,
    reference: bool = False,
    journal: Path | None = None,
    console: Console,
    bootstrap: int = RESAMPLES,
) -> dict[str, Agreement]:
    """Score every image and compare with its MOS, by data set. `journal` keeps the scores, and is continued.

    reference: rate each image against its row's `reference_image`; the rater and the manifest must allow this.
    """
    groups = rows_of(manifest, split)
    images: list[str | Referenced] = []
    for rows in groups.values():
        for row in rows:
            image = str(row.image)
            images.append(Referenced(image, str(row.reference_image)) if reference else image)
    ratings = score_all(rater, images, journal=journal, console=console)
    scores = {rating.image: rating.score for rating in ratings}
    # Scales of MOS differ, so each data set is compared by itself.
    return {
        name: agreement(
            [scores[str(row.image)] for row in rows],
            [row.mos for row in rows],
            bootstrap=bootstrap,
        )
        for name, rows in groups.items()
    }


def evaluate_scores(
    path: Path, manifest: Manifest, *, split: str | None = None, bootstrap: int = RESAMPLES
) -> dict[str, Agreement]:
    """Compare the scores in a file with MOS, by data set. Images are matched by `match`.

    Raises UserError naming an image of the manifest that has no row in the file.
    """
    groups = rows_of(manifest, split)
    every = [row for rows in groups.values() for row in rows]
    # All data sets are matched at once, since one image name in two of them is ambiguous.
    scores: dict[str, list[float | None]] = defaultdict(list)
    for row, score in match(every, read_scores(path), source=str(path), complete=True):
        scores[row.dataset].append(score)
    return {
        name: agreement(scores[name], [row.mos for row in rows], bootstrap=bootstrap)
        for name, rows in groups.items()
    }
