"""What each of nano's readers of quality is worth on each kind of picture: a table of ablations on the panel.

    python benchmarks/opinions.py --pcuid PCUID --h265 image_quality_test \
        --set "BIQ2021 held out=held_out.csv:0:1" --home "BIQ2021 held out" --json benchmarks/results/opinions.json

The sets are those of panel.py; no test set is looked at. Rows: each reader alone (models/nano/readers.py), their joined
quality, the same without one of them, and other rules to join them: a plain mean, and one side alone. And how unlike
the rated photos each set is.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import clean_exit, parser, this_command, write_result
from panel_sets import RatedSet, given_set, h265, pcuid, with_homes
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recipes.nano.features import Features
from visualquality.coefficients import srcc
from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.models.nano.readers import NAMES, Readers
from visualquality.process import quiet_libraries

Rule = Callable[
    [Tensor, Tensor], Tensor
]  # opinions (n, 1 + readers) and trust (n,) -> quality (n,)


def rules(readers: Readers) -> dict[str, Rule]:
    """The rows of the table by name."""
    shares = readers.shares.float()

    def joined(opinions: Tensor, trust: Tensor, kept: Tensor = shares) -> Tensor:
        others = opinions[:, 1:] @ (kept / kept.sum() * shares.sum())
        return trust * opinions[:, 0] + (1 - trust) * others

    found: dict[str, Rule] = {"home alone": lambda opinions, trust: opinions[:, 0]}
    for index, name in enumerate(NAMES, start=1):
        found[f"{name} alone"] = lambda opinions, trust, index=index: opinions[:, index]
    found["joined"] = joined
    for index, name in enumerate(NAMES):
        kept = shares.clone()
        kept[index] = 0
        found[f"joined without {name}"] = lambda opinions, trust, kept=kept: joined(
            opinions, trust, kept
        )
    found["others alone"] = lambda opinions, trust: joined(opinions, torch.zeros_like(trust))
    found["plain mean of home and others"] = lambda opinions, trust: joined(
        opinions, torch.full_like(trust, 0.5)
    )
    return found


@torch.no_grad()
def measure(
    readers: Readers, parts: tuple[Tensor, ...], rated: RatedSet
) -> tuple[dict[str, float], float]:
    """SRCC of each rule, and the median distance from the rated photos."""
    mos = [row.mos for row in rated.images.values()]
    distance = readers.strangeness(parts)
    middle, width = readers.threshold.float()
    trust = torch.sigmoid((middle - distance) / width)
    opinions = readers.opinions(parts)
    agreement = {
        name: srcc(rule(opinions, trust).tolist(), mos) for name, rule in rules(readers).items()
    }
    return agreement, float(distance.median())


def sets_of(args: argparse.Namespace) -> list[RatedSet]:
    sets = [given_set(text) for text in args.set]
    if args.pcuid:
        sets.append(pcuid(args.pcuid))
    if args.h265:
        sets.append(h265(args.h265))
    if not sets:
        raise UserError("no set is given: give --pcuid, --h265 or --set")
    return with_homes(sets, args.home)


def main() -> None:
    options = parser(__doc__, short=False)
    options.add_argument("--pcuid", type=Path, help="a clone of JOU-UIP/PCUID")
    options.add_argument("--h265", type=Path, help="a clone of image_quality_test")
    options.add_argument("--set", action="append", default=[], help="NAME=MANIFEST:LOW:HIGH")
    options.add_argument("--home", action="append", default=[], help="a set that is at home")
    options.add_argument("--model", default="nano", help="nano, or its folder")
    options.add_argument(
        "--work", type=Path, default=Path("runs/opinions"), help="keeps statistics of images"
    )
    args = options.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    with clean_exit():
        sets = sets_of(args)
        vlm = load(args.model, device="cpu")
        readers = vlm.model.model.vision.readers
        features = Features(args.work, console)
        columns, distances = {}, {}
        for each in sets:
            parts = features.parts(vlm, [row.image for row in each.images.values()])
            columns[each.name], distances[each.name] = measure(readers, parts, each)
    away = [each.name for each in sets if each.role == "away"]
    table = Table("SRCC", *columns, "mean away")
    rows = {}
    for rule in rules(readers):
        found = {name: column[rule] for name, column in columns.items()}
        found["mean away"] = sum(found[name] for name in away) / len(away) if away else float("nan")
        rows[rule] = found
        table.add_row(rule, *(f"{value:.3f}" for value in found.values()))
    table.add_row("distance (median)", *(f"{value:.2f}" for value in distances.values()), "")
    Console(width=120).print(table)
    if args.json:
        command = this_command(PCUID=args.pcuid, H265=args.h265)
        write_result(args.json, command, {"rows": rows, "distance": distances})


if __name__ == "__main__":
    main()
