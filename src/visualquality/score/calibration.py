"""Calibrations: what a model's score says of the human rating, where they are kept, and which one fits a rater.

`conformal.py` has the method. A calibration belongs to one model with one way of scoring (`TIED_TO`); under other
settings it says nothing. A file of calibrations holds one for each way of scoring. It is looked for

- in the file that the option `calibration` names, and then nowhere else;
- else in the model's folder (`calibration.json`), in the user's data folder, and beside the weights that come with the
  package.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash
from pydantic import Field

from ..errors import UserError
from ..io import Settings, user_folder, validated, write_text
from ..parsing import parse_json
from ..seeds import order_key
from .conformal import FOLDS, Check, Conformal, Finite, as_array, cross_check, fit_conformal
from .rating import Rating

# The settings of a rater (`Rater.settings`) that a calibration belongs to, of those that the rater has. Not the seed,
# which only chooses among answers that are equally likely, nor the longest answer: one that is cut off gives no score.
TIED_TO = (
    "weights",
    "prompt",
    "reference",
    "mode",
    "samples",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "add_vision_id",
    "tolerance",
    "doubt",
    "max_pixels",
    "reading",
)

LEAST_IMAGES = 60  # with fewer, the interval is wide, or its coverage a matter of luck
FILE = "calibration.json"
AGAIN = "make it again with visualquality calibrate, or delete it"


class Calibration(Settings):
    """The intervals of one model with one way of scoring, and the data set that they are from.

    settings: those of `TIED_TO` that the rater has. coverage: the share of MOS that the intervals are made for.
    dataset, mos_range: the data set's name, and the ends of its scale, which are 1 and 5 here. n: its images that were
    used. check: how often the intervals held, by cross-validation.
    """

    settings: dict[str, Any]
    coverage: float = Field(gt=0, lt=1)
    dataset: str
    mos_range: tuple[Finite, Finite]
    n: int
    conformal: Conformal
    check: Check

    @property
    def digest(self) -> str:
        """Identity of the calibration, 16 hex digits: a hash of its JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return xxhash.xxh3_64_hexdigest(text.encode())

    def apply(self, rating: Rating) -> Rating:
        """The rating with its interval, rounded to 4 decimals like scores; unchanged where it has no score."""
        if rating.score is None:
            return rating
        found = self.conformal.intervals(as_array([rating.score]), as_array([rating.std]))
        low, mos, high = (round(float(values[0]), 4) for values in found)
        return replace(rating, low=low, high=high, coverage=self.coverage, expected_mos=mos)


class CalibrationFile(Settings):
    """What a file of calibrations holds: one for each way of scoring."""

    calibrations: tuple[Calibration, ...]


def tied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a rater's settings that a calibration belongs to."""
    found = {name: settings[name] for name in TIED_TO if name in settings}
    # In place of a digest pyiqa has its version, the same for all of its metrics: the name must tell them apart.
    if str(settings.get("model")).startswith("pyiqa:"):
        found["model"] = settings["model"]
    return found


def with_intervals(ratings: Iterator[Rating], calibration: Calibration | None) -> Iterator[Rating]:
    """The ratings as they come, each with the interval of `calibration`; as they are where it is None."""
    return ratings if calibration is None else map(calibration.apply, ratings)


def with_calibration(settings: dict[str, Any], calibration: Calibration | None) -> dict[str, Any]:
    """The settings of a rater whose ratings have the intervals of `calibration`, for the header of a journal.

    A run then never goes on with other intervals than it began with.
    """
    return settings if calibration is None else {**settings, "calibration": calibration.digest}


def fit_calibration(
    scores: Sequence[float | None],
    stds: Sequence[float | None],
    mos: Sequence[float],
    names: Sequence[str],
    *,
    coverage: float,
    settings: Mapping[str, Any],
    dataset: str,
    mos_range: tuple[float, float],
) -> Calibration:
    """The calibration of a rater with these `settings`, from its scores of n images that people rated.

    Args:
        scores, stds: (n,) of the ratings; an image without a score is left out.
        mos: (n,) human ratings, taken to 1 to 5 already (`data.row.mos_on_1_to_5`).
        names: (n,) of the images: their hashes decide which half an image is in, whatever the order of the rows.
        mos_range: the ends of the data set's own scale.

    Raises UserError as `check_ratings` does.
    """
    kept = [i for i, score in enumerate(scores) if score is not None]
    # By the hash, so that the first half and every fold are as good as drawn at random.
    kept.sort(key=lambda i: order_key(0, names[i]))
    check_ratings([mos[i] for i in kept], [names[i] for i in kept], coverage, dataset, mos_range)
    x, d = as_array([scores[i] for i in kept]), as_array([stds[i] for i in kept])
    y = as_array([mos[i] for i in kept])
    return Calibration(
        settings=tied(settings),
        coverage=coverage,
        dataset=dataset,
        mos_range=mos_range,
        n=len(kept),
        conformal=fit_conformal(x, d, y, coverage),
        check=cross_check(x, d, y, coverage),
    )


def check_ratings(
    mos: Sequence[float],
    names: Sequence[str],
    coverage: float,
    dataset: str,
    mos_range: tuple[float, float],
) -> None:
    """Raises UserError for a coverage that is none, a MOS outside its range, and too few images.

    The arguments are those of `fit_calibration`.
    """
    if not 0 < coverage < 1:
        raise UserError(f"the coverage is {coverage:g}: give a share between 0 and 1, such as 0.9")
    low, high = mos_range
    for name, value in zip(names, mos, strict=True):
        if not 1 <= value <= 5:
            own = low + (value - 1) / 4 * (high - low)
            raise UserError(
                f"the MOS {own:g} of {name} is outside {low:g} to {high:g}: give the ends of the scale "
                f"that {dataset} was rated on"
            )
    needed = least_images(coverage)
    if len(mos) < needed:
        raise UserError(
            f"{len(mos)} images of {dataset} have a MOS and can be scored: a calibration for a coverage of "
            f"{coverage:g} needs at least {needed}"
        )


def least_images(coverage: float) -> int:
    """How many images a calibration needs: the quantile must exist also where a fold is left out."""
    # ceil((m + 1)·coverage) <= m, where m is half of what is left without a fold.
    half = coverage / (1 - coverage)
    return max(LEAST_IMAGES, math.ceil(2 * half * FOLDS / (FOLDS - 1)) + FOLDS)


# Files


def read_calibrations(path: Path) -> tuple[Calibration, ...]:
    """The calibrations in a file. Raises UserError where there is no such file, or it holds something else."""
    try:
        tree = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"no calibration {path}: give a file that visualquality calibrate made"
        ) from error
    except (OSError, ValueError) as error:  # of reading, of UTF-8 and of JSON
        raise UserError(f"{path} is not a file of calibrations ({error}): {AGAIN}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a file of calibrations: {AGAIN}")
    try:
        return validated(CalibrationFile, tree, path, "calibration").calibrations
    except UserError as error:
        raise UserError(f"{error}: {AGAIN}") from error


def keep_calibration(path: Path, calibration: Calibration) -> None:
    """Put a calibration into a file, in place of the one for the same settings; the others there stay.

    Raises UserError where the file cannot be read or written.
    """
    others = read_calibrations(path) if path.exists() else ()
    kept = [other for other in others if other.settings != calibration.settings]
    whole = CalibrationFile(calibrations=(*kept, calibration))
    write_text(path, whole.model_dump_json(indent=1) + "\n")


def user_file(weights: str) -> Path:
    """The file of calibrations of these weights in the user's data folder.

    The folder is that of $XDG_DATA_HOME, by default ~/.local/share (`io.user_folder`).
    """
    return user_folder("XDG_DATA_HOME", ".local/share") / "calibrations" / f"{weights}.json"


def find_calibration(
    settings: Callable[[], Mapping[str, Any]],
    *,
    file: Path | None,
    folder: Path | None = None,
    packaged: Path | None = None,
) -> Calibration | None:
    """The calibration that fits a rater, or None.

    Args:
        settings: gives those of the rater; not called where there is no file, since the digest of large weights takes
            seconds.
        file: the only file to look into, where the user names one.
        folder: the model's own, if it has one.
        packaged: the folder of a model that comes with the package. A user's own calibration goes before the one there.

    Raises UserError for a file that holds something else.
    """
    with_model = [place / FILE for place in (folder, packaged) if place is not None]
    if file is None and not any(path.exists() for path in (*with_model, user_file("any").parent)):
        return None
    wanted = settings()
    places = [user_file(wanted["weights"]), *with_model]
    if folder is not None:
        # There `visualquality calibrate` writes, so the newest of the user's own is there.
        places.reverse()
    places = [place for place in places if place.is_file()] if file is None else [file]
    for place in places:
        for calibration in read_calibrations(place):
            if calibration.settings == tied(wanted):
                return calibration
    return None


def why_no_interval(file: Path, settings: Mapping[str, Any]) -> str:
    """One sentence: why no calibration in `file` fits a rater with these settings. Raises UserError as above."""
    found, wanted = read_calibrations(file), tied(settings)
    start = f"no intervals: {file}"
    if "weights" not in wanted:
        return f"{start} is for known weights, and this engine does not say which weights it runs"
    if not found:
        return f"{start} holds no calibration"
    differences = []
    for calibration in found:
        names = dict.fromkeys([*wanted, *calibration.settings])
        pairs = [(name, calibration.settings.get(name), wanted.get(name)) for name in names]
        differences.append([pair for pair in pairs if pair[1] != pair[2]])
    # Of the one that is nearest.
    nearest = min(differences, key=len)
    listed = ", ".join(f"{name} {was} and not {now}" for name, was, now in nearest)
    return f"{start} was made with {listed}"
