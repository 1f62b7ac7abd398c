"""Files are whole or not there, and every failure to write or read one is a sentence."""

import json

import pytest
from pydantic import Field

from visualquality.errors import UserError
from visualquality.io import Settings, append_jsonl, read_jsonl, validated, write_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file.txt/x.csv", "x" * 300 + ".csv"])
def test_names_that_cannot_be_written_are_one_sentence(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(.+\): give another name"):
        write_text(tmp_path / name, "text")


def test_a_log_takes_every_file_name(tmp_path):
    path = tmp_path / "log.jsonl"
    names = ["plain.png", "größe.png", "bytes\udcff.png"]
    for name in names:
        append_jsonl(path, {"image": name})
    assert [line.record["image"] for line in read_jsonl(path)] == names
    json.loads(path.read_bytes().splitlines()[2].decode())


def test_wrong_fields_are_named_in_plain_words(tmp_path):
    class Wanted(Settings):
        steps: int = Field(ge=1)

    with pytest.raises(
        UserError, match=r"a.yaml: steps: this field is missing; lr: there is no such field"
    ):
        validated(Wanted, {"lr": 1}, tmp_path / "a.yaml", "recipe")
