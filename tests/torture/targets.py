"""What is attacked with random and mutated input, and what must hold: no exception but UserError, and a bounded score.

A target is a function of bytes. It returns where all is well, and raises AssertionError, or whatever the code raised,
where it is not. `SEEDS` has small sound inputs that are mutated; most random bytes are refused at the first one.
"""

import contextlib
import io
import json
import random
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from visualquality import response
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest
from visualquality.data.sources import import_dataset
from visualquality.data.tables import csv_cell, csv_path, from_csv_cell, from_csv_path
from visualquality.errors import UserError
from visualquality.evaluate.suite import read_suite
from visualquality.score.calibration import read_calibrations
from visualquality.score.files import export, read_scores
from visualquality.score.journal import read_journal
from visualquality.score.rating import Rating
from visualquality.terminal import visible, visible_line
from visualquality.train.recipe import read_recipe

FOLDER = Path(tempfile.gettempdir())


@contextlib.contextmanager
def file_of(data: bytes, name: str):
    """A file that holds `data`; all of an example is gone after it."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def reading_of_responses(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for prompt in ("paper", "q-insight"):
        for truncated in (False, True):
            found = response.read(text, truncated=truncated, prompt=prompt)
            assert (found.score is None) != (found.problem is None)
            assert found.score is None or response.LOWEST <= found.score <= response.HIGHEST
    if response.well_formed(text):
        assert response.read(text).score is not None


def names_on_terminals(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for shown, allowed in ((visible(text), "\n\t"), (visible_line(text), "")):
        hidden = [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        assert all(c in allowed for c in hidden)
    line = json.dumps(text, ensure_ascii=False)
    assert json.loads(visible_line(line)) == text


def cells_of_csv(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert from_csv_cell(csv_cell(text)) == text
    assert from_csv_path(csv_path(text)) == text
    for cell in (csv_cell(text), csv_path(text)):
        with contextlib.suppress(ValueError):
            float(cell)
            continue
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def exports_of_names(data: bytes) -> None:
    # No file system takes a null byte. Taken from the bytes: from the text, two halves could become one character.
    name = data.replace(b"\0", b"").decode("utf-8", "surrogateescape") or "x"
    rating = Rating(name, 3.0, None, (3.0,), name, None, "m", "reason", 0, 0.1)
    with file_of(b"", "scores.csv") as path:
        export([rating], path)
        assert read_scores(path) == {name: 3.0}


def manifests(data: bytes, suffix: str = ".csv") -> None:
    with file_of(data, f"m{suffix}") as path:
        try:
            read = Manifest.read(path, check_images=False)
        except UserError:
            return
        copy = path.with_name("copy.csv")
        try:
            read.write(copy)
        except UserError:
            return
        again = Manifest.read(copy, check_images=False)
        assert [row.mos for row in again.rows] == [row.mos for row in read.rows]
        assert [row.image for row in again.rows] == [row.image for row in read.rows]
        assert [row.reasoning for row in again.rows] == [row.reasoning for row in read.rows]


def sheets(data: bytes) -> None:
    manifests(data, ".xlsx")


def parquet_tables(data: bytes) -> None:
    manifests(data, ".parquet")
    with file_of(data, "s.parquet") as path, contextlib.suppress(UserError):
        read_scores(path)


def recipes(data: bytes) -> None:
    with file_of(data, "r.yaml") as path:
        for read in (read_recipe, read_suite):
            with contextlib.suppress(UserError):
                read(path)
    text = data.decode("utf-8", "replace")
    with file_of(SEEDS["recipes"][0], "r.yaml") as path, contextlib.suppress(UserError):
        read_recipe(path, (text,))


def journals(data: bytes) -> None:
    with file_of(data, "j.jsonl") as path:
        with contextlib.suppress(UserError):
            _, ratings = read_journal(path)
            for rating in ratings:
                assert Rating.from_dict(rating.to_dict()) == rating
        with contextlib.suppress(UserError):
            read_scores(path)
        with contextlib.suppress(UserError):
            read_calibrations(path)


def score_tables(data: bytes) -> None:
    with file_of(data, "s.csv") as path, contextlib.suppress(UserError):
        for score in read_scores(path).values():
            assert score is None or abs(score) < float("inf")


def data_sets(data: bytes) -> None:
    for name, file in (
        ("authors-txt", "l.txt"),
        ("authors-jsonl", "l.jsonl"),
        ("deqa-json", "l.json"),
        ("pyiqa-csv", "meta_info_x.csv"),
    ):
        with file_of(data, file) as path, contextlib.suppress(UserError):
            import_dataset(name, path)


def images(data: bytes) -> None:
    # Mutated headers seldom name more than this, and large ones would only take time.
    with file_of(data, "image") as path, contextlib.suppress(UserError):
        opened = open_image(path, max_image_pixels=4_000_000)
        assert opened.mode == "RGB"
        assert 0 < opened.width * opened.height <= 4_000_000


def _pictures() -> list[bytes]:
    """A small file of each format and mode that is read, some with texts, EXIF and several frames."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (9, 13, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "made here"
    exif.get_ifd(0x8825)[1] = "N"
    grey, palette, alpha = colour.convert("L"), colour.convert("P"), colour.convert("RGBA")
    deep = Image.fromarray(rng.integers(0, 65535, (9, 13), dtype=np.uint16))
    saved = [
        (colour, {"format": "PNG", "exif": exif}),
        (palette, {"format": "PNG"}),
        (deep, {"format": "PNG"}),
        (colour, {"format": "PNG", "save_all": True, "append_images": [colour]}),
        (colour, {"format": "JPEG", "exif": exif, "comment": "made here"}),
        (colour, {"format": "JPEG", "progressive": True}),
        (colour.convert("CMYK"), {"format": "JPEG"}),
        (colour, {"format": "MPO", "save_all": True, "append_images": [colour]}),
        (alpha, {"format": "WEBP", "lossless": True, "exif": exif}),
        (colour, {"format": "WEBP", "save_all": True, "append_images": [alpha.convert("RGB")]}),
        (colour, {"format": "AVIF"}),
        (grey.convert("1"), {"format": "TIFF", "compression": "group4"}),
        (grey, {"format": "BMP"}),
        (palette, {"format": "GIF", "save_all": True, "append_images": [palette]}),
        (colour, {"format": "PPM"}),
        (grey.convert("1"), {"format": "PPM"}),
        (colour, {"format": "JPEG2000"}),
        (colour, {"format": "JPEG2000", "no_jp2": True}),
        (deep, {"format": "TIFF"}),
    ]
    for kind in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        saved.append((colour, {"format": "TIFF", "compression": kind}))
    found = []
    for image, options in saved:
        image.save(buffer := io.BytesIO(), **options)
        found.append(buffer.getvalue())
    return [*found, b"P3 2 1 255\n1 2 3 4 5 6\n", b"P5 2 1 65535\n\1\2\3\4"]


def _tables() -> tuple[bytes, bytes]:
    """A sheet and a Parquet file."""
    import pandas as pd

    frame = pd.DataFrame({"image": ["a.png", "b.png"], "mos": [1.5, 3.0], "score": [1.0, 2.0]})
    frame.to_excel(sheet := io.BytesIO(), index=False)
    frame.to_parquet(parquet := io.BytesIO())
    return sheet.getvalue(), parquet.getvalue()


_RATING = Rating("a.png", 3.0, 0.5, (2.5, 3.5), "Sharp.", None, "m", "reason", 0, 0.1, "paper")
_SHEET, _PARQUET = _tables()

TARGETS: dict[str, Callable[[bytes], None]] = {
    "responses": reading_of_responses,
    "terminal": names_on_terminals,
    "cells": cells_of_csv,
    "exports": exports_of_names,
    "manifests": manifests,
    "sheets": sheets,
    "parquet": parquet_tables,
    "recipes": recipes,
    "journals": journals,
    "scores": score_tables,
    "datasets": data_sets,
    "images": images,
}

SEEDS: dict[str, list[bytes]] = {
    "responses": [
        b"<think>A little soft.</think><answer>3.45</answer>",
        b"<answer>4</answer> and <answer>4.0</answer>",
        b'<think>x</think><answer>```json\n{"rating": 3.45}\n```</answer>',
    ],
    "terminal": [b"a\x1b[31mb\xc2\x9b", "\u202egnp.exe".encode(), b"\xff\xfe\r\n\t"],
    "cells": [b"=1+1", b"'=1+1", b"./@x", b"-1.5", b"\t=x", "＝1".encode()],
    "exports": [b"=1.png", b"photos/a.png", b'a,b\n"c"', b"\xff\xfe.png"],
    "manifests": [
        b'image,mos,std,reference,split,reasoning\na.png,1,0.5,r1,train,=x\nb.png,2,,r2,test,"a, b"\n',
        "\ufeffimage,mos\r\na.png,1\r\nb.png,2\r\n".encode(),
    ],
    "sheets": [_SHEET],
    "parquet": [_PARQUET],
    "recipes": [
        b"data: [{manifest: m.csv}]\noptimizer: {steps: 3}\n",
        b"title: t\nmethods: [{name: a, model: nano}]\ndatasets: [{name: d, manifest: m.csv}]\n",
        b"a: &a {steps: 3}\noptimizer: {<<: *a, learning_rate: 1.0e-4}\n",
    ],
    "journals": [
        b'{"header": {"model": "m"}}\n' + json.dumps(_RATING.to_dict()).encode() + b"\n",
        b'{"image": "a", "score": 1.5}\n',
    ],
    "scores": [b"image,score\na.png,1.5\n'=b.png,\n"],
    "datasets": [
        b"r.png a.png 3.5 0.4\nr.png b.png 2.5 0.4\n",
        b'{"id": 1, "dataset_name": "d", "image": ["a.png"], "conversations": [{"from": "gpt", "value": 3}]}\n',
        b'[{"image": "d/images/a.png", "gt_score": 3.5, "std": 0.1}]',
        b"ref_name,dist_name,mos,std,official_split\nr.png,a.png,3.5,0.1,train\n",
    ],
    "images": _pictures(),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to eight changes: bits, bytes, numbers at their ends, pieces that are cut, doubled or moved."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 2, 4, 16, 64))
        kind = rng.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            changed[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f")) * length
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 100))
        elif kind == 5:
            piece = bytes(changed[rng.randrange(len(changed) + 1) :][:length])
            changed[at:at] = piece
        else:
            changed[at:at] = rng.choice(_DICTIONARY)
    return bytes(changed)


# Pieces that mean something to some reader.
_DICTIONARY = (
    *(b"<answer>", b"</answer>", b"<think>", b"</think>", b"nan", b"1e999", b"-0", b"9" * 400),
    *(
        b"[" * 500,
        b"{" * 500,
        b'{"a":' * 300,
        b"&a [*a]",
        b"<<: *a",
        b"!!int x",
        b"2024-99-99",
        b"\\0",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b'"',
        b"'",
        b",",
        b";",
        b"\n",
        b"=",
        b"\x1b[2J",
        b"null",
    ),
)
