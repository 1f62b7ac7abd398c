"""Files of scores: what others wrote is read exactly or refused with its row, and exports hold every rating."""

import csv
import json
import math
import os
import re
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visualquality.errors import UserError
from visualquality.score.files import export, read_scores
from visualquality.score.journal import Journal, read_journal
from visualquality.score.rating import Rating, warning_lines

BY = ("nano", "reason", 0, 0.5, "paper")  # model, mode, seed, seconds, prompt
RATINGS = [
    Rating("a.png", 3.5, 0.7071, (3.0, 4.0), "sharp", None, *BY),
    Rating('ü, "b".png', None, None, (None,), None, "no readable answer in 1 samples", *BY),
    Rating("c\r\n.png", 2.5, None, (2.5,), 'too dark,\r "noisy"\nand — soft', None, *BY[:-1]),
    Rating("d.png", 1.25, None, (None, 1.25), "blur", None, *BY),
    Rating("e.png", 4.0, 0.5, (), None, None, *BY),
    Rating("f.png", 4.0, 0.5, (), None, None, *BY, 3.125, 4.5, 0.9, 3.75),
]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", "image,mos\na,1\n", "has no score, only image, mos"),
        ("s.csv", "", "has no image and no score, only nothing"),
        ("s.csv", "image,score\n", "holds no scores"),
        ("s.csv", "image,score\na,1\nb,good\n", "row 3: the score 'good' of b must be a number"),
        ("s.csv", "image,score\na,inf\n", "row 2: the score inf of a"),
        ("s.csv", "image,score\na,1\nb\n", "row 3: it has more or fewer cells"),
        ("s.csv", "image,score\na,1\n,2\n", "row 3: image is ''"),
        ("s.csv", "image,score\na,1\nb,2\na,3\n", "row 4: a is already in row 2"),
        ("s.csv", 'image,score\na,1\n"b,2\n', "after row 2: not CSV"),
        ("s.csv", 'image,score\na,1\n"b"b,2\n', "after row 2: not CSV"),
        ("s.csv", "image,score\na,1\nb,2,3\n", "row 3: it has more or fewer cells"),
        ("s.csv", 'score,image,note\n1,a,"x\ny"\n\nbad,b,\n', "row 5: the score 'bad' of b"),
        ("s.jsonl", '{"image": "a", "score": 1}\n{"image": "b"}\n', "row 2 has no score"),
        ("s.jsonl", '{"image": "a", "score": "1"}\n', "row 1: the score '1' of a"),
        ("s.jsonl", '{"image": "a", "score": true}\n', "row 1: the score True of a"),
        ("s.jsonl", '{"image": "a", "score": 1}\n{"ima\n', "line 2: not a JSON object"),
        ("s.parquet", "no", "is not a Parquet file"),
        ("s.txt", "a 1", "must be a .jsonl, .csv or .parquet"),
    ],
)
def test_faults_in_a_file_of_scores_are_named_with_their_row(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / name)


def test_scores_of_other_programs_are_read(tmp_path):
    expected = {"a b.png": 3.5, "ü.png": None, "c.png": None}
    (tmp_path / "s.csv").write_bytes(
        "\ufeffscore,image,more\r\n 3.5 ,a b.png,x\r\n,ü.png,y\r\nNaN,c.png,\r\n".encode()
    )
    (tmp_path / "s.jsonl").write_text(
        '{"score": 3.5, "image": "a b.png"}\n{"image": "ü.png", "score": null}\n{"image": "c.png", "score": NaN}',
        encoding="utf-8",
    )
    images, scores = list(expected), pa.array([3.5, None, math.nan], pa.float32())
    pq.write_table(
        pa.table({"x": images, "score": scores, "image": images}), tmp_path / "s.parquet"
    )
    for name in ("s.csv", "s.jsonl", "s.parquet"):
        assert read_scores(tmp_path / name) == expected
    with pytest.raises(UserError, match=r"is not a file"):
        read_scores(tmp_path / "none.csv")


def test_scores_of_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "s.csv"
    for text, encoding in (
        ("image;score\r\nsub\\a.png;3,5\r\n", "utf-8-sig"),
        ("image\tscore\r\nsub\\a.png\t3.5\r\n", "utf-16"),
    ):
        path.write_bytes(text.encode(encoding))
        assert read_scores(path) == {"sub\\a.png": 3.5}


def test_a_line_that_a_kill_tore_is_no_score(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"image": "a", "score": 1}\n\n{"image": "b", "score": 2.')
    assert read_scores(path) == {"a": 1.0}


def test_the_last_line_counts_of_an_image_that_had_no_score(tmp_path):
    path = tmp_path / "s.jsonl"
    tried_again = [{"image": "a", "score": None}, {"image": "b", "score": 2}]
    lines = [*tried_again, {"image": "a", "score": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_scores(path) == {"a": 3.0, "b": 2.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[-1]]))
    with pytest.raises(UserError, match="row 4: a is already in row 3"):
        read_scores(path)


def test_exports_hold_every_rating_and_no_nan(tmp_path):
    with Journal(tmp_path / "out.jsonl", {"model": "nano"}) as journal:
        for rating in RATINGS:
            journal.append(rating)
    export(RATINGS, tmp_path / "out.csv")
    export(RATINGS, tmp_path / "out.parquet")
    apart = ("warnings", "readable")  # where a rating has some, and in the journal alone
    columns = [field.name for field in fields(Rating) if field.name not in apart]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == columns
    for row, rating in zip(rows, RATINGS, strict=True):
        cells = rating.to_dict()
        cells["samples"] = json.dumps(cells["samples"])
        assert row == {name: "" if v is None else str(v) for name, v in cells.items()}
    parquet = pq.read_table(tmp_path / "out.parquet")
    assert [Rating.from_dict(row) for row in parquet.to_pylist()] == RATINGS
    expected = {rating.image: rating.score for rating in RATINGS}
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        assert read_scores(tmp_path / name) == expected
        assert list(read_scores(tmp_path / name)) == list(expected)
        content = (tmp_path / name).read_bytes()
        assert not re.search(rb"\bnan\b", content, re.IGNORECASE)
    assert {p.name for p in tmp_path.iterdir()} == {"out.csv", "out.jsonl", "out.parquet"}


def test_warnings_have_a_column_only_where_there_are_some(tmp_path):
    warned = RATINGS[0].with_warnings(("one thing", "another"))
    ratings = [warned, *RATINGS[1:]]
    with Journal(tmp_path / "out.jsonl", {"model": "nano"}) as journal:
        for rating in ratings:
            journal.append(rating)
    assert (tmp_path / "out.jsonl").read_text().count('"warnings"') == 1
    assert read_journal(tmp_path / "out.jsonl")[1] == ratings
    export(ratings, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = [row["warnings"] for row in csv.DictReader(file)]
    assert cells == ["one thing; another", *[""] * 5]
    export(ratings, tmp_path / "out.parquet")
    column = pq.read_table(tmp_path / "out.parquet")["warnings"].to_pylist()
    assert column == [["one thing", "another"], *[None] * 5]
    assert warning_lines([warned, replace(warned, image="z.png")]) == [
        "a.png and 1 more: one thing",
        "a.png and 1 more: another",
    ]


def test_csv_to_the_byte(tmp_path):
    export(RATINGS[1:3], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (
        b"image,score,std,samples,reasoning,problem,model,mode,seed,seconds,prompt,low,high,coverage,expected_mos\r\n"
        b'"\xc3\xbc, ""b"".png",,,[null],,no readable answer in 1 samples,nano,reason,0,0.5,paper,,,,\r\n'
        b'"c\r\n.png",2.5,,[2.5],"too dark,\r ""noisy""\nand \xe2\x80\x94 soft",,nano,reason,0,0.5,,,,,\r\n'
    )


def test_parquet_has_the_same_columns_whatever_the_ratings(tmp_path):
    for ratings in (RATINGS, RATINGS[1:2], []):
        export(ratings, tmp_path / "out.parquet")
        schema = pq.read_schema(tmp_path / "out.parquet")
        # One rating without any score must not make a column of another type.
        assert [(field.name, str(field.type)) for field in schema] == [
            ("image", "string"),
            ("score", "double"),
            ("std", "double"),
            ("samples", "list<element: double>"),
            ("reasoning", "string"),
            ("problem", "string"),
            ("model", "string"),
            ("mode", "string"),
            ("seed", "int64"),
            ("seconds", "double"),
            ("prompt", "string"),
            ("low", "double"),
            ("high", "double"),
            ("coverage", "double"),
            ("expected_mos", "double"),
        ]


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")  # a Latin-1 file name
    ratings = [Rating(name, 3.0, None, (3.0,), None, None, *BY)]
    export(ratings, tmp_path / "out.csv")
    assert b"caf\xe9.png" in (tmp_path / "out.csv").read_bytes()
    assert read_scores(tmp_path / "out.csv") == {name: 3.0}
    (tmp_path / "out.parquet").write_text("old")
    with pytest.raises(UserError, match="Parquet cannot hold"):
        export(ratings, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "old"
    with pytest.raises(UserError, match="xlsx"):
        export(ratings, tmp_path / "out.xlsx")
    assert {p.name for p in tmp_path.iterdir()} == {"out.csv", "out.parquet"}


NAMES = [
    "=1+1.png",
    "@x/y.png",
    "-e.png",
    "./=1.png",
    "+.png",
    "\t=.png",
    "plain.png",
    "photos/=1.png",
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_and_reasons_that_look_like_formulas_come_back_exactly(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    export([Rating(name, -1.5, 0.5, (), f"={name}", None, *BY) for name in NAMES], path)
    assert read_scores(path) == dict.fromkeys(NAMES, -1.5)


def test_no_cell_of_an_export_is_a_formula(tmp_path):
    path = tmp_path / "scores.csv"
    ratings = [Rating(name, -1.5, 0.5, (), f"={name}", None, *BY) for name in NAMES]
    export([*ratings, Rating("z", None, None, (), None, "=z is damaged", *BY)], path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = [cell for row in rows for cell in row.values()]
    assert [c for c in cells if c.startswith(("=", "+", "@", "\t", "\r")) or c[:2] == "-e"] == []
    # A number stays a number, and a guarded name is the same file.
    assert {row["score"] for row in rows} == {"-1.5", ""}
    assert [os.path.normpath(row["image"]) for row in rows[:-1]] == [
        os.path.normpath(name) for name in NAMES
    ]
    assert rows[-1]["problem"] == "'=z is damaged"


def test_a_score_of_400_digits_is_one_sentence(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"image": "a", "score": 1' + "0" * 400 + "}\n")
    with pytest.raises(UserError, match=r"row 1: the score 10+… .+ of a must be a number"):
        read_scores(path)
