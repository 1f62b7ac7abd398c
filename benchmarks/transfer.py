"""How well predictors of quality that learn from one data set do on another of a different kind (SRCC).

    python benchmarks/transfer.py --data FOLDER --synthetic MANIFEST --json benchmarks/results/transfer.json

The sets are photos with human MOS (BIQ2021's train part) and distorted photos with pseudo-MOS, every second image of
each. A predictor learns from seven tenths of one set, and is tested on the rest of that set and on all of the other.
The inputs are statistics of the published tower, which was trained on neither set, and of the pixels. The stages and
the shrinkage of recipes/nano/ridge.py were chosen with this benchmark alone.

FOLDER is as for rl2r_biq2021.py. MANIFEST is seen.csv, made by stage 1 of recipes/nano/build.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from common import rated_parser, this_command, write_result
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recipes.nano.features import ImageStatistics, image_statistics
from recipes.nano.initial import initial
from recipes.nano.measure import mean_transfer, train_set
from recipes.nano.reading import LEARNING_RATE, WARMUP, WEIGHT_DECAY, ProjectorsWithHeads
from recipes.nano.ridge import fit
from recipes.nano.tower import plcc_loss, published_weights
from visualquality.data.manifest import Manifest
from visualquality.evaluate.coefficients import srcc
from visualquality.models.load import load
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.models.nano.vision import LATER, LIMIT, STAGE_WIDTHS, Projector
from visualquality.process import quiet_libraries
from visualquality.train.examples import FeatureCache, PromptEncoder

TRAIN_SHARE = 0.7
STEPS, BATCH = 500, 96
SEEDS = (0, 1, 2)
Predictor = Callable[[ImageStatistics], Tensor]


def subset(images: ImageStatistics, indices: Tensor) -> ImageStatistics:
    """The images with these indices."""
    rows = tuple(images.rows[i] for i in indices.tolist())
    return ImageStatistics(rows, tuple(x[indices] for x in images.statistics))


def split(images: ImageStatistics, seed: int) -> tuple[ImageStatistics, ImageStatistics]:
    """Seven tenths to learn from, and the rest. All distorted copies of one photo are in the same part."""
    groups = [row.reference or row.image.name for row in images.rows]
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    train_names = {names[i] for i in order[: int(TRAIN_SHARE * len(names))]}
    train = torch.tensor([group in train_names for group in groups])
    return subset(images, train.nonzero()[:, 0]), subset(images, (~train).nonzero()[:, 0])


def perceptron(images: ImageStatistics, seed: int, stages: slice) -> Predictor:
    """Trained as in recipes/nano/reading.py, but from some of the statistics and for quality alone."""
    torch.manual_seed(seed)
    statistics = images.statistics[stages]
    projectors = []
    for x in statistics:
        projectors.append(Projector(x.shape[1], 256, limit=LIMIT))
        projectors[-1].mean.copy_(x.mean(0))
        # As in the model: a constant statistic must not be divided by 0.
        projectors[-1].scale.copy_(x.std(0).clamp(min=1e-3))
    model = ProjectorsWithHeads(projectors).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=WARMUP)
    for _ in range(STEPS):
        chosen = torch.randint(len(images.rows), (BATCH,))
        loss = plcc_loss(model([x[chosen] for x in statistics])[0], images.mos[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    model.eval()
    return lambda other: model(other.statistics[stages])[0].detach()


def ridge_regression(images: ImageStatistics) -> Predictor:
    """The regression of recipes/nano/ridge.py."""
    quality = fit([images], hidden=1)  # the decoder's width does not matter here
    return lambda other: quality.read(other.statistics)


def mean_of(*predictors: Predictor) -> Predictor:
    """The sum of the predictions, each standardised over the images that are predicted."""

    def predict(images: ImageStatistics) -> Tensor:
        predictions = [predictor(images) for predictor in predictors]
        return sum((x - x.mean()) / x.std() for x in predictions)

    return predict


def fitted_predictors(images: ImageStatistics, seed: int) -> dict[str, Predictor]:
    """Predictors that have learnt from these images, by the names in the result."""
    whole, ridge = perceptron(images, seed, slice(None)), ridge_regression(images)
    return {
        "perceptrons on all stages and pixels": whole,
        "perceptrons on all stages": perceptron(images, seed, slice(len(STAGE_WIDTHS))),
        "perceptrons on the three later stages": perceptron(images, seed, LATER),
        "ridge regression on the three later stages": ridge,
        "mean of the first and the last": mean_of(whole, ridge),
    }


def every_second(manifest: Manifest, path: Path) -> Path:
    """Write a manifest of every second image to `path`."""
    Manifest(manifest.rows[::2]).write(path)
    return path


def measure(sets: dict[str, ImageStatistics]) -> list[dict[str, object]]:
    """SRCC of each predictor, set learnt from and seed, on the rest of that set ("itself") and on the other set."""
    rows = []
    for seed in SEEDS:
        for name, images in sets.items():
            # With two sets, the other one is unique.
            (other,) = (found for key, found in sets.items() if key != name)
            train, rest = split(images, seed)
            for label, predictor in fitted_predictors(train, seed).items():
                agreement = {
                    where: srcc(predictor(test).tolist(), test.mos.tolist())
                    for where, test in (("itself", rest), ("other", other))
                }
                rows.append({"reader": label, "learnt": name, "seed": seed, **agreement})
    return rows


def show(rows: Sequence[dict], console: Console) -> None:
    found = mean_transfer(rows)
    table = Table("predictor", *next(iter(found.values())), title="SRCC")
    for predictor, means in found.items():
        table.add_row(predictor, *(f"{value:.3f}" for value in means.values()))
    console.print(table)


def main() -> None:
    options = rated_parser(__doc__, "runs/transfer")
    options.add_argument("--synthetic", type=Path, required=True, help="seen.csv of build.py")
    args = options.parse_args()
    quiet_libraries()
    console, work = Console(stderr=True), args.work
    work.mkdir(parents=True, exist_ok=True)
    paths = {
        "BIQ2021": every_second(train_set(args.data), work / "biq2021.csv"),
        "synthetic": every_second(Manifest.read(args.synthetic), work / "synthetic.csv"),
    }
    tokenizer = load("nano-base").processor.tokenizer
    published = fold_batch_norms(published_weights())
    start = initial(
        tokenizer, published, paths["synthetic"], work / "published", console, pixels=True
    )
    vlm = load(str(start), device="cpu")
    encode = PromptEncoder(vlm, FeatureCache())
    console.print("computing the statistics of the images")
    widths = vlm.model.model.vision.widths
    sets = {name: image_statistics(path, encode, widths) for name, path in paths.items()}
    rows = measure(sets)
    show(rows, Console(width=150))
    if args.json:
        command = this_command(FOLDER=args.data, MANIFEST=args.synthetic)
        counts = {name: len(images.rows) for name, images in sets.items()}
        write_result(args.json, command, {"images": counts, "rows": rows})


if __name__ == "__main__":
    main()
