"""One rated image: what a manifest has in a row. It needs no other library, so that `--help` starts fast."""

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
        for folder in self.image.parents:
            if (folder / self.reference).is_file():
                return folder / self.reference
        return None
