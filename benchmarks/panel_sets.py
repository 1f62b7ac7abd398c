"""The sets of rated images that panel.py measures on, and its files of the scores of an earlier version.

Two sets are read from clones of public repositories. They are there to choose by: they are never trained on, and none
of their images is part of this project.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recipes.nano.measure import test_sets
from visualquality.data.manifest import Manifest, Row
from visualquality.data.tables import read_table, to_number, write_table
from visualquality.errors import UserError
from visualquality.evaluate.page import pick_evenly

# home: of the kind that the model was trained on. away: all others. test: looked at once per finished model.
Role = Literal["home", "away", "test"]
Scores = dict[
    str, float | None
]  # name of an image in its set -> score, or None for an image without one

PCUID, H265 = "PCUID", "H.265"
PCUID_FOLDERS = ("300-1", "300-2", "300-3")
# The ends of the scales on which people rated.
RANGES = {PCUID: (0.0, 100.0), H265: (1.0, 5.0), "BIQ2021 test": (0.0, 1.0), "AGIQA-3K": (0.0, 5.0)}
EARLIER_COLUMNS = ("set", "image", "score")


@dataclass(frozen=True)
class RatedSet:
    """Rated images to measure on.

    images: the name of each image in the set -> its row. mos_range: the ends of the scale of the MOS, or None where
    they were not given. missing: rated images whose file is not there, which are left out.
    """

    name: str
    images: dict[str, Row]
    mos_range: tuple[float, float] | None
    role: Role = "away"
    missing: int = 0

    def limited(self, count: int | None) -> "RatedSet":
        """`count` of the images at even distances; all for None."""
        if count is None:
            return self
        return replace(self, images=dict(pick_evenly(list(self.images.items()), count)))


def rated_set(
    name: str, rows: Sequence[Row], mos_range: tuple[float, float] | None, missing: int = 0
) -> RatedSet:
    """The set of these rows. Raises UserError where there are none, or for a MOS outside `mos_range`."""
    if not rows:
        raise UserError(f"{name}: no rated image was found; give the folder that holds the images")
    low, high = mos_range or (float("-inf"), float("inf"))
    for row in rows:
        if not low <= row.mos <= high:
            raise UserError(
                f"{name}: {row.image.name} has the MOS {row.mos:g}, outside {low:g} to {high:g}; "
                "give the ends of the scale"
            )
    return RatedSet(
        name, dict(zip(image_names(rows), rows, strict=True)), mos_range, "away", missing
    )


def image_names(rows: Sequence[Row]) -> list[str]:
    """A name for each image that is the same on every machine: its file name, if no two images share one.

    Else all names are paths below the folder that the images have in common.
    """
    names = [row.image.name for row in rows]
    if max(Counter(names).values()) == 1:
        return names
    common = os.path.commonpath([row.image.parent for row in rows])
    return [row.image.relative_to(common).as_posix() for row in rows]


def given_set(text: str) -> RatedSet:
    """The set of `NAME=MANIFEST`, or `NAME=MANIFEST:LOW:HIGH` with the ends of the scale of its MOS."""
    name, _, rest = text.partition("=")
    if not (name and rest):
        raise UserError(f"--set {text}: write NAME=MANIFEST or NAME=MANIFEST:LOW:HIGH")
    path, *ends = rest.rsplit(":", 2)
    if not ends:
        return rated_set(name, Manifest.read(path).rows, None)
    numbers = [to_number(end) for end in ends]
    low, high = (*numbers, None, None)[:2]
    if low is None or high is None or low >= high:
        raise UserError(
            f"--set {text}: after the manifest come the ends of the scale, as in {path}:0:100"
        )
    return rated_set(name, Manifest.read(path).rows, (low, high))


def pcuid(folder: Path) -> RatedSet:
    """PCUID, 300 underwater photos: a clone of JOU-UIP/PCUID.

    MOS.xlsx rates the photos by number, 0 to 100. The folders 300-1 to 300-3 hold them, and a file's name has the
    number in it. Three of the photos are not in the repository.
    """
    mos = _ratings(folder / "MOS.xlsx", "image_id", "MOS", "JOU-UIP/PCUID")
    by_number = {}
    for path in (path for part in PCUID_FOLDERS for path in sorted((folder / part).glob("*.jpg"))):
        by_number |= dict.fromkeys(re.findall(r"\d+", path.stem)[:1], path)
    rows = [Row(by_number[i], value, PCUID) for i, value in mos.items() if i in by_number]
    return rated_set(PCUID, rows, RANGES[PCUID], len(mos) - len(rows))


def h265(folder: Path) -> RatedSet:
    """324 stills of videos in H.265: a clone of Telecommunication-Telemedia-Assessment/image_quality_test.

    test_1/mos_ci.csv rates them by name, 1 to 5; test_1/images holds them as PNG.
    """
    part = folder / "test_1"
    source = "Telecommunication-Telemedia-Assessment/image_quality_test"
    mos = _ratings(part / "mos_ci.csv", "image_name", "mos", source)
    files = {name: part / "images" / f"{name}.png" for name in mos}
    rows = [Row(files[name], value, H265) for name, value in mos.items() if files[name].is_file()]
    return rated_set(H265, rows, RANGES[H265], len(mos) - len(rows))


def _ratings(path: Path, image: str, mos: str, source: str) -> dict[str, float]:
    """The column `image` -> the column `mos` of a table in a clone of the repository `source` of GitHub."""
    found = {}
    for number, cells in _rows(path, (image, mos), f"give a clone of {source}"):
        value = to_number(cells[mos])
        if value is None:
            raise UserError(f"{path}, row {number}: {mos} is {cells[mos]!r}, no number; correct it")
        found[cells[image]] = value
    return found


def _rows(path: Path, columns: Sequence[str], fix: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each row of a table, and its cells by column. Raises UserError, with `fix` for another table."""
    try:
        header, rows = read_table(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): {fix}") from error
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{path} has no column {' and no '.join(missing)}: {fix}")
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}, row {number}: it has more or fewer cells than the header")
        yield number, dict(zip(header, cells, strict=True))


def final_sets(folder: Path) -> list[RatedSet]:
    """The tests, which are looked at once per finished model: BIQ2021's test part and AGIQA-3K in `folder`."""
    return [
        replace(rated_set(name, manifest.rows, RANGES[name]), role="test")
        for name, manifest in test_sets(folder).items()
    ]


def with_homes(sets: Sequence[RatedSet], homes: Sequence[str]) -> list[RatedSet]:
    """The sets, with those that `homes` names as home.

    Raises UserError for a home that is no set, or a test, and for two sets of one name.
    """
    names = Counter(each.name for each in sets)
    if double := [name for name, count in names.items() if count > 1]:
        raise UserError(f"two sets have the name {double[0]}: give one of them another name")
    possible = [each.name for each in sets if each.role != "test"]
    for home in homes:
        if home not in possible:
            raise UserError(f"--home {home}: there is no such set, only {', '.join(possible)}")
    return [replace(each, role="home") if each.name in homes else each for each in sets]


# The scores of an earlier version


def read_earlier(path: Path) -> dict[str, Scores]:
    """Set -> image -> score, from a file that `write_earlier` wrote. Raises UserError with the row of what is wrong."""
    found: dict[str, Scores] = {}
    for number, cells in _rows(path, EARLIER_COLUMNS, "give a CSV with set, image and score"):
        scores, image, text = found.setdefault(cells["set"], {}), cells["image"], cells["score"]
        if image in scores:
            raise UserError(f"{path}, row {number}: {image} is there a second time; remove one")
        scores[image] = to_number(text)
        if text and scores[image] is None:
            raise UserError(f"{path}, row {number}: the score {text!r} is no number; correct it")
    return found


def write_earlier(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write set -> image -> score as a CSV with the columns set, image, score; an empty score is none."""
    rows = [
        (name, image, score) for name, found in scores.items() for image, score in found.items()
    ]
    columns = map(list, zip(*rows, strict=True))
    write_table(path, dict(zip(EARLIER_COLUMNS, columns, strict=True)))
