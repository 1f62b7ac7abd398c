"""File formats that carry any data set: the authors' text and JSONL, pyiqa's CSV, DeQA-Score's JSON, any table.

`raters` reads a table of single ratings, of which it makes the MOS.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PureWindowsPath
from statistics import fmean, stdev

from ...errors import UserError, shortened
from ...parsing import parse_json
from ..row import SPLITS, Row
from .distribution import Distribution
from .records import Record, read_labels, read_records, read_text

# The authors name label files by data set and split: KADID-10K_val_set, SPAQ_test_all.
_LABEL_FILE = re.compile(
    r"(.*?)(?:_test_all|_mos|_(train|val|test)_set)?", re.IGNORECASE | re.DOTALL
)
_PYIQA_MOS = ("mos", "elo_score", "score")  # what pyiqa calls a score of which higher is better
_PYIQA_SPLIT = "official_split"
_RATING = ("rating", "score", "mos")  # what a single rating may be called
_KEPT = ("dataset", "reference", "split", "distortion")  # fields of an image, not of a rating


def authors_txt(data: Distribution) -> Iterable[Row]:
    """Lines `[reference] image mos [std]`, separated by spaces; every line of a file has the same fields.

    They are read from the right: one or two numbers, then one or two names that end like an image file, so
    that names may hold spaces. The data set is the file's name without _test_all, _mos, _train_set, _val_set
    or _test_set; of the last three, the split too.
    """
    path, folder = data.single_file()
    parts = _LABEL_FILE.fullmatch(path.stem)
    assert parts is not None  # it matches every name
    split = parts[2].lower() if parts[2] else None
    return read_labels(data, path, folder, dataset=parts[1], split=split)


def authors_jsonl(data: Distribution) -> Iterable[Row]:
    """Lines {id, dataset_name, image: [name], conversations: [{from: human, …}, {from: gpt, value: mos}]}.

    `dataset_name` is the data set. There is no standard deviation, reference or split.
    """
    path, folder = data.single_file()
    # Not io.read_jsonl: this file is downloaded, so a last line that is cut off is a fault.
    for number, line in enumerate(read_text(data, path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            (image,) = entry["image"]
            turns = entry["conversations"]
            # One image and one answer: the unpacking is an error for any other number.
            (answer,) = [turn["value"] for turn in turns if turn["from"] == "gpt"]
            mos, dataset = float(answer), entry["dataset_name"]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            wanted = "an object with dataset_name, one image, and one answer of gpt that is the mos"
            raise data.error(f"{path}: row {number} is not {wanted} ({error})") from error
        if not math.isfinite(mos) or not isinstance(image, str) or not isinstance(dataset, str):
            fields = "an image, dataset_name or mos"
            raise UserError(f"{path}: row {number} has {fields} of the wrong kind: correct it")
        yield Row(folder / image, mos, dataset)


def pyiqa_csv(data: Distribution) -> Iterable[Row]:
    """pyiqa's meta CSV: image, mos, std, … without a reference, or reference, image, mos, std, … with one.

    Names of columns vary, so that places count, as in pyiqa: a first column whose name has "ref" or "hq" in
    it is a reference. `std` is taken as it stands (that of KADID-10k is the official column `var`). Columns
    with "split" in their name hold train, val or test: the one that `split` names is used, else
    official_split where there is one.

    Raises UserError for a column `dmos` unless columns={"mos": "dmos"} says that higher is better in it: it
    is in KADID-10k, and is not in CSIQ and LIVE. The data set is the file's name, without meta_info_ and
    Dataset.
    """
    path, folder = data.single_file()
    records = read_records(data, path)
    header = list(records[0].values)
    has_reference = any(part in header[0].lower() for part in ("ref", "hq"))
    if len(header) < 2 + has_reference:
        raise data.error(f"{path} has the columns {', '.join(header)}")
    image, mos = header[has_reference : has_reference + 2]
    if mos.lower() not in _PYIQA_MOS and data.columns.get("mos") != mos:
        fix = f"If so, import with columns mos={mos}"
        raise UserError(f"{path}: is higher better in column {mos!r}? {fix}")
    # Since places count, only the consent to this column can be given.
    if data.columns not in ({}, {"mos": mos}):
        fix = f"give mos={mos}, or leave columns out"
        raise UserError(f"columns of pyiqa-csv go by their place: {fix}")
    split_column = _pyiqa_split_column(data, header)
    dataset = path.stem.removeprefix("meta_info_").removesuffix("Dataset")
    for record in records:
        std = record.number("std", 0) if record.values.get("std") else None
        reference = record.text(header[0]) if has_reference else None
        split = record.text(split_column) if split_column else None
        if split_column and split not in SPLITS:
            fix = f"is none of {', '.join(SPLITS)}: correct it"
            raise record.error(split_column, f"{split!r} {fix}")
        name = folder / record.text(image)
        yield Row(name, record.number(mos), dataset, std, reference, split)


def _pyiqa_split_column(data: Distribution, header: list[str]) -> str | None:
    there = [name for name in header if "split" in name]
    if data.split is None:
        return _PYIQA_SPLIT if _PYIQA_SPLIT in there else None
    if data.split not in there:
        fix = "it has no split column: leave it out"
        if there:
            fix = f"choose one of {', '.join(there)}"
        raise UserError(f"unknown split {data.split!r} of {data.root}: {fix}")
    return data.split


def deqa_json(data: Distribution) -> Iterable[Row]:
    """DeQA-Score's meta JSON, also Q-Insight's: a list of {image, gt_score, std, …}.

    gt_score, on the set's own scale, is the MOS (gt_score_norm is brought to 1 to 5) and std its deviation.
    Images are named from the folder that holds all sets (KONIQ/images/1.jpg): by default that is two above a
    file in a folder `metas`, else the file's own. The data set is the first of these folders, else the
    file's name.
    """
    path, folder = data.single_file()
    try:
        entries = parse_json(read_text(data, path))
    except ValueError as error:
        raise data.error(f"{path} is not JSON ({error})") from error
    if not isinstance(entries, list):
        raise data.error(f"{path} is not a list of images")
    metas = path.absolute().parent
    if metas.name == "metas" and data.images is None:
        folder = metas.parents[1]
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise UserError(f"{where} has no `image` that is one name: correct it")
        mos = _json_number(entry.get("gt_score"), f"{where}: gt_score")
        std = None
        if entry.get("std") is not None:
            std = _json_number(entry["std"], f"{where}: std")
            if std < 0:
                raise UserError(f"{where}: std is {std}, below 0: correct it")
        # KONIQ/images/1.jpg is of KONIQ; images/1.jpg names no data set.
        # Of Windows' paths and others: backslashes and slashes both are between folders.
        parts = PureWindowsPath(entry["image"]).parts
        dataset = parts[0] if len(parts) > 2 and not parts[0].endswith("\\") else path.stem
        yield Row(folder / entry["image"], mos, dataset, std)


def _json_number(value: object, what: str) -> float:
    # In Python, true and false are integers.
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A whole number of 400 digits is larger than any float.
        with suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise UserError(f"{what} is {shortened(repr(value))}, not a finite number: correct it")


def any_table(data: Distribution) -> Iterable[Row]:
    """Any CSV, Parquet or Excel file, read and checked as a manifest with `columns`: our names -> the file's."""
    # Here, since naming the sources in a help text must not wait for NumPy and Pillow.
    from ..manifest import Manifest

    path, folder = data.single_file()
    return Manifest.read(path, columns=data.columns, images=folder, check_images=False).rows


def raters(data: Distribution) -> Iterable[Row]:
    """A table with one row a rating: image, and the rating in a column rating, score or mos.

    `columns` says where they are if they have other names; a column rater (`columns`, too) says who rated. Of each
    image `mos` is the mean of its ratings, `std` their unbiased standard deviation (none of a single rating), and
    `extra["n"]` their number. Columns reference, split, dataset and distortion are kept; the others are not.

    Raises UserError for a rating that is no number, a rater who rated an image twice, and an image whose rows differ
    in a column that is kept.
    """
    path, folder = data.single_file()
    names = ("image", "mos", "rater", *_KEPT)
    if unknown := sorted(set(data.columns) - set(names)):
        raise UserError(f"columns: {', '.join(unknown)} is none of {', '.join(names)}: correct it")
    records = read_records(data, path)
    there = [name for name in _RATING if name in records[0].values]
    rating = data.columns.get("mos") or (there[0] if len(there) == 1 else None)
    if rating is None:
        found = f"has {' and '.join(there)}" if there else f"has none of {', '.join(_RATING)}"
        raise UserError(f"{path} {found}: name the column of the ratings with columns mos=NAME")
    image, rater = (data.columns.get(field, field) for field in ("image", "rater"))
    # What `columns` names must be there; without it, nobody need say who rated.
    need = [image, rating, *([rater] if "rater" in data.columns else [])]
    records = read_records(data, path, *need)
    of_image: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_image[record.text(image)].append(record)
    for name, own in of_image.items():
        _refuse_second_rating(own, image, rater)
        values = [record.number(rating) for record in own]
        kept = {field: _same(own, data.columns.get(field, field)) for field in _KEPT}
        yield Row(
            folder / name,
            fmean(values),
            kept["dataset"] or path.stem,
            stdev(values) if len(values) > 1 else None,
            kept["reference"],
            kept["split"],
            kept["distortion"],
            extra={"n": len(values)},
        )


def _refuse_second_rating(own: list[Record], image: str, rater: str) -> None:
    first: dict[str, int] = {}
    for record in own:
        who = record.values.get(rater, "").strip()
        if who and first.setdefault(who, record.row) != record.row:
            text = f"{who!r} rated {record.text(image)} in row {first[who]} already"
            raise record.error(rater, f"{text}: delete one of the two")


def _same(own: list[Record], column: str) -> str | None:
    """What all rows of an image have in this column; None where it is empty or not there."""
    first = own[0].values.get(column, "").strip()
    for record in own:
        if record.values.get(column, "").strip() != first:
            text = f"is not {first!r}, as in row {own[0].row} of the same image"
            raise record.error(column, f"{text}: correct one of the two")
    return first or None
