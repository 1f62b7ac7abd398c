"""--reference: an image or a folder, of score, compare and rank; the manifest's column, of evaluate."""

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app

run = CliRunner()


@pytest.fixture
def folder(tmp_path) -> Path:
    """photos/a.png and photos/b.png, and clean/a.jpg and clean/more/b.png."""
    for index, name in enumerate(
        ["photos/a.png", "photos/b.png", "clean/a.jpg", "clean/more/b.png"]
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index, (96, 64)).save(path)
        # Not just changed: of such a file a journal looks again and adds a line.
        then = time.time() - 3600
        os.utime(path, (then, then))
    return tmp_path


def scores(*arguments: object) -> dict[str, float]:
    result = run.invoke(app, ["score", *map(str, arguments), "--json", "--mode", "expect"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {Path(row["image"]).name: row["score"] for row in rows}


def test_a_folder_has_the_reference_of_the_same_stem_and_a_file_is_everyones(folder):
    photos, clean = folder / "photos", folder / "clean"
    both = scores(photos, "--reference", clean)
    one = scores(photos, "--reference", clean / "a.jpg")
    assert both.keys() == one.keys() == {"a.png", "b.png"}
    assert both["a.png"] == one["a.png"]
    assert both["b.png"] != one["b.png"]
    assert scores(photos)["a.png"] != both["a.png"]
    for command in (["rank", photos], ["compare", photos / "a.png", photos / "b.png"]):
        result = run.invoke(
            app, [*map(str, command), "--reference", str(clean), "--mode", "expect"]
        )
        assert result.exit_code == 0, result.output
        assert f"{both['a.png']:.2f}" in result.output


def test_ratings_against_others_are_not_mixed(folder):
    output = folder / "scores.jsonl"
    command = [
        "score",
        str(folder / "photos"),
        "--mode",
        "expect",
        "-o",
        str(output),
        "--reference",
    ]
    for _ in range(2):
        assert run.invoke(app, [*command, str(folder / "clean")]).exit_code == 0
    assert json.loads(output.read_text().splitlines()[0])["header"]["reference"] == str(
        folder / "clean"
    )
    assert len(output.read_text().splitlines()) == 3
    other = run.invoke(app, [*command, str(folder / "clean" / "a.jpg")])
    assert other.exit_code == 2
    assert "reference" in other.output


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ("-clean/more/b.png", [], "photos/b.png has no reference: put an image named b in"),
        ("+clean/b.png", [], "photos/b.png has several references"),
        ("-clean/a.jpg", ["--reference", "{folder}/clean/a.jpg"], "clean/a.jpg does not exist"),
        ("", ["--model", "niqe"], "niqe takes no reference"),
        ("", ["--prompt", "q-insight"], "q-insight has no form with a reference image"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(folder, change, arguments, said):
    if change.startswith("-"):
        (folder / change[1:]).unlink()
    elif change:
        picture(9).save(folder / change[1:])
    given = [text.format(folder=folder) for text in arguments]
    given = given if "--reference" in given else ["--reference", str(folder / "clean"), *given]
    result = run.invoke(app, ["score", str(folder / "photos"), *given])
    assert result.exit_code == 2
    flat = " ".join(result.output.split())
    assert said in flat or said.replace(" ", "") in flat.replace(" ", "")
    assert "Traceback" not in result.output


def test_evaluate_takes_the_column_of_the_manifest(folder):
    manifest = folder / "set.csv"
    found = []
    for lines in (
        ["a.png,1,clean/a.jpg", "b.png,2,clean/more/b.png"],
        ["a.png,1,clean/a.jpg", "b.png,2,"],
    ):
        manifest.write_text(
            "\n".join(["image,mos,reference", *(f"photos/{line}" for line in lines)]) + "\n"
        )
        kept = folder / f"kept{len(found)}.jsonl"
        command = [
            "evaluate",
            "--data",
            str(manifest),
            "--reference",
            "--mode",
            "expect",
            "-o",
            str(kept),
        ]
        found.append(run.invoke(app, command))
    rows = [json.loads(line) for line in (folder / "kept0.jsonl").read_text().splitlines()[1:]]
    ours = scores(folder / "photos", "--reference", folder / "clean")
    assert {Path(row["image"]).name: row["score"] for row in rows} == ours
    assert found[1].exit_code == 2
    assert "row 3, reference: is empty" in " ".join(found[1].output.split())
