"""Reading, refusing and writing manifests."""

import csv
import math
import ntpath
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visualquality.data import find
from visualquality.data.find import common_folder, relative_path
from visualquality.data.manifest import Manifest, Row, read_manifests
from visualquality.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder `set` with images a.png to f.png and `photo (1), final.jpg`."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "photo (1), final.jpg"]:
        Image.new("RGB", (2, 2)).save(folder / name)
    return folder


def put(path: Path, *lines: str, start: str = "") -> Path:
    path.write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_references_are_files_beside_the_image_or_above_it(folder):
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("a/x.png", "a/b/y.png", "x.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    lines = ("image,mos,reference", "a/b/y.png,1,x.png", "a/x.png,2,a/b/y.png", "a.png,3,7")
    rows = Manifest.read(put(folder / "set.csv", *lines)).rows
    assert [row.reference_image for row in rows] == [folder / "a/x.png", folder / "a/b/y.png", None]
    assert "row 4, reference: no file '7'" in refusal(folder / "set.csv", references=True)
    (folder / "a" / "b" / "y.png").write_bytes(b"\x89PNG")
    elsewhere = folder.parent / "other.csv"
    Manifest(rows).write(elsewhere)
    faults = refusal(elsewhere, references=True)
    assert "row 3, reference:" in faults
    assert "y.png is truncated" in faults


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        Manifest.read(path, **options)
    return str(caught.value)


FULL = (
    "image,mos,std,reference,dataset,split,distortion,level,reasoning",
    "a.png,1.5,0.25,I01,kadid,train,blur,3,It is blurred.",
    '"photo (1), final.jpg",4,,I02,kadid,test,,,"Sharp,\nand bright."',
    "",
    "b.png,60,0,,spaq,,,,",
)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_full_csv(folder, bom):
    manifest = Manifest.read(put(folder / "ratings.csv", *FULL, start=bom))
    last = {"level": ""}
    assert manifest.rows == (
        Row(
            folder / "a.png",
            1.5,
            "kadid",
            0.25,
            "I01",
            "train",
            "blur",
            "It is blurred.",
            {"level": "3"},
        ),
        Row(
            folder / "photo (1), final.jpg",
            4.0,
            "kadid",
            None,
            "I02",
            "test",
            None,
            "Sharp,\nand bright.",
            last,
        ),
        Row(folder / "b.png", 60.0, "spaq", 0.0, None, None, None, None, last),
    )
    assert len(manifest) == 3
    assert manifest.datasets == ("kadid", "spaq")
    assert [row.mos for row in manifest.subset("test").rows] == [4.0]
    assert len(manifest.subset("val")) == 0
    with pytest.raises(UserError, match="unknown split 'valid'"):
        manifest.subset("valid")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_is_read_back_from_another_folder(folder, tmp_path, suffix):
    manifest = Manifest.read(put(folder / "ratings.csv", *FULL))
    path = tmp_path / "new folder" / f"copy{suffix}"
    Manifest(manifest.rows[:1]).write(path)
    with path.open("rb") as reader:  # who reads meanwhile has the old file
        manifest.write(path)
        assert reader.read() != path.read_bytes()
    assert Manifest.read(path) == manifest
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    bare = Manifest(
        (Row(folder / "a.png", 0.1 + 0.2, "s"), Row(folder / "b.png", math.pi, "s", std=0.0))
    )
    bare.write(path)
    assert Manifest.read(path) == bare
    (tmp_path / "new folder").rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert Manifest.read(tmp_path / "link" / path.name) == bare


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    path = put(folder / "ratings.csv", *FULL)
    before = path.read_bytes()
    manifest = Manifest.read(path)

    def full_disk(file):
        file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", full_disk)
    with pytest.raises(UserError, match=r"ratings\.csv cannot be written \(No space left"):
        manifest.write(path)
    assert path.read_bytes() == before
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    with pytest.raises(UserError, match=r"neither \.csv nor \.parquet"):
        Manifest(()).write(folder / "a.xlsx")


def test_the_default_name_of_a_data_set(folder, monkeypatch):
    lines = ("image,mos,dataset", "a.png,1,", "b.png,2,mine")
    monkeypatch.chdir(folder)
    for stem, name in {
        "koniq": "koniq",
        "train": "set",
        "test": "set",
        "manifest": "set",
        "data": "set",
    }.items():
        path = put(Path(f"{stem}.csv"), *lines)
        assert Manifest.read(path).datasets == (name, "mine")
        assert Manifest.read(path, name="given").datasets == ("given", "mine")


def test_biq2021s_own_form(folder):
    path = put(folder.parent / "train.csv", "Image Name,MOS", "a.png,0.4", "b.png,0.9")
    columns = {"image": "Image Name", "mos": "MOS"}
    manifest = Manifest.read(path, name="biq2021", columns=columns, images=folder)
    assert manifest.rows == (
        Row(folder / "a.png", 0.4, "biq2021"),
        Row(folder / "b.png", 0.9, "biq2021"),
    )
    message = refusal(path, images=folder)
    assert (
        "column 'image' is missing, there are 'Image Name', 'MOS': rename 'Image Name' to 'image'"
        in message
    )
    assert (
        "column 'mos' is missing, there are 'Image Name', 'MOS': rename 'MOS' to 'mos'" in message
    )
    assert "column 'Mos' is missing" in refusal(
        path, images=folder, columns=columns | {"mos": "Mos"}
    )
    with pytest.raises(UserError, match="columns: score is none of our names"):
        Manifest.read(path, columns={"score": "MOS"})


def test_one_row_a_rating_is_told_how_to_become_means(folder):
    path = put(folder.parent / "ratings.csv", "image,rater,score", "a.png,x,4", "a.png,y,5")
    message = refusal(path, images=folder)
    assert "make means of them first, with `data import raters`" in message
    assert "rename 'score'" not in message


def test_a_mapped_column_displaces_one_of_our_name(folder):
    path = put(folder / "agi.csv", "image,mos,MOS_zscore", "a.png,1,70", "b.png,2,80")
    rows = Manifest.read(path, columns={"mos": "MOS_zscore"}).rows
    assert [(row.mos, row.extra) for row in rows] == [(70.0, {}), (80.0, {})]


def test_every_fault_is_reported_with_its_row(folder):
    (folder / "broken.png").write_bytes(b"no image")
    path = put(
        folder / "many.csv",
        "image,mos,std,reference,split",
        "a.png,1,0.1,I01,train",
        'b.png,nan,0.1,"I\n02",train',  # row 3, over two lines
        "c.png,inf,-1,I03,train",  # 5
        "gone.png,3,0.1,I01,test",
        "broken.png,three,x,I03,train",
        "./a.png,2,,I05,valid",
        ",,,,",
        "d.png,4",
        "e.png,5,,,",
    )
    faults = [
        "row 3, mos: 'nan' is not a finite number",
        "row 5, mos: 'inf' is not a finite number",
        "row 5, std: '-1' is not a number of at least 0",
        "row 6, reference: 'I01' of 'many' is in several splits (train in row 2 of",
        f"row 6, image: {folder / 'gone.png'} does not exist",
        "row 7, mos: 'three' is not",
        "row 7, std: 'x' is not",
        f"row 7, image: {folder / 'broken.png'} is not an image",
        "row 8, split: 'valid' is unknown: use train, val, test",
        "row 8, image: the same file as row 2 of",
        "row 9, image: is empty",
        "row 9, mos: '' is not a finite number",
        "row 10, 2 fields where the header has 5",
    ]
    lines = refusal(path).splitlines()
    assert lines[0] == f"{len(faults)} faults to fix:"
    assert len(lines) == 1 + len(faults)
    for fault in faults:
        assert sum(f"{path}: {fault}" in line for line in lines) == 1, fault
    rows = [int(line.split("row ")[1].split(",")[0]) for line in lines[1:]]
    assert rows == sorted(rows)
    assert len(refusal(path, check_images=False).splitlines()) == len(lines) - 2


def test_at_most_twenty_faults_are_listed(folder):
    path = put(folder / "long.csv", "image,mos", *(f"{i}.png,{i}" for i in range(47)))
    lines = refusal(path).splitlines()
    assert lines[0] == "47 faults to fix:"
    assert len(lines) == 22
    assert lines[-1] == "  and 27 more"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read (its first line is empty)"),
        (b"image,mos\n", "has a header but no rows"),
        (b"image,mos;std\na.png,1;2\n", "there are 'image', 'mos;std'"),
        (b"image,mos,mos\na.png,1,2\n", "column 'mos' is there 2 times"),
        (
            b"image,dmos\na.png,1\n",
            "rename 'dmos' to 'mos', or map it with columns (only if higher is better",
        ),
        (b"image,mos\n\x81.png,1\n", "cannot be read ('charmap' codec"),
        (
            b'image,mos\n"a.png,1\n',
            "cannot be read (after row 1: not CSV (unexpected end of data))",
        ),
        (b"image,mos\na\0.png,1\n", "row 2, image:"),
        (b"image,mos\na.png,3\nb.png,3.0\n", "mos: all images of data set 'm' have the MOS 3"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_one_fault_is_one_sentence_naming_the_file(folder, content, message):
    path = folder / "m.csv"
    if content is not None:
        path.write_bytes(content)
    given = refusal(path)
    assert message in given
    assert given.startswith(f"{path}: ")
    assert "\n" not in given


def test_parquet_of_typed_columns(folder):
    path = folder / "typed.parquet"
    table = {
        "image": ["a.png", "b.png"],
        "mos": [1, 2],
        "std": [None, 0.5],
        "reference": [7, 8],
        "level": [3, None],
    }
    pq.write_table(pa.table(table), path)
    first, second = Manifest.read(path).rows
    assert (first.mos, first.std, first.reference, first.extra) == (1.0, None, "7", {"level": 3})
    assert (second.std, second.dataset) == (0.5, "typed")
    pq.write_table(pa.table(table | {"mos": [1.0, math.nan], "image": ["a.png", None]}), path)
    message = refusal(path)
    assert "row 3, mos: 'nan'" in message
    assert "row 3, image: is empty" in message
    path.write_bytes(b"PAR1 cut")
    assert "typed.parquet: cannot be read" in refusal(path)


def test_a_link_to_the_folder_is_the_same_image(folder):
    os.symlink(folder, folder.parent / "link")
    path = put(folder / "m.csv", "image,mos", "a.png,1", "../link/a.png,2")
    assert "row 3, image: the same file as row 2" in refusal(path)


def test_several_manifests(folder, tmp_path):
    one = put(folder / "one.csv", "image,mos", "a.png,1", "b.png,2")
    two = put(
        folder / "two.csv",
        "image,mos,dataset,split,reference",
        "c.png,30,both,train,I01",
        "d.png,40,both,,I02",
    )
    three = put(folder / "three.csv", "image,mos,dataset,split,reference", "e.png,5,both,test,I03")
    merged = read_manifests([one, two, three])
    assert merged.datasets == ("one", "both")
    assert [row.image.name for row in merged.rows] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    same = put(folder / "train.csv", "image,mos", "a.png,1", "f.png,2")
    accident = put(folder / "test.csv", "image,mos", "e.png,1", "gone.png,2")
    put(three, "image,mos,dataset,split,reference", "e.png,5,both,test,I01")
    with pytest.raises(UserError) as caught:
        read_manifests([one, same, accident, two, three])
    message = str(caught.value)
    assert message.startswith("5 faults to fix:")
    for fault in [
        f"{same}: row 2, image: the same file as row 2 of {one}",
        f"dataset: 'set' is the name for {same} and {accident}",
        f"{accident}: row 3, image: {folder / 'gone.png'} does not exist",
        f"{three}: row 2, reference: 'I01' of 'both' is in several splits (train in row 2 of {two}, test in",
        f"{three}: row 2, image: the same file as row 2 of {accident}",
    ]:
        assert fault in message
    with pytest.raises(UserError, match="no manifest"):
        read_manifests([])


def test_a_reference_may_be_in_several_data_sets_and_rows_without_a_split_do_not_leak(folder):
    header = "image,mos,dataset,split,reference"
    path = put(
        folder / "m.csv",
        header,
        "a.png,1,x,train,I01",
        "b.png,2,x,,I01",
        "c.png,3,y,test,I01",
        "d.png,4,y,val,",
    )
    assert len(Manifest.read(path)) == 4


def test_paths_of_windows_are_found_and_a_file_of_that_very_name_comes_first(folder):
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.png", folder / "sub" / "a.png")
    path = put(
        folder / "m.csv", "image,mos,reference", "sub\\a.png,1,b.png", ".\\b.png,2,sub\\a.png"
    )
    rows = Manifest.read(path, references=True).rows
    assert [row.image for row in rows] == [folder / "sub" / "a.png", folder / "b.png"]
    assert rows[1].reference_image == folder / "sub" / "a.png"
    shutil.copy(folder / "b.png", folder / "sub\\a.png")
    assert Manifest.read(path).rows[0].image == folder / "sub\\a.png"


def test_one_row_a_rater_is_told_what_to_do(folder):
    path = put(folder / "m.csv", "image,mos", "a.png,4", "a.png,5")
    assert "average one row a rater with `data import raters`" in refusal(path)


def test_a_path_on_another_drive_is_written_whole(monkeypatch):
    assert relative_path("/photos/a.png", "/sets") == "../photos/a.png"
    monkeypatch.setattr(find, "os", SimpleNamespace(path=ntpath))
    assert relative_path("D:/photos/a.png", "C:/sets") == "D:/photos/a.png"
    assert common_folder(["D:/photos", "C:/sets"]) == ""
