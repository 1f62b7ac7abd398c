"""What the golden files are made from: images, manifests, recipes, and (made once) models and source forms.

All of it is a function of nothing but the installed numpy, Pillow and scikit-image, so two makes see the same input.
"""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

ODD_NAME = os.fsdecode(b"not utf-8 \xff.png")


def texture(seed: int, size: tuple[int, int] = (84, 56)) -> Image.Image:
    """A coloured pattern with noise, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    noise = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(coarse.resize(size, Image.Resampling.BICUBIC), noise, 0.3)


def photo(name: str, width: int = 224) -> Image.Image:
    """A photo that comes inside scikit-image, made smaller."""
    import skimage.data

    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    height = round(width * image.height / image.width)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def write_images(root: Path) -> None:
    """`root/images` (22 readable images of all kinds and 2 broken files), `odd`, `few`, `references`, `photos`."""
    images = root / "images"
    images.mkdir(parents=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo(name).save(images / f"{name}.png")
    cat = photo("chelsea")
    cat.filter(ImageFilter.GaussianBlur(3)).save(images / "blur.png")
    cat.save(images / "compressed.jpg", quality=8)
    cat.convert("CMYK").save(images / "cmyk.jpg", quality=90)
    cat.convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(images / "palette.png")
    cat.convert("L").save(images / "grey.png")
    cat.convert("LA").save(images / "grey-alpha.png")
    cat.save(images / "photo.webp", lossless=True)
    cat.save(images / "photo.tif", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    cat.save(images / "turned.jpg", quality=90, exif=exif)
    clear = cat.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(cat.size))
    clear.save(images / "transparent.png")
    deep = np.linspace(0, 65535, 120 * 160).reshape(120, 160).astype(np.uint16)
    Image.fromarray(deep).save(images / "sixteen-bit.png")
    frames = [texture(seed, (96, 64)).quantize(64) for seed in range(3)]
    frames[0].save(images / "animated.gif", save_all=True, append_images=frames[1:], duration=50)
    noise = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "noise.png")
    Image.linear_gradient("L").resize((180, 120)).convert("RGB").save(images / "gradient.png")
    Image.new("RGB", (64, 64), (127, 127, 127)).save(images / "flat.png")
    Image.new("1", (50, 40), 1).save(images / "bilevel.png")
    texture(1, (5, 3)).save(images / "tiny.png")
    texture(2, (300, 20)).save(images / "strip.png")
    # Two that no reader opens: text, and a file that was cut off.
    (images / "broken-text.png").write_text("this is no image\n")
    whole = (images / "astronaut.png").read_bytes()
    (images / "broken-half.png").write_bytes(whole[: len(whole) // 2])

    (root / "odd").mkdir()
    texture(3).save(root / "odd" / 'comma, "quote" ü.png')
    texture(4).save(root / "odd" / ODD_NAME)

    for folder in ("few", "references", "photos"):
        (root / folder).mkdir()
    for seed in range(4):  # NIQE wants many patches that are equally sharp
        texture(seed, (480, 480)).save(root / "photos" / f"{seed}.png")
    for seed, size in enumerate([(84, 56), (260, 60), (60, 60), (40, 150)]):
        texture(seed, size).save(root / "references" / f"{seed}.png")
        blurred = texture(seed, size).filter(ImageFilter.GaussianBlur(1 + seed))
        blurred.save(root / "few" / f"{seed}.png")


def write_manifests(root: Path) -> None:
    """`root/rated/lab.csv` (MOS from 1 to 5) and `wild.csv` (from 20 to 100), 8 images each, and files of scores."""
    folder = root / "rated"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    scores: list[tuple[str, str]] = []
    for dataset, scale in (("lab", 1.0), ("wild", 20.0)):
        lines = [["image", "mos", "std", "dataset", "reference", "reasoning"]]
        for i in range(8):
            name = f"{dataset}{i}.png"
            seed = i // 2 + (20 if dataset == "wild" else 0)
            texture(seed, (112, 112)).save(folder / f"{dataset}-original{i // 2}.png")
            texture(seed, (112, 112)).filter(ImageFilter.GaussianBlur(i / 3)).save(folder / name)
            mos = (5 - i / 2) * scale
            lines.append(
                [name, f"{mos}", "0.5", dataset, f"{dataset}-original{i // 2}.png", f"Blur {i}."]
            )
            scores.append((name, f"{5 - i / 2 + rng.normal():.6f}"))
        with (folder / f"{dataset}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    # The same scores in two forms; in the second an image has none, as where an answer was unreadable.
    with (root / "rated" / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "score"), *scores])
    with (root / "rated" / "scores.jsonl").open("w") as file:
        for index, (name, score) in enumerate(scores):
            record = {"image": name, "score": None if index == 3 else float(score)}
            file.write(json.dumps(record) + "\n")
    # All 16 images as one data set, for BRISQUE, which wants five references or more.
    with (root / "rated" / "both.csv").open("w", newline="") as file:
        rows = [("image", "mos", "dataset", "reference")]
        for dataset in ("lab", "wild"):
            for i in range(8):
                original = f"{dataset}-original{i // 2}.png"
                rows.append((f"{dataset}{i}.png", f"{5 - i / 2}", "both", original))
        csv.writer(file).writerows(rows)
    # A manifest of many names and no images, for splits.
    with (root / "rated" / "names.csv").open("w", newline="") as file:
        names = [("image", "mos", "dataset", "reference")]
        for i in range(60):
            names.append((f"x/{i:03d}.png", f"{1 + i % 5}", "one", f"scene{i // 4}"))
            names.append((f"y/{i:03d}.png", f"{i}", "two", ""))
        csv.writer(file).writerows(names)


SUITE = """\
title: Golden
plcc: logistic
paper: [NIQE, VisualQuality-R1]
methods:
  - {name: File, scores: rated/scores.csv, group: Files}
  - {name: File with a gap, scores: rated/scores.jsonl, group: Files}
"""
SUITE_MODELS = """\
  - {name: NIQE, model: niqe, group: Handcrafted}
  - {name: nano, model: nano, mode: expect}
"""
SUITE_DATA = """\
datasets:
  - {name: Lab, manifest: rated/lab.csv, column: KonIQ}
  - {name: Wild, manifest: rated/wild.csv, group: Ours}
"""
# One data set and scores that are files, with the PLCC that no fit goes into: the same numbers on every processor.
SUITE_UNIT = SUITE.replace("logistic", "raw") + (
    "datasets:\n  - {name: Both, manifest: rated/both.csv, column: KonIQ}\n"
)


def write_suites(root: Path) -> None:
    (root / "suite-unit.yaml").write_text(SUITE_UNIT)
    (root / "suite.yaml").write_text(SUITE + SUITE_MODELS + SUITE_DATA)
    (root / "suite-files.yaml").write_text(SUITE + SUITE_DATA)


def recipes(root: Path, models: Path) -> dict[str, dict[str, Any]]:
    """The training runs by name: four steps of every method, on small random models."""
    rated = root / "rated"
    base: dict[str, Any] = {
        "method": "rl2r",
        "model": "nano",
        "data": [
            {"manifest": str(rated / "lab.csv")},
            {"manifest": str(rated / "wild.csv"), "mos_range": [0, 100]},
        ],
        "optimizer": {"steps": 4, "images_per_device": 4, "learning_rate": 1e-3},
        "rl2r": {"responses": 3, "max_new_tokens": 8, "kl_weight": 0.1},
        "checkpoint_every": 2,
        "max_pixels": 56 * 56,
    }
    lora = {"lora": {"rank": 4, "alpha": 8}}
    probes = {"probes": {"manifest": str(rated / "lab.csv")}, "probe_every": 2}
    qwen = {"model": "qwen2_5_vl"}
    changes: dict[str, dict[str, Any]] = {
        "rl2r-nano": {**probes},
        "rl2r-nano-lora": lora,
        "rl2r-qwen2_vl": {"model": "qwen2_vl"},
        "rl2r-qwen2_5_vl": {**qwen, **probes},
        "rl2r-qwen2_5_vl-lora": {**qwen, **lora},
        "rl2r-qwen3_vl": {"model": "qwen3_vl"},
        "rl2r-accumulation": {"optimizer": {"images_per_device": 2, "accumulation": 2}},
        "rl2r-compare-within": {"rl2r": {"compare_within": 2}},
        "rl2r-length-weight": {"rl2r": {"length_weight": 0.5}},
        "rl2r-binary": {"rl2r": {"reward": "binary"}},
        "rl2r-probability-average": {"rl2r": {"reward": "probability_average"}},
        "rl2r-fixed-variance": {"rl2r": {"reward": "fixed_variance"}},
        "rl2r-absolute": {"rl2r": {"reward": "absolute"}, "freeze_vision": True},
        "rl2r-reference": {**qwen, "reference": True},
        "rl2r-released-prompt": {**qwen, "prompt": "released", "gradient_checkpointing": True},
        "sft-nano": {"method": "sft", "sft": {"score_noise": 0.3, "every_prompt": True}},
        "sft-qwen2_5_vl-lora": {"method": "sft", **qwen, **lora},
        "sft-accumulation": {
            "method": "sft",
            "optimizer": {"images_per_device": 2, "accumulation": 2},
        },
        "expect-fidelity": {"method": "expect"},
        "expect-regression": {"method": "expect", "expect": {"objective": "regression"}},
        "expect-levels": {"method": "expect", "expect": {"objective": "levels"}},
        "expect-soft-levels": {"method": "expect", "expect": {"objective": "soft_levels"}},
        "expect-rehearsal": {"method": "expect", "expect": {"rehearsal": 0.5}},
        "expect-qwen2_5_vl": {"method": "expect", **qwen, "expect": {"rehearsal": 0.5}},
    }
    made = {}
    for name, change in changes.items():
        tree = dict(base)
        for key, value in change.items():
            tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) else value
        tree["model"] = str(models / tree["model"])
        made[name] = tree
    return made


FILE_FORMS = {
    "authors-txt": "KADID-10K_val_set.txt",
    "authors-jsonl": "train.jsonl",
    "pyiqa-csv": "meta_info_KonIQ10kDataset.csv",
    "deqa-json": "KONIQ/metas/train_koniq.json",
    "csv": "mine.csv",
}
FOLDER_FORMS = (
    *("kadid10k", "koniq10k", "spaq", "clive", "bid", "agiqa3k", "biq2021", "sriqa-bench"),
    *("liu13", "min19"),
)
# Name of the result -> source, and options of `data import`.
IMPORTS: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in FOLDER_FORMS},
    **{name: (name, []) for name in FILE_FORMS if name != "csv"},
    "kadid10k-authors": ("kadid10k", ["--split", "authors"]),
    "koniq10k-official": ("koniq10k", ["--split", "official"]),
    "pyiqa-csv-split": ("pyiqa-csv", ["--split", "ratio802_seed123_split_01"]),
    "csv": (
        "csv",
        ["--columns", "image=Image Name", "--columns", "mos=Score", "--skip-missing"],
    ),
}


def source_root(sources: Path, source: str) -> Path:
    """What `data import` is given for a source: its folder, or its file."""
    return sources / source / FILE_FORMS.get(source, "")


def write_sources(folder: Path) -> None:
    """A small data set in each form that `data import` reads, in a folder of its name."""
    from source_forms import FORMS, draw, put

    for name, make in FORMS.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)
    put(folder / "liu13" / "Deblur_test_all.txt", "0_0.png 0_1.png 4.5\n0_0.png 0_10.png 1.0\n")
    put(
        folder / "min19" / "dehaze_test_all.txt",
        "lawn1_D1.png lawn1_D1_He09.png 3.4\nroad.png road_Cai16.png 5\n",
    )
    draw(folder / "liu13" / "images", "0_1.png", "0_10.png")
    draw(folder / "min19" / "images", "lawn1_D1_He09.png", "road_Cai16.png")
    root = folder / "authors-txt"
    draw(root, "a b.png", "a b_1.png", "c.png")
    put(root / FILE_FORMS["authors-txt"], "a b.png  a b_1.png 4.5 0.25\na b.png c.png 1 0\n")
    root = folder / "authors-jsonl"
    draw(root, "I01_01_01.png", "x.jpg")
    lines = ""
    for image, mos in (("I01_01_01.png", 4.633587786259543), ("x.jpg", "2.5")):
        turns = [{"from": "human", "value": "Rate."}, {"from": "gpt", "value": mos}]
        entry = {"id": 1, "dataset_name": "KADID-10K", "image": [image], "conversations": turns}
        lines += json.dumps(entry) + "\n"
    put(root / FILE_FORMS["authors-jsonl"], lines)
    draw(folder / "pyiqa-csv", "a.jpg", "b.jpg")
    put(
        folder / "pyiqa-csv" / FILE_FORMS["pyiqa-csv"],
        "img_name,mos,std,official_split,ratio802_seed123_split_01\n"
        "a.jpg,3.5,,train,val\nb.jpg,2,0.5,test,train\n",
    )
    draw(folder / "deqa-json" / "KONIQ" / "images", "1.jpg", "2.jpg")
    entries = [
        {"image": "KONIQ/images/1.jpg", "gt_score": 77.5, "gt_score_norm": 4.1, "std": 9.5},
        {"image": "KONIQ/images/2.jpg", "gt_score": 3},
    ]
    put(folder / "deqa-json" / FILE_FORMS["deqa-json"], json.dumps(entries))
    draw(folder / "csv", "a.jpg", "b.jpg")
    put(
        folder / "csv" / FILE_FORMS["csv"],
        "Image Name,Score,note\na.jpg,3,x\nb.JPG,4,\nc.jpg,5,\n",
    )


def write_models(folder: Path) -> None:
    """A small random model of each family, in a folder of its name."""
    from small_models import small_nano, small_qwen

    small_nano(folder / "nano")
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        small_qwen(folder / family, family)


if __name__ == "__main__":  # in a process of its own, since these import the package
    target = Path(sys.argv[1])
    write_models(target)
    write_sources(target / "sources")
