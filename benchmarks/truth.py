"""Is what nano says of an image true? On photos that nothing was trained on: the named fault against the one applied.

python benchmarks/truth.py --photos KODAK [--model nano] [--json benchmarks/results/truth.json]

Each photo gets every family of distortion once, at a level (2 to 5 of 5; level 1 is hardly visible) that a hash of both
names decides, and is looked at undistorted too. A fault counts as named where its noun is in the reasoning that
`visualquality score` shows (the sample nearest to the mean of K = 6). Every family has the same weight.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import machine, parser
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "nano"))
from words import FAULTS

from visualquality import Scorer
from visualquality.data.distort import distort
from visualquality.data.distortions import FAMILIES
from visualquality.data.find import find_images
from visualquality.data.images import open_image
from visualquality.quiet import quiet_libraries
from visualquality.seeds import order_key

# Families that look alike even to a person who knows them: reported beside the strict count.
ALIKE = (
    {"gaussian_blur", "lens_blur", "motion_blur", "resize"},
    {"white_noise", "color_noise", "multiplicative_noise", "impulse_noise"},
    {"brighten", "mean_shift"},
    {"color_quantization", "quantization"},
    {"jpeg2000", "denoise"},
)
NOUNS = sorted(
    ((noun.removeprefix("a "), family) for family, (noun, _) in FAULTS.items()),
    key=lambda p: -len(p[0]),
)


def named(reasoning: str) -> str | None:
    """The family whose noun is in the first sentence; the longest noun wins ("motion blur" over "blur")."""
    first = reasoning.split(":")[0].split(".")[0].lower()
    return next(
        (family for noun, family in NOUNS if re.search(rf"\b{re.escape(noun.lower())}\b", first)),
        None,
    )


def alike(a: str | None, b: str) -> bool:
    return a == b or any(a in group and b in group for group in ALIKE)


def cases(photos: list[Path]) -> Iterator[tuple[str | None, int, Image.Image]]:
    for path in photos:
        image = open_image(path)
        yield None, 0, image
        for family in FAMILIES:
            level = 2 + order_key(0, f"{path.stem}/{family}")[0] % 4
            yield family, level, distort(image, family, level, seed=level)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--photos", type=Path, required=True, help="a folder of clean photos")
    made.add_argument("--model", default="nano")
    args = made.parse_args()
    quiet_libraries()
    photos = find_images([args.photos])[: 4 if args.short else None]
    truth: list[tuple[str | None, int]] = []

    def images() -> Iterator[Image.Image]:
        for family, level, image in cases(photos):
            truth.append((family, level))
            yield image

    ratings = list(Scorer(args.model, batch=16).rate(images()))
    right, near, said = defaultdict(list), defaultdict(list), defaultdict(Counter)
    by_level, strong = defaultdict(list), []
    for (family, level), rating in zip(truth, ratings, strict=True):
        reasoning = rating.reasoning or ""
        fault = named(reasoning)
        if family is None:
            strong.append(
                fault is not None
                and bool(re.search(r"\b(strong|severe)\b", reasoning.split(":")[0]))
            )
            continue
        right[family].append(fault == family)
        near[family].append(alike(fault, family))
        by_level[level].append(fault == family)
        said[family][fault or "none"] += 1
    rows = [
        {
            "family": family,
            "n": len(right[family]),
            "right": float(np.mean(right[family])),
            "alike": float(np.mean(near[family])),
            "said": dict(said[family].most_common(3)),
        }
        for family in FAMILIES
    ]
    summary = {
        "named the applied fault, mean over families": float(np.mean([r["right"] for r in rows])),
        "or one that looks alike": float(np.mean([r["alike"] for r in rows])),
        "by level": {level: float(np.mean(found)) for level, found in sorted(by_level.items())},
        "a strong or severe fault named of a clean photo": float(np.mean(strong)),
        "photos": len(photos),
    }
    table = Table("family", "right", "alike", "said", title=f"What {Path(args.model).name} says")
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
        command = f"python benchmarks/truth.py --photos KODAK --model {Path(args.model).name}"
        result = {"machine": machine(), "command": command, "summary": summary, "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
