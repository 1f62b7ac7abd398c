"""Is what nano says about an image true? The share of images whose named fault is the one that was applied.

    python benchmarks/truth.py --photos KODAK [--model nano] [--json benchmarks/results/truth.json]

The photos must not have been trained on. Each is rated clean, and once with every family of distortion, at a level from
2 to 5 (level 1 is hardly visible) given by a hash of photo and family. The fault that counts is the first one that the
reasoning names, in the reasoning that `visualquality score` shows: the sample nearest to the mean of K = 6.
Every family has the same weight.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import parser, this_command, write_result
from PIL import Image
from rich.console import Console
from rich.table import Table

from recipes.nano.words import FAULTS, STRENGTHS
from visualquality import Scorer
from visualquality.data.distort import distort
from visualquality.data.distortions import FAMILIES
from visualquality.data.find import find_images
from visualquality.data.images import open_image
from visualquality.process import quiet_libraries
from visualquality.seeds import order_key

# Families that look alike even to a person who knows them. They are reported beside the strict count.
ALIKE = (
    {"gaussian_blur", "lens_blur", "motion_blur", "resize"},
    {"white_noise", "color_noise", "multiplicative_noise", "impulse_noise"},
    {"brighten", "mean_shift"},
    {"color_quantization", "quantization"},
    {"jpeg2000", "denoise"},
)
FAMILY_OF = {fault.noun.lower(): family for family, fault in FAULTS.items()}
# A fault is always named with its strength right before its noun; no other sentence has the two together.
NAMED = re.compile(rf"\b({'|'.join(STRENGTHS)}) ({'|'.join(FAMILY_OF)})\b", re.IGNORECASE)
STRONG = STRENGTHS.index("strong") + 1  # its level


def named_faults(reasoning: str) -> list[tuple[str, int]]:
    """Family and level, 1 to 5, of every fault that is named, in the order of the text."""
    return [
        (FAMILY_OF[noun.lower()], STRENGTHS.index(strength.lower()) + 1)
        for strength, noun in NAMED.findall(reasoning)
    ]


def all_named(reasoning: str) -> list[str]:
    """The families of all faults that are named, in the order of the text."""
    return [family for family, _ in named_faults(reasoning)]


def named(reasoning: str) -> str | None:
    """The family of the first fault that is named; None where there is none."""
    return next(iter(all_named(reasoning)), None)


def alike(a: str | None, b: str) -> bool:
    return a == b or any(a in group and b in group for group in ALIKE)


def cases(photos: list[Path]) -> Iterator[tuple[str | None, int, Image.Image]]:
    """(family, level, image) of each photo: clean (None, 0), then with every family."""
    for path in photos:
        image = open_image(path)
        yield None, 0, image
        for family in FAMILIES:
            level = 2 + order_key(0, f"{path.stem}/{family}")[0] % 4
            yield family, level, distort(image, family, level, seed=level)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, required=True, help="a folder of clean photos")
    options.add_argument("--model", default="nano", help="a model that `load` knows, or its folder")
    args = options.parse_args()
    quiet_libraries()
    photos = find_images([args.photos])[: 4 if args.short else None]
    truth: list[tuple[str | None, int]] = []

    def images() -> Iterator[Image.Image]:
        for family, level, image in cases(photos):
            truth.append((family, level))
            yield image

    ratings = list(Scorer(args.model, batch=16).rate(images()))
    right, similar, answers = defaultdict(list), defaultdict(list), defaultdict(Counter)
    by_level, false_alarms = defaultdict(list), []
    for (family, level), rating in zip(truth, ratings, strict=True):
        reasoning = rating.reasoning or ""
        fault = named(reasoning)
        if family is None:
            false_alarms.append(any(level >= STRONG for _, level in named_faults(reasoning)))
            continue
        right[family].append(fault == family)
        similar[family].append(alike(fault, family))
        by_level[level].append(fault == family)
        answers[family][fault or "none"] += 1
    rows = [
        {
            "family": family,
            "n": len(right[family]),
            "right": float(np.mean(right[family])),
            "alike": float(np.mean(similar[family])),
            "said": dict(answers[family].most_common(3)),
        }
        for family in FAMILIES
    ]
    summary = {
        "named the applied fault, mean over families": float(np.mean([r["right"] for r in rows])),
        "or one that looks alike": float(np.mean([r["alike"] for r in rows])),
        "by level": {level: float(np.mean(found)) for level, found in sorted(by_level.items())},
        "a strong or severe fault named of a clean photo": float(np.mean(false_alarms)),
        "photos": len(photos),
    }
    table = Table("family", "right", "alike", "named", title=f"What {Path(args.model).name} says")
    for r in sorted(rows, key=lambda r: r["right"]):
        table.add_row(
            r["family"],
            f"{r['right']:.0%}",
            f"{r['alike']:.0%}",
            ", ".join(f"{k} {v}" for k, v in r["said"].items()),
        )
    Console(width=120).print(table)
    Console().print_json(json.dumps(summary))
    if args.json:
        command = this_command(KODAK=args.photos)
        write_result(args.json, command, {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
