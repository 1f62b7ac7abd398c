"""Data sets as their makers publish them, a function each. Its docstring says what is easily misread.

Synthetic distortions: KADID-10k. Photographs, without a reference image: KonIQ-10k, SPAQ, CLIVE, BID, BIQ2021.
Images that a machine made: AGIQA-3K (generated), Liu13 (deblurred), Min19 (dehazed), SRIQA-Bench (upscaled).
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import PureWindowsPath

from ..row import Row
from .distribution import Distribution
from .records import read_labels, read_mat, read_records

# Number 1 to 25 in the file name -> what KADID-10k calls it.
KADID_DISTORTIONS = (
    "Gaussian blur", "Lens blur", "Motion blur", "Color diffusion", "Color shift",
    "Color quantization", "Color saturation 1", "Color saturation 2", "JPEG2000", "JPEG",
    "White noise", "White noise in color component", "Impulse noise", "Multiplicative noise", "Denoise",
    "Brighten", "Darken", "Mean shift", "Jitter", "Non-eccentricity patch",
    "Pixelate", "Quantization", "Color block", "High sharpen", "Contrast change",
)  # fmt: skip
_KADID_NAME = re.compile(r"(I\d\d)_(0[1-9]|1\d|2[0-5])_0([1-5])\.png", re.IGNORECASE)
_KONIQ_SETS = "koniq10k_distributions_sets.csv"
# KonIQ-10k's names of the splits -> ours.
_KONIQ_SPLITS = {"training": "train", "validation": "val", "test": "test"}
_CLIVE_TRAINING = 7  # images that raters were trained with
_BIQ2021_FILES = {
    "train": ("Train (Images and MOS).csv", "Train.csv", "train.csv"),
    "test": ("Test (Images and MOS).csv", "Test.csv", "test.csv"),
}


def kadid10k(data: Distribution) -> Iterable[Row]:
    """`dmos.csv` (dist_img, ref_img, dmos, var) and `images/`; 81 references × 25 distortions × 5 levels.

    Lin, Hosu, Saupe, QoMEX 2019. The split is None or "authors".

    - In spite of its name `dmos` is from 1 to 5, higher is better.
    - `std` is the root of the column `var`, as in the label files of the paper's authors (I01_01_01: 0.496 ->
      0.704). The numbers themselves say otherwise: of the 9732 rows whose MOS 30 raters with whole grades
      can give, 98 % fit if that column is a standard deviation already, and 1 % if it is a variance.
    - `distortion` is KADID-10k's name of it, `extra["level"]` is 1 to 5, `reference` is ref_img.
    - The label files of the paper's authors hold another MOS, 1.0178 dmos - 0.0178, which stretches the
      largest, 4.93, to 5 (I01_01_01: 4.57 -> 4.63); ranks and correlations are the same.
    """
    table = data.file("dmos.csv")
    folder = data.image_folder("images", "Images", beside=table.parent)
    # Each distorted image has the split of its reference.
    split_of = kadid10k_authors_split() if data.split == "authors" else {}
    for record in read_records(data, table, "dist_img", "ref_img", "dmos", "var"):
        name = record.text("dist_img")
        parts = _KADID_NAME.fullmatch(name)
        if parts is None:
            text = f"{name!r} is not of the form I01_01_01.png"
            raise record.error("dist_img", f"{text}: get {data.source}")
        yield Row(
            image=folder / name,
            mos=record.number("dmos", 1, 5),
            dataset=data.name,
            std=math.sqrt(record.number("var", 0)),
            reference=record.text("ref_img"),
            split=split_of.get(parts[1].upper()),
            distortion=KADID_DISTORTIONS[int(parts[2]) - 1],
            extra={"level": int(parts[3])},
        )


def kadid10k_authors_split() -> dict[str, str]:
    """The split of the paper (section 4.1, "6 : 2 : 2"): reference I01 to I81 -> train, val or test (49, 16, 16).

    From the label files that its authors published with their code (Apache-2.0).
    """
    path = resources.files(__package__).joinpath("kadid10k_authors_split.json")
    references_of = json.loads(path.read_text(encoding="utf-8"))
    return {reference: split for split, group in references_of.items() for reference in group}


def koniq10k(data: Distribution) -> Iterable[Row]:
    """`koniq10k_scores_and_distributions.csv` and `1024x768/`, or `512x384/` where only that is there.

    MOS is the column of that name, from 1 to 5 (not MOS_zscore, from 1 to 100), and SD its standard deviation.
    The official split lies in `koniq10k_distributions_sets.csv` and is used if that file is there; its column
    MOS is from 0 to 100 and is not read.
    """
    table = data.file("koniq10k_scores_and_distributions.csv")
    folder = data.image_folder("1024x768", "512x384", beside=table.parent)
    sets = data.find(_KONIQ_SETS, beside=table.parent)
    if sets is None and data.split == "official":
        raise data.error(f"{_KONIQ_SETS!r}, which has the official split, is not there")
    split_of = {}
    # Without that file all rows are left without a split.
    for record in read_records(data, sets, "image_name", "set") if sets else []:
        part = record.text("set")
        if part not in _KONIQ_SPLITS:
            text = f"{part!r} is none of {', '.join(_KONIQ_SPLITS)}"
            raise record.error("set", f"{text}: get {data.source}")
        split_of[record.text("image_name")] = _KONIQ_SPLITS[part]
    for record in read_records(data, table, "image_name", "MOS", "SD"):
        name = record.text("image_name")
        # An image that one file has and the other lacks: these are not two files of one release.
        if split_of and name not in split_of:
            raise record.error("image_name", f"{name!r} is not in {_KONIQ_SETS}: get {data.source}")
        mos, std = record.number("MOS", 1, 5), record.number("SD", 0)
        yield Row(folder / name, mos, data.name, std, split=split_of.get(name))


def spaq(data: Distribution) -> Iterable[Row]:
    """`Annotations/MOS and Image attribute scores.xlsx` ("Image name", "MOS", 0 to 100) and `TestImage/`.

    It has no standard deviations and no official split. The label file of the paper's authors has MOS from
    1 to 5 instead.
    """
    table = data.file("Annotations/MOS and Image attribute scores.xlsx")
    folder = data.image_folder("TestImage", beside=table.parents[1])
    for record in read_records(data, table, "Image name", "MOS"):
        image = folder / record.text("Image name")
        yield Row(image, record.number("MOS", 0, 100), data.name)


def clive(data: Distribution) -> Iterable[Row]:
    """`Data/AllImages_release.mat`, `AllMOS_release.mat` (0 to 100), `AllStdDev_release.mat`, and `Images/`.

    The first 7 of the 1169 images (t1 to t7, in Images/trainingImages) are those that raters were trained
    with, and are left out: 1162.
    """
    # Each file has one variable, of the file's own name.
    variables = ("AllImages_release", "AllMOS_release", "AllStdDev_release")
    files = [data.file(f"Data/{variable}.mat") for variable in variables]
    names, mos, std = map(read_mat, [data] * 3, files, variables)
    labels = files[0].parent
    if not len(names) == len(mos) == len(std):
        counts = f"{len(names)} names, {len(mos)} MOS and {len(std)} standard deviations"
        raise data.error(f"the .mat files in {labels} have {counts}")
    # Else seven rated images would be left out of a table in another order.
    first = [str(name) for name in names[:_CLIVE_TRAINING]]
    if not all(re.fullmatch(r"t\d\.\w+", name) for name in first):
        wanted = f"the {_CLIVE_TRAINING} training images t1 to t{_CLIVE_TRAINING}"
        raise data.error(f"{files[0]} begins with {', '.join(first)}, not with {wanted}")
    folder = data.image_folder("Images", beside=labels.parent)
    for i in range(_CLIVE_TRAINING, len(names)):
        # False for NaN too.
        if not (0 <= mos[i] <= 100 and std[i] >= 0):
            text = f"{names[i]} has MOS {mos[i]} (0 to 100) and standard deviation {std[i]}"
            raise data.error(f"{labels}: {text}")
        yield Row(folder / str(names[i]), float(mos[i]), data.name, float(std[i]))


def bid(data: Distribution) -> Iterable[Row]:
    """`DatabaseGrades.xls` or `.xlsx` ("Image Number", "Average Subjective Grade", 0 to 5) and the images.

    Image n is DatabaseImage000n.JPG, in `ImageDatabase/` or beside the table; numbers are not contiguous.
    """
    table = data.file("DatabaseGrades.xls", "DatabaseGrades.xlsx")
    folder = data.image_folder("ImageDatabase", beside=table.parent)
    for record in read_records(data, table, "Image Number", "Average Subjective Grade"):
        # Excel stores every number as a float.
        number = record.number("Image Number", 0)
        if number != int(number):
            text = f"{number} is not a whole number"
            raise record.error("Image Number", f"{text}: get {data.source}")
        image = folder / f"DatabaseImage{int(number):04d}.JPG"
        yield Row(image, record.number("Average Subjective Grade", 0, 5), data.name)


def biq2021(data: Distribution) -> Iterable[Row]:
    """`Train (Images and MOS).csv`, `Test (Images and MOS).csv` ("Image Name", "MOS", 0 to 1), and `Images/`.

    The split is the official one, train or test by file; files named Train.csv and Test.csv, also in
    lower case, are accepted too. The train file has nameless empty columns. `ss02 (1014).jpg` is a .JPG on the
    disk. The official files list no image twice; one that is in both would be a leak, and is an error
    (`rows_on_disk`).
    """
    for split, names in _BIQ2021_FILES.items():
        table = data.file(*names)
        folder = data.image_folder("Images", "images", beside=table.parent)
        for record in read_records(data, table, "Image Name", "MOS"):
            image = folder / record.text("Image Name")
            yield Row(image, record.number("MOS", 0, 1), data.name, split=split)


def agiqa3k(data: Distribution) -> Iterable[Row]:
    """`data.csv` and `images/` (or the images beside it); MOS is mos_quality, 0 to 5, std its std_quality.

    mos_align, how well an image fits its prompt, is not image quality and is not read. extra: prompt, and
    generator, which is the image name's beginning (AttnGAN, DALLE2, glide, midjourney, sd1.5, xl2.2).
    """
    table = data.file("data.csv")
    folder = data.image_folder("images", "Images", beside=table.parent)
    for record in read_records(data, table, "name", "prompt", "mos_quality", "std_quality"):
        name, prompt = record.text("name"), record.values["prompt"]
        mos, std = record.number("mos_quality", 0, 5), record.number("std_quality", 0)
        extra: dict[str, object] = {"prompt": prompt, "generator": name.split("_")[0]}
        yield Row(folder / name, mos, data.name, std, extra=extra)


def liu13(data: Distribution) -> Iterable[Row]:
    """`Deblur_test_all.txt`, lines `reference image mos`: 40 scenes of 30 images (one of 29); MOS 1 to 5.

    Scene s has the reference s_0.png and the images s_1.png to s_30.png; which method made them is not said.
    """
    return _processed(data, "Deblur_test_all.txt", (1, 5))


def min19(data: Distribution) -> Iterable[Row]:
    """`dehaze_test_all.txt`, lines `reference image mos`: 75 hazy images, each dehazed by 8 methods; MOS 1 to 5.

    `distortion` is the method, from `<reference>_<method>.png`.
    """
    for row in _processed(data, "dehaze_test_all.txt", (1, 5)):
        yield _with_method(row, data)


def sriqa_bench(data: Distribution) -> Iterable[Row]:
    """`SRIQA-Bench_test_all.txt`, lines `reference image mos`: 100 scenes × (10 methods + Original).

    `distortion` is the method, from `<scene>_<method>.png`. The 100 originals, which people compared with the
    upscaled images and did not always like best, are kept, as the paper's count of 1100 has them; each is
    its own reference. MOS are from 0 to 100 *in every scene* (the worst 0, the best 100): between scenes
    they say nothing, so a correlation over all 1100 is lower than one scene by scene.
    """
    for row in _processed(data, "SRIQA-Bench_test_all.txt", (0, 100)):
        yield _with_method(row, data, ending="_Original")


def _processed(data: Distribution, file: str, scale: tuple[float, float]) -> Iterable[Row]:
    # The labels and the images come from different places, so the user may have put them side by side.
    table = data.file(file)
    folder = data.image_folder("images", "Images", beside=table.parent)
    form = ["reference", "image", "mos"]
    return read_labels(data, table, folder, dataset=data.name, form=form, scale=scale)


def _with_method(row: Row, data: Distribution, ending: str = "") -> Row:
    # SRIQA-Bench's references are named a1_Original.png, its images a1_<method>.png.
    # Windows' paths, as which a slash, too, is between folders.
    scene = PureWindowsPath(row.reference or "").stem.removesuffix(ending) + "_"
    name = PureWindowsPath(row.image).stem
    if not name.startswith(scene) or name == scene:
        raise data.error(f"{row.image.name} is not named after its reference {row.reference}")
    return replace(row, distortion=name.removeprefix(scene))
