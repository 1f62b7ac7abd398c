"""Scores beside human ratings: which score belongs to which image of a manifest, and how well the two agree.

`evaluate` and `report` match scores to images by the one rule of `match`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from ..data.find import listed_path
from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..response import READINGS
from ..score.files import read_scores
from ..score.journal import read_journal
from ..score.rating import Rater, Rating, warning_lines
from ..score.resume import score_all
from ..score.source import Referenced
from ..terminal import shown_line
from .agreement import RESAMPLES, Agreement, agreement

T = TypeVar("T")


class Rated(NamedTuple):
    """An image of a manifest and its rating by a model."""

    row: Row
    rating: Rating


def rows_of(manifest: Manifest, split: str | None) -> tuple[Row, ...]:
    """Rows of a manifest, or of one split of it. Raises UserError where the split is empty."""
    rows = manifest.rows if split is None else manifest.subset(split).rows
    if not rows:
        raise UserError(f"the manifests have no row of split {split!r}")
    return rows


def sources_of(rows: Sequence[Row], *, reference: bool) -> list[str | Referenced]:
    """What a rater is given for each row: its image and, if `reference` is set, its `reference_image`."""
    if not reference:
        return [str(row.image) for row in rows]
    return [Referenced(str(row.image), str(row.reference_image)) for row in rows]


def match(
    rows: Sequence[Row], found: Mapping[str, T], *, source: str, complete: bool
) -> list[tuple[Row, T]]:
    """The rows of a manifest with what `found` (image -> score or rating) holds of them, in the order of the rows.

    An image is matched by its path; a relative path starts at the current folder. A row whose path is not in `found`
    is matched by its file name, if exactly one image in `found` and one row have this name, and if the folder that
    `found` gives, where it gives one, is named like the row's folder.

    complete: every row must have a match; otherwise rows without one are left out, but at least one must have one.
    `source` names `found` in errors. Raises UserError naming the images where a row has no match, or several.
    """
    paths = {str(row.image) for row in rows}
    rows_by_name = Counter(row.image.name for row in rows)
    # As in a manifest, links are followed in the folder but not in the file. Images share few folders.
    realpath = cache(os.path.realpath)
    by_path: dict[str, str] = {}
    by_name: dict[str, list[str]] = defaultdict(list)
    for image in found:
        named_so = listed_path(Path(), image)
        path = str(Path(realpath(named_so.parent), named_so.name))
        if path in by_path:
            raise UserError(
                f"{source} has {by_path[path]} and {image}, which are the same file: remove one of the two"
            )
        by_path[path] = image
        # A file that is a row's by its path must not be matched to another row by its name.
        if path not in paths:
            by_name[named_so.name].append(image)
    matched = []
    for row in rows:
        # A manifest's paths are absolute, with the links of the folder followed.
        image = by_path.get(str(row.image), "")
        if not image:
            named = sorted(by_name[row.image.name])
            # Names such as 1.png are in many data sets: another folder means another image.
            # A name without a folder may be of any folder.
            folders = [listed_path(Path(), other).parent.name for other in named]
            if all(folder not in ("", row.image.parent.name) for folder in folders):
                if not complete:
                    continue
                if not named:
                    raise UserError(
                        f"{source} has no row for {row.image}: give every image of the manifest one score"
                    )
                raise UserError(
                    f"{source} has {' and '.join(named)}, which may not be {row.image}: "
                    "give the path that the manifest has"
                )
            # A folder's name alone is no proof, so a name that comes twice on either side is refused.
            if len(named) > 1 or rows_by_name[row.image.name] > 1:
                same = [str(other.image) for other in rows if other.image.name == row.image.name]
                raise UserError(
                    f"{source} has {' and '.join(named)}, and it is not clear which image of the manifests is "
                    f"meant ({' or '.join(same)}): give the paths that the manifests have"
                )
            (image,) = named
        matched.append((row, found[image]))
    if not matched:
        raise UserError(
            f"no image of the manifests is in {source}: give the manifest of the images that were scored"
        )
    return matched


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
    trust_names: bool = False,
    console: Console,
) -> dict[str, Agreement]:
    """Score every image and compare with its MOS, by data set. `journal` keeps the scores, and is continued.

    reference: rate each image against its row's `reference_image`; the rater and the manifest must allow this.
    trust_names: as in `score_all`.
    """
    rows = rows_of(manifest, split)
    images = sources_of(rows, reference=reference)
    ratings = list(
        score_all(rater, images, journal=journal, trust_names=trust_names, console=console)
    )
    for line in warning_lines(ratings):
        console.print(shown_line(line, style="yellow"), soft_wrap=True)
    results = _by_dataset(rows, [rating.score for rating in ratings], RESAMPLES)
    for name, found in results.items():
        own = [rating for row, rating in zip(rows, ratings, strict=True) if row.dataset == name]
        results[name] = replace(found, answers=answers_read(own))
    return results


def answers_read(ratings: Iterable[Rating]) -> dict[str, int] | None:
    """How many answers were "drawn", and how many of them each reading ("strict", "authors") finds a score in.

    None where nothing was drawn, and where it is not known: ratings of earlier versions did not record it for answers
    that they could not read.
    """
    counts = dict.fromkeys(("drawn", *READINGS), 0)
    for rating in ratings:
        if rating.prompt is None:  # a classic, whose number is no answer
            continue
        drawn = len(rating.samples)
        counts["drawn"] += drawn
        if rating.readable is None and None in rating.samples:
            return None
        for reading in READINGS:
            counts[reading] += drawn if rating.readable is None else rating.readable[reading]
    return counts if counts["drawn"] else None


def evaluate_scores(
    path: Path, manifest: Manifest, *, split: str | None = None, bootstrap: int = RESAMPLES
) -> dict[str, Agreement]:
    """Compare the scores in a file with MOS, by data set. Images are matched by `match`.

    Raises UserError naming an image of the manifest that has no row in the file.
    """
    # All data sets are matched at once, since one image name in two of them is ambiguous.
    rows = rows_of(manifest, split)
    matched = match(rows, read_scores(path), source=str(path), complete=True)
    return _by_dataset(rows, [score for _, score in matched], bootstrap)


def _by_dataset(
    rows: Sequence[Row], scores: Sequence[float | None], bootstrap: int
) -> dict[str, Agreement]:
    """The agreement of the scores of `rows` with their MOS. Scales of MOS differ, so each data set is by itself."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.dataset].append(place)
    return {
        name: agreement(
            [scores[place] for place in places],
            [rows[place].mos for place in places],
            bootstrap=bootstrap,
        )
        for name, places in groups.items()
    }
