"""Build `nano` from scratch, and `nano-base` where it is asked for. Each stage is kept in --work and is not done again.

    python recipes/nano/build.py --pristine BSDS500 --biq2021 manifest.csv --work runs/nano

1. synthetic/     distorted copies of clean photos, with pseudo-MOS (no human score)
4. chains/        pictures of one content from good to bad, without any rating (chains.py)
5. tower/         the tower's later blocks learn from human MOS, the chains and distorted photos; they are then
                  averaged with the published weights (tower.py)
6. lessons/       many more distorted photos, which teach the names of faults (faults.py)
   ladders/       the families of distortion at all of their levels (chains.py)
7. initial/       the tower of stage 5, an untrained decoder, and the vocabulary (initial.py)
8. reading/       the projectors learn to predict how good an image is and what is wrong with it (reading.py)
9. readers/       the readers of quality are fitted and joined (readers.py)
10. words/        the decoder learns the format, the sentences and the scores of the readers (words.yaml). It is what
                  RL2R starts from
11. rl2r/         RL2R on human MOS and on the synthetic set (rl2r.yaml)
12. distil/       the model learns its sentences again, on rated photos too (distil.py). The result is `nano`
13. with --export, the float16 weights are written into the package

`visualquality data import biq2021 FOLDER -o manifest.csv` makes BIQ2021's manifest. One photo in twenty of its train
part is held out by tower.py for validation. Nothing is ever trained on its test part.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from visualquality.data.distort import build_set
from visualquality.data.find import find_images
from visualquality.data.manifest import Manifest, Row
from visualquality.data.row import mos_on_1_to_5
from visualquality.models.load import EMBEDDED, load
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.process import quiet_libraries
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train
from visualquality.train.supervised import target_text

# Python puts only this script's folder on its path; the package `recipes` lies in the repository's root.
sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.nano.batches import best_rated, hold_out
from recipes.nano.chains import CHAINS, make_chains, make_ladders, read_chains
from recipes.nano.distil import lesson_responses, predicted_faults, responses
from recipes.nano.faults import make_lessons, read_lessons
from recipes.nano.features import Features
from recipes.nano.initial import initial, vocabulary
from recipes.nano.readers import fit_readers
from recipes.nano.reading import load_heads, train_projectors
from recipes.nano.tower import fine_tune, mean_weights, published_weights
from recipes.nano.viewed import read_viewed
from recipes.nano.words import example_responses

HERE = Path(__file__).parent
BIQ2021_RANGE = (0.0, 1.0)
SCALED_BY = 600  # images that set the scale of the projectors


@dataclass(frozen=True)
class Rated:
    """Photos with human MOS, as a manifest and as what is used of it."""

    manifest: Path
    rows: tuple[Row, ...]

    @property
    def images(self) -> list[Path]:
        return [row.image for row in self.rows]

    @property
    def mos(self) -> torch.Tensor:
        return torch.tensor([row.mos for row in self.rows])


def rated(manifest: Path) -> Rated:
    return Rated(manifest, Manifest.read(manifest, check_images=False).rows)


def synthetic(pristine: list[Path], folder: Path, console: Console) -> Path:
    """Stage 1: distort the photos. Returns the manifest."""
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        references = find_images(pristine)
        console.print(f"distorting {len(references)} photos")
        build_set(references, folder, per_reference=12, seed=0, workers=2)
    return manifest


def run(
    name: str,
    model: Path,
    output: Path,
    manifests: list[Path],
    features: Features,
    console: Console,
) -> Path:
    """Stages 10 to 12: train a recipe of this folder on these manifests, or resume it."""
    if (output / "final" / "model.safetensors").exists():
        return output / "final"
    paths = [f"data.{i}.manifest={path.resolve()}" for i, path in enumerate(manifests)]
    recipe = read_recipe(HERE / name, (f"model={model.resolve()}", *paths), output)
    resume = (output / "recipe.yaml").exists()
    return train(recipe, resume=resume, console=console, cache=features.cache)


def write_rows(rows: list[Row], path: Path) -> Path:
    Manifest(tuple(rows)).write(path)
    return path


def export(nano: Path, console: Console) -> None:
    """Stage 13: write float16 weights, and nano's configuration and vocabulary, into the package."""
    vlm = load(str(nano), device="cpu")
    # lm_head is tied to the embeddings: one copy is enough.
    state = {
        k: v.half().contiguous() for k, v in vlm.model.state_dict().items() if k != "lm_head.weight"
    }
    save_file(state, EMBEDDED / "nano.safetensors")
    vlm.model.config.save_pretrained(EMBEDDED)
    vlm.model.generation_config.save_pretrained(EMBEDDED)
    vlm.processor.save_pretrained(EMBEDDED)
    size = (EMBEDDED / "nano.safetensors").stat().st_size
    console.print(f"{EMBEDDED}: {size / 1e6:.1f} MB of weights")


def build(args: argparse.Namespace, console: Console) -> Path:
    """Stages 1 and 4 to 12; returns the folder of `nano`."""
    work = args.work
    seen = synthetic(args.pristine, work / "synthetic", console)
    clean = find_images(args.pristine)
    photos, held_out = map(rated, hold_out(args.biq2021, work / "tower"))
    best = best_rated(photos.rows)
    chains = make_chains(clean, best, work / "chains", console)
    published = fold_batch_norms(published_weights())
    tuned = fine_tune(photos.manifest, held_out.manifest, clean, chains, work / "tower")
    table = make_lessons(clean, best, work / "lessons", console, workers=2)
    lessons = read_lessons(table)
    ladders = read_chains(make_ladders(clean, best, work / "ladders", console))
    # Numbers of chains go on behind those of the others.
    pictures = [
        *read_chains(chains),
        *(replace(picture, chain=picture.chain + CHAINS) for picture in ladders),
    ]
    start = initial(
        vocabulary([target_text(score, words) for score, words in example_responses()]),
        mean_weights(published, tuned),
        work / "initial",
        extended=True,
    )
    features = Features(work / "features", console)
    vlm = load(str(start), device="cpu")
    viewed = read_viewed(HERE / "viewed_faults.csv", photos.rows[0].image.parent)
    parts = {
        "photos": features.parts(vlm, photos.images),
        "held out": features.parts(vlm, held_out.images),
        "lessons": features.parts(vlm, [one.image for one in lessons]),
        "chains": features.parts(vlm, [Path(picture.image) for picture in pictures]),
        "viewed": features.parts(vlm, [one.image for one in viewed]),
    }
    typical = [features.cache.features[(one.image,)] for one in lessons]
    reading = train_projectors(
        start,
        work / "reading",
        typical[:: max(1, len(typical) // SCALED_BY)],
        (parts["photos"], photos.mos),
        (parts["held out"], held_out.mos),
        (parts["lessons"], lessons),
        (parts["viewed"], viewed),
        console,
    )
    vlm = load(str(reading), device="cpu")
    heads, readers = load_heads(reading, vlm), vlm.model.model.vision.readers
    folder = work / "readers"
    if not (folder / "model.safetensors").exists():
        mos = torch.tensor([mos_on_1_to_5(value, BIQ2021_RANGE) for value in held_out.mos.tolist()])
        found = fit_readers(
            readers,
            parts["photos"],
            photos.mos,
            parts["held out"],
            mos,
            parts["chains"],
            pictures,
        )
        console.print({name: round(value, 4) for name, value in found.items()})
        vlm.processor.save_pretrained(folder)
        vlm.model.save_pretrained(folder)
    readers = load(str(folder), device="cpu").model.model.vision.readers
    taught = lesson_responses(lessons, parts["lessons"], readers)
    words = run(
        "words.yaml",
        folder,
        work / "words",
        [write_rows(taught, work / "words.csv")],
        features,
        console,
    )
    ranked = run("rl2r.yaml", words, work / "rl2r", [photos.manifest, seen], features, console)
    with torch.no_grad():
        quality, errors = readers(parts["photos"]).unbind(1)
    named = predicted_faults(heads, parts["photos"])
    said = responses(photos.images, named, parts["photos"], quality, errors, undamaged=False)
    targets = write_rows([*said, *taught], work / "distil.csv")
    return run("distil.yaml", ranked, work / "distil", [targets], features, console)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pristine", type=Path, nargs="+", required=True, help="folders of clean photos"
    )
    parser.add_argument(
        "--biq2021",
        type=Path,
        required=True,
        help="manifest of BIQ2021; only its train part is used",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/nano"), help="folder of the stages' results"
    )
    parser.add_argument("--export", action="store_true", help="write the weights into the package")
    args = parser.parse_args()
    quiet_libraries()
    console = Console(stderr=True)
    nano = build(args, console)
    if args.export:
        export(nano, console)


if __name__ == "__main__":
    main()
