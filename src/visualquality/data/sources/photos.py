"""Photographs as people took them, rated without a reference: KonIQ-10k, SPAQ, CLIVE, BID, BIQ2021."""

import re
from pathlib import Path

from ...errors import UserError
from ..manifest import Row
from .locate import Request
from .tables import read_mat, read_table

_KONIQ_SETS = "koniq10k_distributions_sets.csv"
_KONIQ_SPLITS = {"training": "train", "validation": "val", "test": "test"}
_CLIVE_TRAINING = 7
_BIQ2021_FILES = {
    "train": ("Train (Images and MOS).csv", "Train.csv", "train.csv"),
    "test": ("Test (Images and MOS).csv", "Test.csv", "test.csv"),
}


def koniq10k(request: Request) -> list[Row]:
    """`koniq10k_scores_and_distributions.csv` and `1024x768/`, or `512x384/` where only that is there.

    MOS is the column of that name, from 1 to 5 (not MOS_zscore, from 1 to 100), and SD its standard deviation.
    The official split lies in `koniq10k_distributions_sets.csv` and is used if that file is there; its column
    MOS is from 0 to 100 and is not read.
    """
    table = request.file("koniq10k_scores_and_distributions.csv")
    folder = request.image_folder("1024x768", "512x384", beside=table.parent)
    split_of = _koniq_split(request, table.parent)
    rows = []
    for record in read_table(table, ("image_name", "MOS", "SD"), request.source):
        name = record.text("image_name")
        if split_of and name not in split_of:
            raise record.fault(
                "image_name", f"{name!r} is not in {_KONIQ_SETS}: get {request.source}"
            )
        mos, std = record.number("MOS", 1, 5), record.number("SD", 0)
        rows.append(Row(folder / name, mos, request.name, std, split=split_of.get(name)))
    return rows


def _koniq_split(request: Request, beside: Path) -> dict[str, str]:
    sets = request.find(_KONIQ_SETS, beside=beside)
    if sets is None:
        if request.split == "official":
            raise UserError(
                f"{_KONIQ_SETS!r}, which has the official split, is not there: get {request.source}"
            )
        return {}
    split_of = {}
    for record in read_table(sets, ("image_name", "set"), request.source):
        if (name := record.text("set")) not in _KONIQ_SPLITS:
            raise record.fault(
                "set", f"{name!r} is none of {', '.join(_KONIQ_SPLITS)}: get {request.source}"
            )
        split_of[record.text("image_name")] = _KONIQ_SPLITS[name]
    return split_of


def spaq(request: Request) -> list[Row]:
    """`Annotations/MOS and Image attribute scores.xlsx` ("Image name", "MOS", 0 to 100) and `TestImage/`.

    It has no standard deviations and no official split. The label file of the paper's authors has MOS from
    1 to 5 instead.
    """
    table = request.file("Annotations/MOS and Image attribute scores.xlsx")
    folder = request.image_folder("TestImage", beside=table.parents[1])
    records = read_table(table, ("Image name", "MOS"), request.source)
    return [
        Row(folder / r.text("Image name"), r.number("MOS", 0, 100), request.name) for r in records
    ]


def clive(request: Request) -> list[Row]:
    """`Data/AllImages_release.mat`, `AllMOS_release.mat` (0 to 100), `AllStdDev_release.mat`, and `Images/`.

    The first 7 of the 1169 images (t1 to t7, in Images/trainingImages) are those that raters were trained
    with, and are left out: 1162.
    """
    names, mos, std = (_clive_column(request, what) for what in ("Images", "MOS", "StdDev"))
    if not len(names) == len(mos) == len(std):
        counts = f"{len(names)} names, {len(mos)} MOS and {len(std)} standard deviations"
        raise UserError(
            f"the .mat files in {_clive_file(request, 'Images').parent} have {counts}: get {request.source}"
        )
    first = [str(name) for name in names[:_CLIVE_TRAINING]]
    if not all(re.fullmatch(r"t\d\.\w+", name) for name in first):
        raise UserError(
            f"{_clive_file(request, 'Images')} begins with {', '.join(first)}, not with the {_CLIVE_TRAINING} training "
            f"images t1 to t{_CLIVE_TRAINING}: get {request.source}"
        )
    folder = request.image_folder("Images", beside=_clive_file(request, "Images").parents[1])
    rows = []
    for i in range(_CLIVE_TRAINING, len(names)):
        if not (0 <= mos[i] <= 100 and std[i] >= 0):
            said = f"{names[i]} has MOS {mos[i]} (0 to 100) and standard deviation {std[i]}"
            raise UserError(f"{_clive_file(request, 'MOS').parent}: {said}: get {request.source}")
        rows.append(Row(folder / str(names[i]), float(mos[i]), request.name, float(std[i])))
    return rows


def _clive_file(request: Request, what: str) -> Path:
    return request.file(f"Data/All{what}_release.mat")


def _clive_column(request: Request, what: str) -> list:
    return read_mat(_clive_file(request, what), f"All{what}_release", request.source)


def bid(request: Request) -> list[Row]:
    """`DatabaseGrades.xls` or `.xlsx` ("Image Number", "Average Subjective Grade", 0 to 5) and the images.

    Image n is DatabaseImage000n.JPG, in `ImageDatabase/` or beside the table; numbers are not contiguous.
    """
    table = request.file("DatabaseGrades.xls", "DatabaseGrades.xlsx")
    folder = request.image_folder("ImageDatabase", beside=table.parent, or_beside=True)
    rows = []
    for record in read_table(table, ("Image Number", "Average Subjective Grade"), request.source):
        number = record.number("Image Number", 0)  # Excel stores a float
        if number != int(number):
            raise record.fault(
                "Image Number", f"{number} is not a whole number: get {request.source}"
            )
        image = folder / f"DatabaseImage{int(number):04d}.JPG"
        rows.append(Row(image, record.number("Average Subjective Grade", 0, 5), request.name))
    return rows


def biq2021(request: Request) -> list[Row]:
    """`Train (Images and MOS).csv`, `Test (Images and MOS).csv` ("Image Name", "MOS", 0 to 1), and `Images/`.

    The split is the official one, train or test by file; files named Train.csv, Test.csv, or in lower case,
    do too. The train file has nameless empty columns. `ss02 (1014).jpg` is a .JPG on the disk. The official
    files list no image twice; one that is in both would be a leak, and is an error (`locate.on_disk`).
    """
    rows = []
    for split, names in _BIQ2021_FILES.items():
        table = request.file(*names)
        folder = request.image_folder("Images", "images", beside=table.parent, or_beside=True)
        for record in read_table(table, ("Image Name", "MOS"), request.source):
            name = record.text("Image Name")
            rows.append(Row(folder / name, record.number("MOS", 0, 1), request.name, split=split))
    return rows
