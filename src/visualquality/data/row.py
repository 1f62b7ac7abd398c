"""One rated image: what a manifest has in a row. It needs no other library, so that `--help` starts fast."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")


def mos_on_1_to_5(mos: float, mos_range: tuple[float, float]) -> float:
    """A MOS taken linearly to [1, 5]; `mos_range`: the lowest and the highest MOS that its scale has."""
    low, high = mos_range
    return 1 + 4 * (mos - low) / (high - low)


@dataclass(frozen=True)
class Row:
    """One rated image. `extra` holds the file's other columns, such as a distortion's `level`."""

    image: Path
    mos: float  # on the data set's own scale, higher is better
    dataset: str
    std: float | None = None  # of the ratings, in MOS units
    reference: str | None = None
    split: str | None = None
    distortion: str | None = None
    reasoning: str | None = None
    # Not in the hash: a dictionary has none.
    extra: dict[str, object] = field(default_factory=dict, hash=False)
    # Of this row in its file, the header being 1; 0 where it is of no file.
    number: int = field(default=0, compare=False)

    @property
    def reference_image(self) -> Path | None:
        """The file that `reference` names, relative to the image's folder or to the nearest one above it that has it.

        So it is found wherever the manifest lies, whether the column names files as KADID-10k does (beside the image)
        or relative to the whole set. None where `reference` is empty or names no file, such as a scene's number.
        """
        if not self.reference:
            return None
        # The second is a name from Windows; see `find.listed_path`.
        names = dict.fromkeys((self.reference, self.reference.replace("\\", "/")))
        for folder in self.image.parents:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        return None


# People who rate on one scale disagree: in published data sets a std is 5 to 30 % of the range of the MOS.
LEAST_STD = 0.02


def std_notes(rows: Iterable[Row], mos_range: tuple[float, float] | None = None) -> list[str]:
    """A sentence for each data set whose `std` cannot be on the scale of its `mos`, such as 0.8 beside MOS of 0 to 100.

    mos_range: the ends of the scale, if they are known. The std of two or more ratings in it is at most its length
    divided by the root of 2. Otherwise the range of the MOS stands for it: then a note comes only where every std is
    larger than the whole range. A note comes, too, where every std is below `LEAST_STD` of the range.
    """
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sets[row.dataset].append(row)
    notes = []
    for name, own in sets.items():
        stds = sorted(row.std for row in own if row.std is not None)
        low, high = min(row.mos for row in own), max(row.mos for row in own)
        span = high - low if mos_range is None else mos_range[1] - mos_range[0]
        if not stds or not span > 0:
            continue
        too_large = stds[0] > span if mos_range is None else stds[-1] > span / 2**0.5
        if too_large or 0 < stds[-1] < LEAST_STD * span:
            found = f"std is from {stds[0]:g} to {stds[-1]:g}, and mos from {low:g} to {high:g}"
            fix = "give the standard deviation of the ratings, in their unit, or leave std out"
            notes.append(f"{name}: {found}, so that std cannot be on the scale of mos: {fix}")
    return notes
