"""The two formats in which the paper's authors publish labels: text lines, and JSONL to train with."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from ..images import SUFFIXES
from ..manifest import Row
from .locate import Request
from .tables import read_text

_ENDING = re.compile(r"_(?:test_all|mos|(train|val|test)_set)$", re.IGNORECASE)


def authors_txt(request: Request) -> list[Row]:
    """Lines `[reference] image mos [std]`, separated by spaces; every line of a file has the same fields.

    They are read from the right: one or two numbers, then one or two names that end like an image file, so
    that names may hold spaces. The data set is the file's name without _test_all, _mos, _train_set, _val_set
    or _test_set; of the last three, the split too.
    """
    path = request.single_file()
    folder = request.images or path.parent
    first = next((line for line in _lines(path, request) if line), None)
    shape = None if first is None else _parsed(first)
    if shape is None:
        raise UserError(
            f"{path}: the first line is not `[reference] image mos [std]`: give {request.source}"
        )
    return labelled(
        path, folder, request, reference=len(shape.names) == 2, std=len(shape.numbers) == 2
    )


def labelled(
    path: Path,
    folder: Path,
    request: Request,
    *,
    reference: bool,
    std: bool,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> list[Row]:
    """The lines of a text file of which it is known whether they have a reference and a standard deviation.

    bounds: of the MOS. Raises UserError for a line that has other fields, or a number that cannot be.
    """
    dataset, split = request.name, None
    if request.name == "authors-txt":
        ending = _ENDING.search(path.stem)
        dataset = _ENDING.sub("", path.stem)
        split = ending[1].lower() if ending and ending[1] else None
    wanted = " ".join(["reference"] * reference + ["image", "mos"] + ["std"] * std)
    rows = []
    for number, line in enumerate(_lines(path, request), 1):
        if not line:
            continue
        fields = _parsed(line)
        if fields is None or (len(fields.names), len(fields.numbers)) != (1 + reference, 1 + std):
            raise UserError(
                f"{path}: row {number}, {line!r}, is not `{wanted}`: correct it, or get {request.source}"
            )
        mos, deviation = fields.numbers[0], fields.numbers[1] if std else None
        if not bounds[0] - 1e-6 <= mos <= bounds[1] + 1e-6 or (
            deviation is not None and deviation < 0
        ):
            raise UserError(
                f"{path}: row {number}, {line!r}, has a number out of range: get {request.source}"
            )
        image, scene = folder / fields.names[-1], fields.names[0] if reference else None
        rows.append(Row(image, mos, dataset, deviation, scene, split))
    return rows


class _Fields(NamedTuple):
    names: list[str]
    numbers: list[float]


def _parsed(line: str) -> _Fields | None:
    """The names and numbers of a line, or None if it is not one or two of each."""
    words = list(re.finditer(r"\S+", line))
    numbers: list[float] = []
    while words and (value := _finite(words[-1].group())) is not None:
        numbers.insert(0, value)
        words.pop()
    names, start = [], 0
    for word in words:
        if Path(word.group()).suffix.lower() in SUFFIXES:
            names.append(line[start : word.end()].strip())
            start = word.end()
    ended = bool(words) and start == words[-1].end()
    return (
        _Fields(names, numbers)
        if ended and len(names) in (1, 2) and len(numbers) in (1, 2)
        else None
    )


def _finite(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path: Path, request: Request) -> list[str]:
    return [line.strip() for line in read_text(path, request.source).split("\n")]


def authors_jsonl(request: Request) -> list[Row]:
    """Lines {id, dataset_name, image: [name], conversations: [{from: human, …}, {from: gpt, value: mos}]}.

    `dataset_name` is the data set. There is no standard deviation, reference or split.
    """
    path = request.single_file()
    folder = request.images or path.parent
    rows = []
    for number, line in enumerate(_lines(path, request), 1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            (image,) = entry["image"]
            (said,) = [turn["value"] for turn in entry["conversations"] if turn["from"] == "gpt"]
            mos, dataset = float(said), entry["dataset_name"]
        except (ValueError, KeyError, TypeError) as error:
            wanted = "an object with dataset_name, one image, and one answer of gpt that is the mos"
            raise UserError(
                f"{path}: row {number} is not {wanted} ({error}): give {request.source}"
            ) from error
        if not math.isfinite(mos) or not isinstance(image, str) or not isinstance(dataset, str):
            raise UserError(
                f"{path}: row {number} has an image, dataset_name or mos of the wrong kind: correct it"
            )
        rows.append(Row(folder / image, mos, dataset))
    return rows
