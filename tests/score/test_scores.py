"""Files of scores that others wrote: read exactly, or refused with the row at fault."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visualquality.errors import UserError
from visualquality.score.store import read_scores


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
        ("s.jsonl", '{"image": "a", "score": 1}\n{"image": "b"}\n', "row 2 has no score"),
        ("s.jsonl", '{"image": "a", "score": "1"}\n', "row 1: the score '1' of a"),
        ("s.jsonl", '{"image": "a", "score": true}\n', "row 1: the score True of a"),
        ("s.jsonl", '{"image": "a", "score": 1}\n{"ima', "line 2: not a JSON object"),
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
