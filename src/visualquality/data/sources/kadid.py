"""KADID-10k: 81 references, each with 25 distortions at 5 levels (Lin, Hosu, Saupe, QoMEX 2019)."""

import json
import math
import re
from importlib import resources

from ..manifest import Row
from .locate import Request
from .tables import read_table

# Number 1 to 25 in the file name -> what KADID-10k calls it.
DISTORTIONS = (
    "Gaussian blur",
    "Lens blur",
    "Motion blur",
    "Color diffusion",
    "Color shift",
    "Color quantization",
    "Color saturation 1",
    "Color saturation 2",
    "JPEG2000",
    "JPEG",
    "White noise",
    "White noise in color component",
    "Impulse noise",
    "Multiplicative noise",
    "Denoise",
    "Brighten",
    "Darken",
    "Mean shift",
    "Jitter",
    "Non-eccentricity patch",
    "Pixelate",
    "Quantization",
    "Color block",
    "High sharpen",
    "Contrast change",
)
_NAME = re.compile(r"(I\d\d)_(0[1-9]|1\d|2[0-5])_0([1-5])\.png", re.IGNORECASE)


def kadid10k(request: Request) -> list[Row]:
    """`dmos.csv` (dist_img, ref_img, dmos, var) and `images/`; the split is None or "authors".

    - In spite of its name `dmos` is from 1 to 5, higher is better.
    - `std` is the root of the column `var`, as in the label files of the paper's authors (I01_01_01: 0.496 ->
      0.704). The numbers themselves say otherwise: of the 9732 rows whose MOS 30 raters with whole grades
      can give, 98 % fit if that column is a standard deviation already, and 1 % if it is a variance.
    - `distortion` is KADID-10k's name of it, `extra["level"]` is 1 to 5, `reference` is ref_img.
    - The label files of the paper's authors hold another MOS, 1.0178 dmos - 0.0178, which stretches the
      largest, 4.93, to 5 (I01_01_01: 4.57 -> 4.63); ranks and correlations are the same.
    """
    table = request.file("dmos.csv")
    folder = request.image_folder("images", "Images", beside=table.parent)
    split_of = authors_split() if request.split == "authors" else {}
    rows = []
    for record in read_table(table, ("dist_img", "ref_img", "dmos", "var"), request.source):
        name = record.text("dist_img")
        if not (parts := _NAME.fullmatch(name)):
            raise record.fault(
                "dist_img", f"{name!r} is not of the form I01_01_01.png: get {request.source}"
            )
        row = Row(
            image=folder / name,
            mos=record.number("dmos", 1, 5),
            dataset=request.name,
            std=math.sqrt(record.number("var", 0)),
            reference=record.text("ref_img"),
            split=split_of.get(parts[1].upper()),
            distortion=DISTORTIONS[int(parts[2]) - 1],
            extra={"level": int(parts[3])},
        )
        rows.append(row)
    return rows


def authors_split() -> dict[str, str]:
    """The split of the paper (section 4.1, "6 : 2 : 2"): reference I01 to I81 -> train, val or test (49, 16, 16).

    From the label files that its authors published with their code (Apache-2.0).
    """
    text = (
        resources.files(__package__)
        .joinpath("kadid10k_authors_split.json")
        .read_text(encoding="utf-8")
    )
    return {
        reference: split
        for split, references in json.loads(text).items()
        for reference in references
    }
