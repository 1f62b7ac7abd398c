"""Is what nano says of photos as people take them true? Against 160 photos as one viewer saw them.

    python benchmarks/viewed.py --biq2021 IMAGES --pcuid PCUID --h265 H265 [--json benchmarks/results/viewed.json]

benchmarks/viewed.csv has the photos: 120 of BIQ2021's train part that nano was not trained on, 20 underwater photos and
20 stills of H.265 (where to get them: panel.py). One viewer wrote down the main fault of each, or none, and what else
would be true to say, at full size and before reading what nano says. Another viewer would have written other things.

- A named fault counts as right if it is the main fault, and as close if it is among the others. Where nano names none,
  that is right if the viewer saw none.
- What is said of exposure, contrast and colours is compared with measures of the pixels (recipes/nano/words.py). Within
  a tenth of the border between two words, both of them are true.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import clean_exit, parser, this_command, write_result
from rich.console import Console
from rich.table import Table
from truth import all_named

from recipes.nano.viewed import MEANS
from recipes.nano.words import BRIGHT, COLOURS, CONTRAST, EXPOSURE, HIGH, VIVID, tones_in, word
from visualquality import Scorer
from visualquality.data.images import open_image
from visualquality.errors import UserError
from visualquality.process import quiet_libraries

VIEWED = Path(__file__).with_name("viewed.csv")
NEAR = 0.1  # of a border between two words, as a share of it


@dataclass(frozen=True)
class Photo:
    """A photo of viewed.csv: where it is, its main fault or "none", and what else would be true to say."""

    set: str
    path: Path
    fault: str
    also: frozenset[str]


def photos(folders: dict[str, Path]) -> list[Photo]:
    """The photos whose set has a folder. Raises UserError for one whose file is missing."""
    found = []
    with VIEWED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["set"] not in folders:
                continue
            matches = list(folders[row["set"]].rglob(row["image"]))
            if not matches:
                raise UserError(f"{folders[row['set']]} has no {row['image']}: get the whole set")
            also = frozenset(part.strip() for part in row["also"].split(";") if part.strip())
            found.append(Photo(row["set"], matches[0], row["fault"], also))
    return found


def verdict(photo: Photo, named: list[str]) -> str:
    """ "right", "close" or "wrong", of the families that are named (the first is the main fault)."""
    if not named:
        if photo.fault == "none":
            return "right"
        return "close" if "none" in photo.also else "wrong"
    if named[0] in MEANS[photo.fault]:
        return "right"
    possible = set().union(MEANS[photo.fault], *(MEANS[fault] for fault in photo.also))
    return "close" if named[0] in possible else "wrong"


def true_words(value: float, bounds: tuple[tuple[float, str], ...], above: str) -> set[str]:
    """The words that are true of a value: one, or two near a border."""
    return {word(value * factor, bounds, above) for factor in (1 - NEAR, 1.0, 1 + NEAR)}


def false_tones(photo: Photo, reasoning: str) -> list[str]:
    """What of exposure, contrast and colours is said and not true, or is not said at all."""
    tones = tones_in(open_image(photo.path))
    said = reasoning.lower()
    wrong = []
    for name, value, bounds, above, forms in (
        (
            "exposure",
            tones.brightness,
            EXPOSURE,
            BRIGHT,
            ("exposure is {}", "it is {} in exposure"),
        ),
        ("contrast", tones.contrast, CONTRAST, HIGH, ("contrast is {}", "{} contrast")),
        ("colours", tones.colourfulness, COLOURS, VIVID, ("colours are {}", "{} colours")),
    ):
        words = true_words(value, bounds, above)
        if not any(form.format(one) in said for form in forms for one in words):
            wrong.append(name)
    return wrong


def main() -> None:
    options = parser(__doc__, short=False)
    options.add_argument("--biq2021", type=Path, required=True, help="folder of BIQ2021's images")
    options.add_argument("--pcuid", type=Path, help="a clone of JOU-UIP/PCUID")
    options.add_argument("--h265", type=Path, help="a clone of image_quality_test")
    options.add_argument("--model", default="nano", help="a model that `load` knows, or its folder")
    args = options.parse_args()
    quiet_libraries()
    folders = {
        "BIQ2021 held out": args.biq2021,
        "PCUID": args.pcuid,
        "H.265 stills": args.h265,
    }
    with clean_exit():
        viewed = photos({name: folder for name, folder in folders.items() if folder is not None})
        ratings = list(Scorer(args.model, batch=16).rate(photo.path for photo in viewed))
    rows = []
    for photo, rating in zip(viewed, ratings, strict=True):
        said = rating.reasoning or ""
        named = all_named(said)
        rows.append(
            {
                "set": photo.set,
                "image": photo.path.name,
                "fault": photo.fault,
                "named": named,
                "verdict": verdict(photo, named),
                "false tones": false_tones(photo, said),
                "said": said,
            }
        )
    show(rows, Console(width=110))
    if args.json:
        command = this_command(IMAGES=args.biq2021, PCUID=args.pcuid, H265=args.h265)
        write_result(args.json, command, {"summary": summary(rows), "rows": rows})


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """For each set and all together: shares of named faults that are right, or close, and of true tones."""
    sets = dict.fromkeys(row["set"] for row in rows)
    parts = {name: [row for row in rows if row["set"] == name] for name in sets} | {"all": rows}
    return {
        name: {
            "n": len(part),
            "right": float(np.mean([row["verdict"] == "right" for row in part])),
            "right or close": float(np.mean([row["verdict"] != "wrong" for row in part])),
            "tones all true": float(np.mean([not row["false tones"] for row in part])),
        }
        for name, part in parts.items()
    }


def show(rows: list[dict], console: Console) -> None:
    table = Table("set", "n", "right", "or close", "tones true", title="What is said of photos")
    for name, found in summary(rows).items():
        shares = (f"{found[key]:.0%}" for key in ("right", "right or close", "tones all true"))
        table.add_row(name, str(int(found["n"])), *shares)
    console.print(table)
    wrong = Counter(
        f"{row['fault']} called {row['named'][0] if row['named'] else 'none'}"
        for row in rows
        if row["verdict"] == "wrong"
    )
    for what, count in wrong.most_common(12):
        console.print(f"{count:3}  {what}")


if __name__ == "__main__":
    main()
