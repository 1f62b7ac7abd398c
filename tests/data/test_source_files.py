"""Importing the forms of files that others use: the authors', pyiqa's, DeQA-Score's, any CSV."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from conftest import picture
from source_forms import brief, draw, put, refusal, rows
from visualquality.data.manifest import Row
from visualquality.data.sources import import_dataset, records
from visualquality.data.sources.distribution import Distribution
from visualquality.data.sources.records import parse_label
from visualquality.errors import UserError


def test_authors_txt(tmp_path):
    draw(tmp_path, "a b.png", "a b_1.png", "c.png")
    path = put(
        tmp_path / "KADID-10K_val_set.txt", "a b.png  a b_1.png 4.5 0.25\na b.png c.png 1 0\n"
    )
    first, second = rows("authors-txt", path)
    assert first == Row(
        (tmp_path / "a b_1.png").resolve(), 4.5, "KADID-10K", 0.25, "a b.png", "val"
    )
    assert (second.mos, second.std) == (1, 0)
    (found,) = rows("authors-txt", put(tmp_path / "SPAQ_test_all.txt", "c.png 2\r\n"))
    assert (found.dataset, found.mos, found.std, found.reference, found.split) == (
        "SPAQ",
        2,
        None,
        None,
        None,
    )
    assert "row 2" in refusal("authors-txt", put(tmp_path / "x.txt", "c.png 2\na b.png 3 1\n"))
    assert "row 1" in refusal("authors-txt", put(tmp_path / "y.txt", "c 2\n"))
    assert "is a folder" in refusal("authors-txt", tmp_path)


WORD = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=5)
NAME = st.lists(WORD, min_size=1, max_size=3).map(lambda words: " ".join(words) + ".png")
NUMBER = st.floats(0, 100)


@settings(deadline=None, max_examples=50)
@given(
    names=st.lists(NAME, min_size=1, max_size=2), numbers=st.lists(NUMBER, min_size=1, max_size=2)
)
def test_names_with_spaces_are_read_back(names, numbers):
    assert parse_label(" ".join([*names, *map(str, numbers)])) == (names, numbers)


def test_authors_jsonl(tmp_path):
    draw(tmp_path / "img", "I01_01_01.png", "x.jpg")
    human = {"from": "human", "value": "Rate 3 images."}

    def line(image: object, mos: object) -> str:
        turns = [human, {"from": "gpt", "value": mos}]
        return (
            json.dumps(
                {"id": 1, "dataset_name": "KADID-10K", "image": image, "conversations": turns}
            )
            + "\n"
        )

    path = put(
        tmp_path / "train.jsonl",
        line(["I01_01_01.png"], 4.633587786259543) + line(["x.jpg"], "2.5"),
    )
    found = rows("authors-jsonl", path, images=tmp_path / "img")
    assert [(row.image.name, row.mos, row.dataset) for row in found] == [
        ("I01_01_01.png", 4.633587786259543, "KADID-10K"),
        ("x.jpg", 2.5, "KADID-10K"),
    ]
    for wrong in (
        line(["a.png", "b.png"], 1),
        line(["a.png"], "good"),
        '{"id": 1}\n',
        "[1]\n",
        "not json\n",
    ):
        assert "row 2 is not" in refusal(
            "authors-jsonl", put(tmp_path / "bad.jsonl", line(["x.jpg"], 1) + wrong)
        )


def test_pyiqa_csv(tmp_path):
    draw(tmp_path, "a.jpg", "b.jpg")
    text = "img_name,mos,std,official_split,ratio802_seed123_split_01\na.jpg,3.5,,train,val\nb.jpg,2,0.5,test,train\n"
    path = put(tmp_path / "meta_info_KonIQ10kDataset.csv", text)
    assert brief(rows("pyiqa-csv", path)) == [
        ("a.jpg", 3.5, None, "train"),
        ("b.jpg", 2, 0.5, "test"),
    ]
    assert [row.split for row in rows("pyiqa-csv", path, split="ratio802_seed123_split_01")] == [
        "val",
        "train",
    ]
    assert rows("pyiqa-csv", path)[0].dataset == "KonIQ10k"
    assert "choose one of official_split, ratio802" in refusal("pyiqa-csv", path, split="official")
    path = put(tmp_path / "fr.csv", "ref_name,dist_name,dmos,std\nr.png,a.jpg,4.57,0.496\n")
    assert "is higher better in column 'dmos'?" in refusal("pyiqa-csv", path)
    (found,) = rows("pyiqa-csv", path, columns={"mos": "dmos"})
    assert (found.reference, found.image.name, found.mos, found.std) == (
        "r.png",
        "a.jpg",
        4.57,
        0.496,
    )
    assert "go by their place" in refusal("pyiqa-csv", path, columns={"mos": "dmos", "image": "x"})


@pytest.mark.parametrize("metas", ["KONIQ/metas", "."])
def test_deqa_json(tmp_path, metas):
    draw(tmp_path / "KONIQ" / "images", "1.jpg", "2.jpg")
    entries = [
        {
            "id": "1.jpg->3.1",
            "image": "KONIQ/images/1.jpg",
            "gt_score": 77.5,
            "gt_score_norm": 4.1,
            "std": 9.5,
        },
        {"image": "KONIQ/images/2.jpg", "gt_score": 3},
    ]
    path = put(tmp_path / metas / "train_koniq.json", json.dumps(entries))
    assert brief(rows("deqa-json", path)) == [("1.jpg", 77.5, 9.5, None), ("2.jpg", 3, None, None)]
    assert {row.dataset for row in rows("deqa-json", path)} == {"KONIQ"}
    for wrong in ({"image": "x.jpg"}, {"image": "x.jpg", "gt_score": "3"}, {"gt_score": 1}):
        assert "entry 2" in refusal(
            "deqa-json", put(tmp_path / "bad.json", json.dumps([entries[0], wrong]))
        )
    assert "is not a list" in refusal("deqa-json", put(tmp_path / "bad.json", "{}"))
    assert "is not JSON" in refusal("deqa-json", put(tmp_path / "bad.json", "["))


def test_any_csv(tmp_path):
    draw(tmp_path / "photos", "a.jpg", "b.jpg")
    path = put(tmp_path / "mine.csv", "Image Name,Score,note\na.jpg,3,x\nb.JPG,4,\nc.jpg,5,\n")
    columns = {"image": "Image Name", "mos": "Score"}
    found = rows("csv", path, columns=columns, images=tmp_path / "photos", missing="skip")
    assert brief(found) == [("a.jpg", 3, None, None), ("b.jpg", 4, None, None)]
    assert found[0].dataset == "mine"
    assert found[0].extra == {"note": "x"}
    assert "1 of 3" in refusal("csv", path, columns=columns, images=tmp_path / "photos")


def test_a_matlab_file_of_too_many_values_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_ROWS", 1000)
    path = tmp_path / "mos.mat"
    savemat(path, {"mos": np.zeros((1, 2000)), "other": np.ones((1, 3))}, do_compression=True)
    data = Distribution("clive", tmp_path, "a set", None, {}, None)
    with pytest.raises(UserError, match="mos has 2,000 values"):
        records.read_mat(data, path, "mos")
    assert records.read_mat(data, path, "other") == [1, 1, 1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_lists_from_windows_find_their_images(tmp_path, encoding):
    """DeQA-Score's JSON, the authors' text and JSONL, and pyiqa's CSV with backslashes and in Windows' encodings."""
    (tmp_path / "KONIQ" / "images").mkdir(parents=True)
    for name in ("für.png", "b.png"):
        picture(0).save(tmp_path / "KONIQ" / "images" / name)
    names = ["KONIQ\\images\\für.png", "KONIQ\\images\\b.png"]
    entries = [{"image": name, "gt_score": 3 + i} for i, name in enumerate(names)]
    said = [
        {
            "id": str(i),
            "dataset_name": "KONIQ",
            "image": [name],
            "conversations": [
                {"from": "human", "value": "?"},
                {"from": "gpt", "value": str(3 + i)},
            ],
        }
        for i, name in enumerate(names)
    ]
    texts = {
        "deqa-json": json.dumps(entries, ensure_ascii=False),
        "authors-jsonl": "\r\n".join(json.dumps(line, ensure_ascii=False) for line in said),
        "authors-txt": "\r\n".join(f"{name} {3 + i}" for i, name in enumerate(names)),
        "pyiqa-csv": "img_name,mos\r\n" + "\r\n".join(f"{n},{3 + i}" for i, n in enumerate(names)),
        "csv": "image;mos\r\n" + "\r\n".join(f"{n};{3 + i},0" for i, n in enumerate(names)),
    }
    for source, text in texts.items():
        path = tmp_path / "KONIQ_list"
        path.write_bytes(text.encode(encoding))
        rows = import_dataset(source, path).manifest.rows
        assert [(row.image.name, row.mos) for row in rows] == [("für.png", 3), ("b.png", 4)], source
        assert all(row.image.is_file() for row in rows)
        if source == "deqa-json":
            assert rows[0].dataset == "KONIQ"
