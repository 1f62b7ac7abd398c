"""The commands of `data`, as people type them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli.data import app
from visualquality.data.manifest import Manifest
from visualquality.data.sources import SOURCES


def run(*arguments: object):
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}
    )


@pytest.fixture
def ratings(tmp_path) -> Path:
    """Ten unlike images, two of each reference, with columns named as others name them."""
    lines = ["File Name,Mean Score,ref"]
    for i in range(10):
        picture(i, (96, 64)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i / 2},I{i // 2}")
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "scores.csv"


COLUMNS = (
    "--columns",
    "image=File Name",
    "--columns",
    "mos=Mean Score",
    "--columns",
    "reference=ref",
)


@pytest.fixture
def manifest(ratings) -> Path:
    output = ratings.with_name("manifest.csv")
    assert run("import", "csv", ratings, "-o", output, *COLUMNS).exit_code == 0
    return output


def test_help_names_every_data_set():
    result = run("import", "--help")
    assert result.exit_code == 0
    flat = " ".join(result.output.split())
    for name, source in SOURCES.items():
        assert f"{name}: {' '.join(source.source.split())[:60]}" in flat


def test_import_writes_a_manifest_and_says_what_is_in_it(ratings):
    output = ratings.with_name("new") / "manifest.parquet"
    result = run("import", "csv", ratings, "-o", output, *COLUMNS)
    assert result.exit_code == 0, result.output
    for said in ("10", "5", "0 to 4.5", f"10 rows -> {output}"):
        assert said in result.output
    rows = Manifest.read(output).rows
    assert [row.mos for row in rows] == [i / 2 for i in range(10)]
    assert [row.reference for row in rows] == [f"I{i // 2}" for i in range(10)]


def test_missing_images_are_an_error_or_left_out_and_named(ratings):
    output = ratings.with_name("manifest.csv")
    ratings.with_name("3.png").unlink()
    result = run("import", "csv", ratings, "-o", output, *COLUMNS)
    assert result.exit_code == 2
    assert "3.png" in result.output
    assert not output.exists()
    result = run("import", "csv", ratings, "-o", output, *COLUMNS, "--skip-missing")
    assert result.exit_code == 0, result.output
    assert "left out, since not there: 1" in result.output
    assert "3.png" in result.output
    assert len(Manifest.read(output)) == 9


@pytest.mark.parametrize("command", ["import", "split", "show"])
def test_an_output_is_replaced_only_when_asked(manifest, ratings, command):
    output = manifest.with_name("kept.png" if command == "show" else "kept.csv")
    output.write_text("mine")
    arguments = ["csv", ratings, *COLUMNS] if command == "import" else [manifest]
    refused = run(command, *arguments, "-o", output)
    assert refused.exit_code == 2
    assert f"{output} exists" in refused.output
    assert "--overwrite" in refused.output
    assert output.read_text() == "mine"
    assert run(command, *arguments, "-o", output, "--overwrite").exit_code == 0
    assert output.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "nothing", "{folder}", "-o", "{folder}/a.csv"], "'nothing'"),
        (
            ["import", "csv", "{folder}/scores.csv", "-o", "{folder}/a.txt"],
            "a.txt must end in .csv or .parquet",
        ),
        (["import", "csv", "{folder}/gone.csv", "-o", "{folder}/a.csv"], "gone.csv"),
        (
            ["import", "csv", "{folder}/scores.csv", "-o", "{folder}/a.csv", "--columns", "mos"],
            "ours=theirs",
        ),
        (["split", "{folder}/manifest.csv", "-o", "{folder}/a.csv", "--ratios", "6:4"], "6:2:2"),
        (["split", "{folder}/manifest.csv", "-o", "{folder}/a.csv", "--ratios", "0:0:0"], "6:2:2"),
        (
            ["split", "{folder}/manifest.csv", "-o", "{folder}/a.csv", "--ratios", "98:1:1"],
            "too few",
        ),
        (["split", "{folder}/gone.csv", "-o", "{folder}/a.csv"], "gone.csv"),
        (["check", "{folder}/gone.csv"], "gone.csv"),
        (["check", "{folder}/manifest.csv", "--json", "{folder}/no/c.json"], "is not a folder"),
        (["show", "{folder}/manifest.csv", "-o", "{folder}/a.gif"], "a.gif must end in .png"),
        (["show", "{folder}/manifest.csv", "-o", "{folder}"], "must end in"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(manifest, arguments, said):
    before = set(manifest.parent.iterdir())
    result = run(*(argument.format(folder=manifest.parent) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert result.output.startswith("error: ")
    assert "Traceback" not in result.output
    assert set(manifest.parent.iterdir()) == before


def test_check_is_status_0_when_clean_and_1_when_not(manifest):
    clean = run("check", manifest)
    assert clean.exit_code == 0, clean.output
    assert "broken images: 0, leaks: 0, duplicates beside them: 0" in clean.output
    assert "PNG RGB 10" in clean.output
    report = manifest.with_name("check.json")
    Image.open(manifest.with_name("1.png")).convert("RGB").save(
        manifest.with_name("copy.jpg"), quality=80
    )
    manifest.with_name("4.png").write_bytes(b"<html>")
    with manifest.open("a") as file:
        file.write("copy.jpg,0.75,scores,I9\n")
    found = run("check", manifest, "--json", report)
    assert found.exit_code == 1, found.output
    assert "broken images: 1, leaks: 0, duplicates beside them: 1" in found.output
    assert "4.png is not an image" in found.output
    assert "copy.jpg" in found.output
    written = json.loads(report.read_text())
    assert [Path(member["image"]).name for member in written["overlaps"][0]["members"]] == [
        "1.png",
        "copy.jpg",
    ]
    assert [Path(broken["image"]).name for broken in written["broken"]] == ["4.png"]


def test_check_compares_manifests_with_each_other(manifest):
    lines = manifest.read_text().splitlines()
    other = manifest.with_name("other.csv")
    other.write_text("\n".join([lines[0], *lines[9:]]) + "\n")
    result = run("check", manifest, other)
    assert result.exit_code == 1
    # The two images, and the reference that both manifests hold.
    assert "broken images: 0, leaks: 3, duplicates beside them: 0" in result.output
    assert "other.csv" in result.output


def test_long_lists_of_findings_are_cut_on_the_terminal_alone(manifest):
    lines, folder, report = ["image,mos"], manifest.parent, manifest.with_name("check.json")
    for i in range(12):
        (folder / f"broken {i:02}.png").write_bytes(b"nothing")
        lines.append(f"broken {i:02}.png,{i}")
    for i in range(12):
        name = f"twin {i:02}.png"
        picture(20 + i % 2).save(folder / name)
        lines.append(f"{name},{i}")
    manifest.write_text("\n".join(lines) + "\n")
    result = run("check", manifest, "--json", report)
    assert result.exit_code == 1
    assert "broken 09.png" in result.output
    assert "broken 10.png" not in result.output
    assert "and 2 more broken" in result.output
    assert result.output.count("twin") == 8
    assert result.output.count("and 2 more ") == 3
    written = json.loads(report.read_text())
    assert len(written["broken"]) == 12
    assert [len(overlap["members"]) for overlap in written["overlaps"]] == [6, 6]


def test_split_keeps_references_together_and_is_repeatable(manifest):
    outputs = [manifest.with_name(f"split {i}.csv") for i in range(3)]
    for output, seed in zip(outputs, (0, 0, 5), strict=True):
        result = run("split", manifest, "-o", output, "--ratios", "3:1:1", "--seed", seed)
        assert result.exit_code == 0, result.output
        assert "train 6, val 2, test 2" in result.output
    rows = Manifest.read(outputs[0]).rows  # which refuses a reference in two splits
    assert [row.mos for row in rows] == [row.mos for row in Manifest.read(manifest).rows]
    assert outputs[0].read_bytes() == outputs[1].read_bytes() != outputs[2].read_bytes()
    assert run("check", outputs[0]).exit_code == 0


def test_show_draws_as_many_as_asked(manifest):
    heights = []
    for count in (3, 10):
        output = manifest.with_name(f"sheet {count}.png")
        assert run("show", manifest, "-o", output, "--count", count).exit_code == 0
        heights.append(Image.open(output).height)
    assert heights[1] > heights[0] * 1.5
