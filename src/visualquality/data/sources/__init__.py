"""Each data set's official distribution, read into a `Manifest` whose MOS stay on the set's own scale.

To add a data set, write one function and one entry of `SOURCES`. The docstring of each function says which files the
set has and what is easily misread in them: published.py has the data sets, exchange.py the file formats that carry
any set.

This module is imported by `visualquality --help`, so nothing here may import NumPy, pandas or pyarrow.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...errors import UserError
from ..row import Row
from . import exchange, published
from .distribution import Distribution, rows_on_disk

if TYPE_CHECKING:
    from ..manifest import Manifest

_AUTHORS = "https://github.com/TianheWu/VisualQuality-R1"
_MMSP = "https://database.mmsp-kn.de"


@dataclass(frozen=True)
class Source:
    """A data set that can be imported.

    read: its function, which yields rows in the order of the set's table; their images need not exist, since
    `import_dataset` looks for the files.
    source: what the set is and where to get it; error sentences end with "get <this>".
    mos_range: the ends of the scale that people rated on; None where they differ by file or scene.
    splits: names of the splits that come with it; None if its file names them.
    columns: whether its function takes names of columns from the user.
    """

    read: Callable[[Distribution], Iterable[Row]]
    source: str
    mos_range: tuple[float, float] | None = None
    splits: tuple[str, ...] | None = ()
    columns: bool = False


# The order is that of the help text: the paper's data sets, BIQ2021, then the forms of files.
SOURCES: dict[str, Source] = {
    "kadid10k": Source(
        published.kadid10k,
        f"KADID-10k (dmos.csv, images/; MOS 1 to 5) from {_MMSP}/kadid-10k-database.html",
        mos_range=(1, 5),
        splits=("authors",),
    ),
    "koniq10k": Source(
        published.koniq10k,
        "KonIQ-10k (koniq10k_scores_and_distributions.csv, koniq10k_distributions_sets.csv, "
        f"1024x768/ or 512x384/; MOS 1 to 5) from {_MMSP}/koniq-10k-database.html",
        mos_range=(1, 5),
        splits=("official",),
    ),
    "spaq": Source(
        published.spaq,
        "SPAQ (Annotations/, TestImage/; MOS 0 to 100) from https://github.com/h4nwei/SPAQ",
        mos_range=(0, 100),
    ),
    "clive": Source(
        published.clive,
        "CLIVE, the LIVE In the Wild Image Quality Challenge Database (Data/, Images/; MOS 0 to 100) from "
        "https://live.ece.utexas.edu/research/ChallengeDB/index.html",
        mos_range=(0, 100),
    ),
    "bid": Source(
        published.bid,
        "BID, the Blurred Image Database (DatabaseGrades.xls or .xlsx, ImageDatabase/; MOS 0 to 5) from "
        "http://www.lps.ufrj.br/profs/eduardo/ImageDatabase.htm",
        mos_range=(0, 5),
    ),
    "agiqa3k": Source(
        published.agiqa3k,
        "AGIQA-3K (data.csv, images/; MOS 0 to 5) from https://github.com/lcysyzxdxc/AGIQA-3k-Database",
        mos_range=(0, 5),
    ),
    "liu13": Source(
        published.liu13,
        f"Liu13, motion deblurring (SIGGRAPH Asia 2013; MOS 1 to 5): Deblur_test_all.txt from {_AUTHORS}, "
        "and the images from the set's makers, Liu et al.",
        mos_range=(1, 5),
    ),
    "min19": Source(
        published.min19,
        f"Min19 or SHRQ, dehazing (IEEE TMM 2019; MOS 1 to 5): dehaze_test_all.txt from {_AUTHORS}, "
        "and the images from the set's makers, Min et al.",
        mos_range=(1, 5),
    ),
    "sriqa-bench": Source(
        published.sriqa_bench,
        f"SRIQA-Bench, super-resolution (MOS 0 to 100): SRIQA-Bench_test_all.txt from {_AUTHORS}, "
        "and the images from https://github.com/ChrisDud0257/AFINE",
    ),
    "biq2021": Source(
        published.biq2021,
        "BIQ2021 (Train (Images and MOS).csv, Test (Images and MOS).csv, Images/; MOS 0 to 1) from "
        "https://github.com/nisarahmedrana/BIQ2021",
        mos_range=(0, 1),
        splits=("official",),
    ),
    "authors-txt": Source(
        exchange.authors_txt,
        f"a text file of lines `[reference] image mos [std]`, as in {_AUTHORS}",
    ),
    "authors-jsonl": Source(
        exchange.authors_jsonl,
        f"a JSONL training file of id, dataset_name, image and conversations, as in {_AUTHORS}",
    ),
    "pyiqa-csv": Source(
        exchange.pyiqa_csv,
        "a meta_info CSV of pyiqa, from https://github.com/chaofengc/IQA-PyTorch",
        splits=None,  # pyiqa's files name their splits in their columns
        columns=True,
    ),
    "deqa-json": Source(
        exchange.deqa_json,
        "a meta JSON of DeQA-Score (image, gt_score), from "
        "https://huggingface.co/datasets/zhiyuanyou/Data-DeQA-Score",
    ),
    "csv": Source(
        exchange.any_table,
        "any CSV, Parquet or Excel file with an image and a MOS column; name them with columns",
        columns=True,
    ),
    "raters": Source(
        exchange.raters,
        "any CSV, Parquet or Excel file with one row a rating (image, rating, and rater if it is known), of which it "
        "makes each image's mean, std and number n; name the columns with columns",
        columns=True,
    ),
}


@dataclass(frozen=True)
class Imported:
    """A data set that was read, and which of its images were left out because they are not on the disk."""

    manifest: "Manifest"
    missing: tuple[str, ...]  # paths, in the order of the set's table


def import_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
    missing: Literal["error", "skip"] = "error",
) -> Imported:
    """Read a data set in its official form.

    name: a key of `SOURCES`.
    root: the folder of the set; what is needed lies in it, or in exactly one of the folders right in it. For
    authors-txt, authors-jsonl, pyiqa-csv, deqa-json, csv and raters, the file itself.
    split: a split that comes with the set: authors (kadid10k); official (koniq10k, where it is applied in any
    case if its file is there, and biq2021, whose two files it is); for pyiqa-csv the name of a split column.
    columns: for csv, raters and pyiqa-csv, our names -> the file's, as in `Manifest.read`.
    images: the folder that image names are relative to, where it is not the set's own.
    missing: skip leaves out images that are listed but not on the disk, and `Imported.missing` names them.

    A set may be there in part: the number of rows is not compared with the official one. An image listed
    twice with the same rating counts once. File names are matched without regard to case where no file has
    the very name (BIQ2021 lists one .jpg that is a .JPG). Images are not opened.

    Raises UserError, in one sentence, for an unknown name or split; a file or column that is not there; a MOS
    that is not a number on the set's scale; an image listed twice with different ratings; images that are
    not there unless `missing` is skip, and in any case if none is.
    """
    if name not in SOURCES:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if split is not None and source.splits is not None and split not in source.splits:
        fix = "it has none of its own: leave it out, and split later"
        if source.splits:
            fix = f"choose {' or '.join(source.splits)}"
        raise UserError(f"unknown split {split!r} of {name}: {fix}")
    if columns and not source.columns:
        takers = ", ".join(other for other in SOURCES if SOURCES[other].columns)
        fix = f"{name} has columns of its own, leave them out"
        raise UserError(f"columns are for {takers}: {fix}")
    if images is not None and not Path(images).is_dir():
        raise UserError(f"{images} is not a folder: name the one that holds the images")
    if missing not in ("error", "skip"):
        raise UserError(f"missing is {missing!r}: use error or skip")
    # Here, since this imports NumPy and Pillow.
    from ..manifest import Manifest

    folder = None if images is None else Path(images)
    data = Distribution(name, Path(root), source.source, split, columns or {}, folder)
    rows, absent = rows_on_disk(list(source.read(data)), data, skip=missing == "skip")
    return Imported(Manifest(rows), absent)
