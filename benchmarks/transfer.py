"""What that is learnt from one data set carries over to another of a different kind?

    python benchmarks/transfer.py --data FOLDER --synthetic MANIFEST --json benchmarks/results/transfer.json

Photos with human MOS (BIQ2021's train part) and distorted photos with pseudo-MOS, every second image of each. A reader
of quality learns from seven tenths of one set, and is tested on the rest of it and on the whole of the other. All
readers see the same statistics, of the published tower, which has seen neither set, and of the pixels. The stages and
the shrinkage of recipes/nano/ridge.py were chosen by this and by nothing else.

FOLDER is as for rl2r_biq2021.py, MANIFEST is the seen.csv of recipes/nano/build.py.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from common import machine, parser
from rich.console import Console
from rich.table import Table
from rl2r_biq2021 import train_set
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "nano"))
from build import initial
from reading import LEARNING_RATE, WARMUP, WEIGHT_DECAY, Reading, Seen, look
from ridge import fit
from tower import published_weights, unlikeness

from visualquality.data.manifest import Manifest
from visualquality.evaluate.coefficients import srcc
from visualquality.models.load import load
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.models.nano.vision import LATER, LIMIT, STAGE_WIDTHS, Projector
from visualquality.process import quiet_libraries
from visualquality.train.examples import PromptEncoder

SHARE = 0.7
STEPS, BATCH = 500, 96
SEEDS = (0, 1, 2)
Reader = Callable[[Seen], Tensor]


def part(seen: Seen, places: Tensor) -> Seen:
    return Seen(
        tuple(seen.rows[i] for i in places.tolist()), tuple(x[places] for x in seen.statistics)
    )


def halves(seen: Seen, seed: int) -> tuple[Seen, Seen]:
    """Seven tenths to learn from and the rest; copies of one photo stay together."""
    groups = [row.reference or row.image.name for row in seen.rows]
    names = sorted(set(groups))
    chosen = {
        names[i]
        for i in np.random.default_rng(seed).permutation(len(names))[: int(SHARE * len(names))]
    }
    learnt = torch.tensor([group in chosen for group in groups])
    return part(seen, learnt.nonzero()[:, 0]), part(seen, (~learnt).nonzero()[:, 0])


def perceptron(seen: Seen, seed: int, stages: slice) -> Reader:
    """As reading.py learns, of some of the statistics and for quality alone."""
    torch.manual_seed(seed)
    statistics = seen.statistics[stages]
    projectors = []
    for x in statistics:
        projectors.append(Projector(x.shape[1], 256, limit=LIMIT))
        projectors[-1].mean.copy_(x.mean(0))
        projectors[-1].scale.copy_(x.std(0).clamp(min=1e-3))
    reading = Reading(projectors).train()
    optimizer = torch.optim.AdamW(reading.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=WARMUP)
    for _ in range(STEPS):
        places = torch.randint(len(seen.rows), (BATCH,))
        loss = unlikeness(reading([x[places] for x in statistics])[0], seen.mos[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    reading.eval()
    return lambda other: reading(other.statistics[stages])[0].detach()


def ridge_regression(seen: Seen) -> Reader:
    quality = fit([seen], hidden=1)
    return lambda other: quality.read(other.statistics)


def mean_of(*readers: Reader) -> Reader:
    """Each at its own mean and deviation over the images asked about."""

    def read(seen: Seen) -> Tensor:
        found = [reader(seen) for reader in readers]
        return sum((x - x.mean()) / x.std() for x in found)

    return read


def readers(seen: Seen, seed: int) -> dict[str, Reader]:
    whole, ridge = perceptron(seen, seed, slice(None)), ridge_regression(seen)
    return {
        "perceptrons on all stages and pixels": whole,
        "perceptrons on all stages": perceptron(seen, seed, slice(len(STAGE_WIDTHS))),
        "perceptrons on the three later stages": perceptron(seen, seed, LATER),
        "ridge regression on the three later stages": ridge,
        "mean of the first and the last": mean_of(whole, ridge),
    }


def every_second(manifest: Manifest, path: Path) -> Path:
    Manifest(manifest.rows[::2]).write(path)
    return path


def measure(sets: dict[str, Seen]) -> list[dict[str, object]]:
    rows = []
    for seed in SEEDS:
        for name, seen in sets.items():
            (other,) = (found for key, found in sets.items() if key != name)
            learnt, rest = halves(seen, seed)
            for label, reader in readers(learnt, seed).items():
                agreement = {
                    where: srcc(reader(asked).tolist(), asked.mos.tolist())
                    for where, asked in (("itself", rest), ("other", other))
                }
                rows.append({"reader": label, "learnt": name, "seed": seed, **agreement})
    return rows


def carried(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """The mean SRCC over seeds of each reader: "NAME: itself" and "NAME: other" for each set that it learnt from."""
    found: dict[str, dict[str, float]] = {}
    for reader, learnt in dict.fromkeys((row["reader"], row["learnt"]) for row in rows):
        own = [row for row in rows if (row["reader"], row["learnt"]) == (reader, learnt)]
        for where in ("itself", "other"):
            found.setdefault(reader, {})[f"{learnt}: {where}"] = fmean(row[where] for row in own)
    return found


def show(rows: Sequence[dict], console: Console) -> None:
    found = carried(rows)
    table = Table("reader", *next(iter(found.values())), title="SRCC")
    for reader, means in found.items():
        table.add_row(reader, *(f"{value:.3f}" for value in means.values()))
    console.print(table)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--synthetic", type=Path, required=True)
    made.add_argument("--work", type=Path, default=Path("runs/transfer"))
    args = made.parse_args()
    quiet_libraries()
    console, work = Console(stderr=True), args.work
    work.mkdir(parents=True, exist_ok=True)
    paths = {
        "BIQ2021": every_second(train_set(args.data), work / "biq2021.csv"),
        "synthetic": every_second(Manifest.read(args.synthetic), work / "synthetic.csv"),
    }
    tokenizer, published = (
        load("nano-base").processor.tokenizer,
        fold_batch_norms(published_weights()),
    )
    start = initial(
        tokenizer, published, paths["synthetic"], work / "published", console, pixels=True
    )
    vlm = load(str(start), device="cpu")
    encode = PromptEncoder(vlm, remember=True)
    console.print("looking at the images")
    sets = {name: look(path, encode, vlm.model.model.vision.widths) for name, path in paths.items()}
    rows = measure(sets)
    show(rows, Console(width=150))
    if args.json:
        command = "python benchmarks/transfer.py --data FOLDER --synthetic MANIFEST"
        images = {name: len(seen.rows) for name, seen in sets.items()}
        args.json.write_text(
            json.dumps(
                {"machine": machine(), "command": command, "images": images, "rows": rows}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
