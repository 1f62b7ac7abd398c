"""Faults of 240 photos of BIQ2021's train part, as one viewer saw them before nano said anything (viewed_faults.csv).

What damages a photo as people take it is not what the families of distortion do, and no data set says what it is. So
these few photos teach, and the threshold above which a fault is named is chosen on them.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

# A fault as a viewer names it -> the families that nano may name for it.
MEANS = {
    "blur": {"gaussian_blur", "lens_blur", "resize", "motion_blur"},
    "motion blur": {"motion_blur", "gaussian_blur", "lens_blur"},
    "noise": {"white_noise", "color_noise", "multiplicative_noise", "impulse_noise"},
    "underexposure": {"darken"},
    "overexposure": {"brighten"},
    "low contrast": {"haze", "contrast_change"},
    "high contrast": {"contrast_change"},
    "colour cast": {"cast"},
    "loss of colour": {"color_saturation_hsv"},
    "oversaturation": {"color_saturation_lab"},
    "oversharpening": {"high_sharpen"},
    "oversmoothing": {"denoise"},
    "low resolution": {"resize", "pixelate"},
    "compression": {"jpeg", "jpeg2000", "hevc", "denoise"},
    "none": set(),
}


@dataclass(frozen=True)
class Viewed:
    """A photo and its main fault ("none" for none); `also` are others that would be true to name, or "none"."""

    image: Path
    fault: str
    also: tuple[str, ...]

    def families(self) -> set[str]:
        """The families that the main fault may be named as."""
        return MEANS[self.fault]

    def possible(self) -> set[str]:
        """All families that would be true to name."""
        return set().union(*(MEANS[fault] for fault in (self.fault, *self.also)))

    def none_is_true(self) -> bool:
        """Whether it would be true to name no fault."""
        return "none" in (self.fault, *self.also)


def read_viewed(table: Path, folder: Path) -> list[Viewed]:
    """The rows of a table with the columns image, fault and also; `folder` has the images."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Viewed(
            folder / row["image"],
            row["fault"],
            tuple(part.strip() for part in row["also"].split(";") if part.strip()),
        )
        for row in rows
    ]
