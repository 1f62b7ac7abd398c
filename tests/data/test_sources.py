"""Importing data sets: small files of exactly each official form, made here, and every trap in them."""

import csv
import json
import math
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from source_forms import (
    FORMS,
    SHARED,
    agiqa,
    bid,
    biq,
    brief,
    clive,
    draw,
    kadid,
    koniq,
    put,
    refusal,
    rows,
    spaq,
    sriqa,
)
from visualquality.data.manifest import Manifest
from visualquality.data.sources import SOURCES, import_dataset
from visualquality.data.sources.published import KADID_DISTORTIONS, kadid10k_authors_split


def test_every_source_says_where_it_is_had_and_what_is_easily_misread():
    for name, source in SOURCES.items():
        assert "\n" not in source.source
        assert "http" in source.source or name in ("csv", "raters")
        assert source.read.__doc__


def test_the_ends_of_a_scale_are_those_that_the_source_names():
    scales = {name: source.mos_range for name, source in SOURCES.items() if source.mos_range}
    assert {"kadid10k", "koniq10k", "spaq", "clive", "bid", "agiqa3k", "biq2021"} <= scales.keys()
    # Between its scenes the MOS mean nothing, so they are on no common scale.
    assert "sriqa-bench" not in scales
    for name, (low, high) in scales.items():
        assert f"MOS {low:g} to {high:g})" in SOURCES[name].source


def test_naming_the_sources_does_not_import_slow_libraries():
    program = "import sys, visualquality.data.sources; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"numpy", "pandas", "pyarrow", "PIL", "scipy", "openpyxl", "torch", "pydantic"}
    assert not slow & set(ran.stdout.split())


def test_kadid10k(tmp_path):
    first, second, third = rows("kadid10k", kadid(tmp_path))
    assert (first.mos, first.std) == (4.57, pytest.approx(0.7042726744663603))
    assert (second.mos, second.std, third.std) == (1, 0, pytest.approx(1.1))
    assert [row.reference for row in (first, second, third)] == ["I01.png", "I07.png", "I81.png"]
    assert [row.extra for row in (first, second, third)] == [
        {"level": 1},
        {"level": 5},
        {"level": 3},
    ]
    names = [row.distortion for row in (first, second, third)]
    assert names == ["Gaussian blur", "White noise in color component", "Contrast change"]
    assert {row.split for row in (first, second, third)} == {None}
    assert [row.split for row in rows("kadid10k", tmp_path, split="authors")] == [
        "train",
        "val",
        "test",
    ]
    assert len(KADID_DISTORTIONS) == len(set(KADID_DISTORTIONS)) == 25


def test_an_image_listed_twice(tmp_path):
    table = kadid(tmp_path) / "dmos.csv"
    text = table.read_text()
    table.write_text(text + "i01_01_01.PNG,I01.png,4.57,0.496\n")
    assert len(rows("kadid10k", tmp_path)) == 3
    table.write_text(text + "I01_01_01.png,I01.png,4.58,0.496\n")
    assert "I01_01_01.png is listed twice, with mos 4.57" in refusal("kadid10k", tmp_path)


def test_the_authors_split_of_kadid10k():
    split = kadid10k_authors_split()
    assert sorted(split) == [f"I{i:02d}" for i in range(1, 82)]
    assert [list(split.values()).count(name) for name in ("train", "val", "test")] == [49, 16, 16]
    text = (
        resources.files("visualquality.data.sources")
        .joinpath("kadid10k_authors_split.json")
        .read_text()
    )
    assert sum(map(len, json.loads(text).values())) == 81  # so that no reference is in two


def test_koniq10k(tmp_path):
    root = koniq(tmp_path)
    expected = [
        ("1.jpg", 3.83, 0.53, "train"),
        ("2.jpg", 3.48, 0.58, "test"),
        ("3.jpg", 3.5, 0.5, "val"),
    ]
    assert (
        brief(rows("koniq10k", root)) == brief(rows("koniq10k", root, split="official")) == expected
    )
    assert {row.image.parent.name for row in rows("koniq10k", root)} == {"512x384"}
    draw(root / "1024x768", "1.jpg", "2.jpg", "3.jpg")
    assert {row.image.parent.name for row in rows("koniq10k", root)} == {"1024x768"}
    assert {row.image.parent.name for row in rows("koniq10k", root, images=root / "512x384")} == {
        "512x384"
    }
    sets = root / "koniq10k_distributions_sets.csv"
    scores = root / "koniq10k_scores_and_distributions.csv"
    kept = sets.read_text(), scores.read_text()
    sets.write_text(kept[0].replace("validation", "valid"))
    assert "row 4, column 'set': 'valid' is none of" in refusal("koniq10k", root)
    sets.write_text(kept[0].replace("3.jpg", "4.jpg"))
    assert "'3.jpg' is not in koniq10k_distributions_sets.csv" in refusal("koniq10k", root)
    sets.unlink()
    assert {row.split for row in rows("koniq10k", root)} == {None}
    assert "koniq10k_distributions_sets.csv" in refusal("koniq10k", root, split="official")
    scores.write_text(kept[1].replace('"MOS"', '"x"').replace('"MOS_zscore"', '"MOS"'))
    assert "column 'MOS': 77.4 is not from 1 to 5" in refusal("koniq10k", root)


def test_koniq10k_in_folders_as_its_archives_unpack(tmp_path):
    for name in ("koniq10k_512x384/512x384", "koniq10k_1024x768/1024x768"):
        draw(tmp_path / name, "1.jpg", "2.jpg", "3.jpg")
    koniq(tmp_path / "tables")
    (tmp_path / "tables" / "512x384").rename(tmp_path / "other")
    found = rows("koniq10k", tmp_path)
    assert found[0].image == (tmp_path / "koniq10k_1024x768/1024x768/1.jpg").resolve()
    assert found[0].split == "train"


def test_spaq(tmp_path):
    assert brief(rows("spaq", spaq(tmp_path))) == [
        ("00001.jpg", 52.5, None, None),
        ("00002.jpg", 100, None, None),
    ]


def test_clive_leaves_out_its_training_images(tmp_path):
    found = rows("clive", clive(tmp_path))
    assert brief(found) == [
        ("3.bmp", 70, 7.5, None),
        ("4.jpg", 80, 8.5, None),
    ]  # 4.JPG in the table
    assert {row.image.parent.name for row in found} == {"Images"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"std": 8}, "9 names, 9 MOS and 8 standard"),
        ({"names": [f"{i}.bmp" for i in range(9)]}, "begins with 0.bmp"),
    ],
)
def test_clive_that_was_changed(tmp_path, options, said):
    message = refusal("clive", clive(tmp_path, **options))
    assert said in message
    assert "live.ece.utexas.edu" in message


@pytest.mark.parametrize("suffix", ["xls", "xlsx"])
@pytest.mark.parametrize("folder", ["ImageDatabase", "."])
def test_bid(tmp_path, suffix, folder):
    names = ["DatabaseImage0001.JPG", "DatabaseImage0586.jpg", "DatabaseImage1003.JPG"]
    found = rows("bid", bid(tmp_path, suffix, folder))
    assert [(row.image.name, row.mos) for row in found] == list(
        zip(names, [2.5, 5, 0], strict=True)
    )


def test_agiqa3k_rates_quality_not_alignment(tmp_path):
    found = rows("agiqa3k", agiqa(tmp_path))
    assert brief(found) == [
        ("sd1.5_lowcorr_003.jpg", 3.25, 0.5, None),
        ("DALLE2_normal_000.jpg", 0, 0.25, None),
    ]
    assert found[0].extra == {"prompt": "a cat, asleep", "generator": "sd1.5"}
    assert found[1].extra == {"prompt": "red armor", "generator": "DALLE2"}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_biq2021(tmp_path, bom):
    again = "ss01 (1).jpg,0.8471,,\n" * 2  # listed twice alike: once
    found = rows("biq2021", biq(tmp_path, again, bom))
    expected = [
        ("ss02 (1014).JPG", 0.2874, "train"),
        ("ss01 (1).jpg", 0.8471, "train"),
        ("ss03 (9).jpg", 0, "test"),
    ]
    assert [(row.image.name, row.mos, row.split) for row in found] == expected
    (tmp_path / "Train (Images and MOS).csv").rename(tmp_path / "train.csv")
    (tmp_path / "Test (Images and MOS).csv").rename(tmp_path / "test.csv")
    (tmp_path / "Images").rename(tmp_path / "images")
    assert brief(rows("biq2021", tmp_path)) == brief(found)


@pytest.mark.parametrize("test", ["ss01 (1).jpg,0.8471\n", "ss03 (9).jpg,0.1\nss03 (9).jpg,0.2\n"])
def test_biq2021_with_one_image_rated_twice_or_in_both_splits(tmp_path, test):
    message = refusal("biq2021", biq(tmp_path, test=test))
    assert "is listed twice, with mos" in message
    assert "split test: delete one row" in message


def test_liu13_and_min19(tmp_path):
    put(tmp_path / "Deblur_test_all.txt", "0_0.png 0_1.png 4.5\n0_0.png 0_10.png 1.0\n")
    put(
        tmp_path / "dehaze_test_all.txt",
        "lawn1_D1.png lawn1_D1_He09.png 3.4\n\nroad.png road_Cai16.png 5\n",
    )
    draw(tmp_path / "pictures", "0_1.png", "0_10.png", "lawn1_D1_He09.png", "road_Cai16.png")
    found = rows("liu13", tmp_path, images=tmp_path / "pictures")
    assert [(row.reference, row.image.name, row.mos) for row in found] == [
        ("0_0.png", "0_1.png", 4.5),
        ("0_0.png", "0_10.png", 1.0),
    ]
    found = rows("min19", tmp_path, images=tmp_path / "pictures")
    assert [(row.reference, row.distortion, row.mos, row.std) for row in found] == [
        ("lawn1_D1.png", "He09", 3.4, None),
        ("road.png", "Cai16", 5, None),
    ]


def test_sriqa_bench_keeps_the_originals(tmp_path):
    found = rows("sriqa-bench", sriqa(tmp_path))
    assert [(row.reference, row.image.name, row.distortion) for row in found] == [
        ("a1_Original.png", "a1_SeeSRx4.png", "SeeSRx4"),
        ("a1_Original.png", "a1_Original.png", "Original"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "a1_Original.png a1_x.png",
        "a1_x.png 3",
        "a1_Original.png a1_x.png 3 1",
        "a.png b.png c.png 3",
    ],
)
def test_a_line_of_another_form(tmp_path, line):
    put(sriqa(tmp_path) / "SRIQA-Bench_test_all.txt", f"a1_Original.png a1_SeeSRx4.png 7\n{line}\n")
    assert f"row 2, {line!r}, is not `reference image mos`" in refusal("sriqa-bench", tmp_path)


@pytest.mark.parametrize("name", FORMS)
def test_one_folder_deeper_and_the_same(tmp_path, name):
    made = FORMS[name](tmp_path / "holder" / "set")
    (tmp_path / "holder" / "unrelated" / "images").mkdir(parents=True)
    assert rows(name, tmp_path / "holder") == rows(name, made)
    FORMS[name](tmp_path / "holder" / "twin")
    assert "both there" in refusal(name, tmp_path / "holder")


@pytest.mark.parametrize("name", [*FORMS, "liu13", "min19"])
def test_what_is_missing_is_named_with_where_it_is_had(tmp_path, name):
    url = SOURCES[name].source.split("from ")[1].split(",")[0]
    (tmp_path / "empty").mkdir()
    message = refusal(name, tmp_path / "empty")
    assert "neither in" in message
    assert url in message
    assert "is not a folder" in refusal(name, tmp_path / "nowhere")


COLUMNS = [
    ("kadid10k", "dmos.csv", "dmos"),
    ("kadid10k", "dmos.csv", "var"),
    ("koniq10k", "koniq10k_scores_and_distributions.csv", "SD"),
    ("koniq10k", "koniq10k_distributions_sets.csv", "set"),
    ("agiqa3k", "data.csv", "mos_quality"),
    ("biq2021", "Train (Images and MOS).csv", "Image Name"),
]


@pytest.mark.parametrize(("name", "file", "column"), COLUMNS)
def test_a_changed_column_is_named(tmp_path, name, file, column):
    table = FORMS[name](tmp_path) / file
    header, _, body = table.read_text().partition("\n")
    table.write_text(f"{header.replace(column, 'renamed', 1)}\n{body}")
    message = refusal(name, tmp_path)
    assert f"{table}: column '{column}' is missing" in message
    assert "'renamed" in message
    assert "http" in message


def test_a_changed_column_in_excel_and_matlab(tmp_path):
    assert "column 'MOS' is missing" in refusal(
        "spaq", spaq(tmp_path / "s", ("Image name", "Score"))
    )
    root = clive(tmp_path / "c")
    scipy.io.savemat(root / "Data" / "AllMOS_release.mat", {"MOS": np.arange(9.0)})
    assert "AllMOS_release.mat: variable 'AllMOS_release' is missing, there are MOS" in refusal(
        "clive", root
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("spaq", "Annotations/MOS and Image attribute scores.xlsx"),
        ("clive", "Data/AllMOS_release.mat"),
        ("bid", "DatabaseGrades.xls"),
        ("kadid10k", "dmos.csv"),
        ("sriqa-bench", "SRIQA-Bench_test_all.txt"),
    ],
)
def test_a_broken_file(tmp_path, name, file):
    (FORMS[name](tmp_path) / file).write_bytes(b"\xff\xfe not what it says")
    message = refusal(name, tmp_path)
    assert Path(file).name in message
    assert "cannot be read" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("4.57", "good", "row 2, column 'dmos': 'good' is not a finite number"),
        ("4.57", "nan", "row 2, column 'dmos': 'nan' is not a finite number"),
        ("4.57", "45.7", "row 2, column 'dmos': 45.7 is not from 1 to 5"),
        ("4.57", "", "row 2, column 'dmos': is empty"),
        ("0.496", "-1", "row 2, column 'var': -1 is not at least 0"),
        ("0.496", "0.496,7", "row 2 has a cell beyond the named columns"),
        ("I07_12_05", "I07_26_05", "row 3, column 'dist_img': 'I07_26_05.png' is not of the form"),
    ],
)
def test_a_cell_that_cannot_be(tmp_path, old, new, said):
    table = kadid(tmp_path) / "dmos.csv"
    table.write_text(table.read_text().replace(old, new))
    assert said in refusal("kadid10k", tmp_path)


def test_missing_images(tmp_path):
    root = kadid(tmp_path)
    (root / "images" / "I07_12_05.png").unlink()
    message = refusal("kadid10k", root)
    assert "1 of 3 images are not there" in message
    assert "I07_12_05.png" in message
    imported = import_dataset("kadid10k", root, missing="skip")
    assert [Path(path).name for path in imported.missing] == ["I07_12_05.png"]
    assert [row.image.name for row in imported.manifest.rows] == ["I01_01_01.png", "I81_25_03.png"]
    (root / "nothing").mkdir()
    assert "3 of 3 images" in refusal("kadid10k", root, images=root / "nothing", missing="skip")
    assert "is not a folder" in refusal("kadid10k", root, images=root / "nowhere")


@pytest.mark.skipif(
    (Path(__file__).parent / "TEST_SOURCES.PY").exists(), reason="the file system ignores case"
)
def test_names_that_differ_in_case_alone_are_told_apart(tmp_path):
    put(tmp_path / "set.txt", "a.jpg 1\na.JPG 2\n")
    draw(tmp_path, "a.jpg", "a.JPG")
    assert [row.image.name for row in rows("authors-txt", tmp_path / "set.txt")] == [
        "a.jpg",
        "a.JPG",
    ]
    put(tmp_path / "set.txt", "A.jpg 1\na.JPG 2\n")
    assert "1 of 2" in refusal(
        "authors-txt", tmp_path / "set.txt"
    )  # which of the two A.jpg means is open


def test_unknown_names_and_splits(tmp_path):
    assert "choose one of kadid10k, koniq10k" in refusal("kadid", tmp_path)
    assert "choose authors" in refusal("kadid10k", tmp_path, split="official")
    assert "none of its own" in refusal("spaq", tmp_path, split="official")
    assert "columns are for pyiqa-csv, csv, raters: bid" in refusal(
        "bid", tmp_path, columns={"mos": "x"}
    )
    assert "use error or skip" in refusal("bid", tmp_path, missing="drop")


@pytest.mark.parametrize("name", ["kadid10k", "koniq10k", "agiqa3k", "biq2021"])
def test_what_is_imported_can_be_written_and_read(tmp_path, name):
    found = import_dataset(name, FORMS[name](tmp_path / "set")).manifest
    found.write(tmp_path / "manifest.csv")
    read = Manifest.read(tmp_path / "manifest.csv")
    assert [(r.image, r.mos, r.std, r.dataset, r.split) for r in read.rows] == [
        (r.image, r.mos, r.std, r.dataset, r.split) for r in found.rows
    ]


@pytest.mark.skipif(not (SHARED / "agiqa3k").is_dir(), reason="the AGIQA-3K images are not here")
def test_the_real_agiqa3k():
    found = rows("agiqa3k", SHARED / "agiqa3k")
    with (SHARED / "agiqa3k" / "data.csv").open(encoding="utf-8", newline="") as file:
        table = [
            (r["name"], float(r["mos_quality"]), float(r["std_quality"]))
            for r in csv.DictReader(file)
        ]
    assert [(row.image.name, row.mos, row.std) for row in found] == table
    generators = {row.extra["generator"] for row in found}
    assert generators == {"AttnGAN", "DALLE2", "glide", "midjourney", "sd1.5", "xl2.2"}


@pytest.mark.skipif(not (SHARED / "biq2021").is_dir(), reason="the BIQ2021 photos are not here")
def test_the_real_biq2021():
    splits = [row.split for row in rows("biq2021", SHARED / "biq2021")]
    assert (splits.count("train"), splits.count("test")) == (2000, 400)


@pytest.mark.skipif(
    not (SHARED / "labels").is_dir(), reason="the authors' label files are not here"
)
def test_the_authors_label_files(tmp_path):
    split = kadid10k_authors_split()
    for name in ("train", "val", "test"):
        lines = (SHARED / "labels" / f"KADID-10K_{name}_set.txt").read_text().splitlines()
        assert {line.split()[0] for line in lines} == {
            f"{key}.png" for key, value in split.items() if value == name
        }
    counts = {
        "Deblur": ("liu13", 1199, 40),
        "dehaze": ("min19", 600, 75),
        "SRIQA-Bench": ("sriqa-bench", 1100, 100),
    }
    for stem, (source, images, references) in counts.items():
        lines = (SHARED / "labels" / f"{stem}_test_all.txt").read_text().splitlines()
        (tmp_path / source).mkdir()
        for line in lines:
            (tmp_path / source / line.split()[1]).touch()  # images are not opened
        found = rows(source, SHARED / "labels", images=tmp_path / source)
        assert (len(found), len({row.reference for row in found})) == (images, references)
        assert math.fsum(row.mos for row in found) == math.fsum(
            float(line.split()[-1]) for line in lines
        )
        if source != "liu13":
            assert len({row.distortion for row in found}) == images // references
