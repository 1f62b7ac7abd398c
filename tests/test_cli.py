import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app

run = CliRunner()


@pytest.fixture
def folder(tmp_path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        save_old(i, photos / f"{i}.png")
    return photos


def save_old(seed: int, path: Path) -> None:
    """A picture that is an hour old: of one that has just changed, a journal looks again and adds a line."""
    picture(seed, (96, 64)).save(path)
    then = time.time() - 3600
    os.utime(path, (then, then))


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_score_prints_one_json_object_a_line(folder):
    result = run.invoke(app, ["score", str(folder), "--json", "-k", "2"])
    assert result.exit_code == 0, result.output
    rows = objects(result.stdout)
    assert [Path(r["image"]).name for r in rows] == ["0.png", "1.png", "2.png", "3.png"]
    for row in rows:
        assert {"image", "score", "std", "samples", "reasoning", "problem"} <= row.keys()
        assert 1 <= row["score"] <= 5
        assert len(row["samples"]) == 2


def test_reading_chooses_drawn_or_expected_numbers(folder, tmp_path):
    output = tmp_path / "scores.jsonl"
    command = ["score", str(folder / "0.png"), "-k", "2"]
    drawn, expected, default = (
        objects(run.invoke(app, [*command, "--json", *option]).stdout)[0]["samples"]
        for option in (["--reading", "strict"], ["--reading", "expected"], [])
    )
    assert drawn == [round(sample, 2) for sample in drawn] != expected
    assert default == expected
    assert run.invoke(app, [*command, "-o", str(output)]).exit_code == 0
    for option, said in (("strict", "was written with reading 'expected'"), ("both", "reading is")):
        refused = run.invoke(app, [*command, "-o", str(output), "--reading", option])
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split())


def test_an_unreadable_image_is_a_row_and_status_1(folder):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    result = run.invoke(app, ["score", str(folder), "--json", "-k", "1"])
    assert result.exit_code == 1
    rows = {Path(r["image"]).name: r for r in objects(result.stdout)}
    assert len(rows) == 5
    assert rows["broken.jpg"]["score"] is None
    assert "broken.jpg" in rows["broken.jpg"]["problem"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_results_are_kept_and_not_made_again(folder, tmp_path, suffix):
    output = tmp_path / f"scores.{suffix}"
    command = ["score", str(folder), "-o", str(output), "-k", "1"]
    assert run.invoke(app, command).exit_code == 0
    journal = output if suffix == "jsonl" else Path(f"{output}.jsonl")
    before = journal.read_bytes()
    save_old(9, folder / "9.png")
    again = run.invoke(app, command)
    assert again.exit_code == 0
    assert "4 of 5 images are in" in again.output
    assert journal.read_bytes().startswith(before)
    assert len(journal.read_text().splitlines()) == 6  # header and five images
    other = run.invoke(app, [*command, "--seed", "3"])
    assert other.exit_code == 2
    assert "seed" in other.output


def test_a_run_that_goes_on_reads_its_journal_once(folder, tmp_path, monkeypatch):
    output = tmp_path / "scores.csv"
    command = ["score", str(folder), "-o", str(output), "--mode", "expect"]
    assert run.invoke(app, command).exit_code == 0
    lines = Path(f"{output}.jsonl").read_bytes().splitlines(keepends=True)
    before = output.read_bytes()
    output.unlink()
    parsed = Counter()
    loads = json.loads

    def counting(text, **options):
        parsed[text] += 1
        return loads(text, **options)

    monkeypatch.setattr(json, "loads", counting)
    assert run.invoke(app, command).exit_code == 0
    assert [parsed[line] for line in lines[1:]] == [1] * 4
    assert output.read_bytes() == before


def test_killed_and_run_again_gives_each_image_once(folder, tmp_path):
    for i in range(4, 40):
        picture(i, (96, 64)).save(folder / f"{i}.png")
    output = tmp_path / "scores.jsonl"
    command = [
        sys.executable,
        "-m",
        "visualquality",
        "score",
        str(folder),
        "-o",
        str(output),
        "-k",
        "1",
        "--batch",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not output.exists() or output.read_bytes().count(b"\n") < 5:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    part = output.read_bytes().count(b"\n") - 1
    assert 4 <= part < 40
    # One sample an image: some may be unreadable, which is status 1.
    assert subprocess.run(command, capture_output=True, check=False).returncode in (0, 1)
    images = [row["image"] for row in objects(output.read_text()) if "image" in row]
    assert len(images) == len(set(images)) == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "/no/such/place"], "/no/such/place"),
        (["score", ".", "--model", "nothing"], "nothing"),
        (["evaluate", "--data", "none.csv"], "none.csv"),
        (["train", "none.yaml"], "none.yaml"),
        (["score", "{folder}", "-o", "scores.txt"], ".jsonl, .csv or .parquet"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(folder, arguments, said):
    result = run.invoke(app, [a.format(folder=folder) for a in arguments])
    assert result.exit_code == 2
    flat = " ".join(result.output.split())
    assert said in flat.replace(" ", "") or said in flat
    assert "Traceback" not in result.output


def test_compare_and_rank(folder):
    result = run.invoke(app, ["compare", str(folder / "0.png"), str(folder / "1.png"), "-k", "2"])
    assert result.exit_code == 0, result.output
    assert "P(0.png better than 1.png) = " in result.output
    ranked = run.invoke(app, ["rank", str(folder), "-k", "2"])
    assert ranked.exit_code == 0
    shown = [line.split("│")[3].strip() for line in ranked.output.splitlines() if ".png" in line]
    assert shown == sorted(shown, reverse=True)


def test_evaluate_a_model_and_a_file_of_scores(ranking_set, tmp_path):
    kept, report = tmp_path / "kept.jsonl", tmp_path / "report.json"
    result = run.invoke(
        app,
        [
            "evaluate",
            "--data",
            str(ranking_set),
            "--mode",
            "expect",
            "-o",
            str(kept),
            "--json",
            str(report),
        ],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(report.read_text())
    assert set(found["datasets"]) == {"lab", "wild"}
    assert found["datasets"]["lab"]["n"] + found["datasets"]["lab"]["n_unreadable"] == 8
    same = tmp_path / "same.json"
    again = run.invoke(
        app, ["evaluate", "--data", str(ranking_set), "--scores", str(kept), "--json", str(same)]
    )
    assert again.exit_code == 0, again.output
    assert json.loads(same.read_text())["datasets"] == found["datasets"]
    # A model beside scores would be left out without a word.
    both = ["evaluate", "--data", str(ranking_set), "--scores", str(kept), "--model", "niqe"]
    refused = run.invoke(app, both)
    assert refused.exit_code == 2
    assert "leave --model out" in refused.output


def test_two_manifests_after_one_option(ranking_set, tmp_path):
    """--data a.csv b.csv, as people write it."""
    text = ranking_set.read_text().splitlines()
    one, two = ranking_set.with_name("one.csv"), ranking_set.with_name("two.csv")
    one.write_text("\n".join([text[0], *text[1:9]]) + "\n")
    two.write_text("\n".join([text[0], *text[9:]]) + "\n")
    scores = tmp_path / "scores.csv"
    names = [line.split(",")[0] for line in text[1:]]
    scores.write_text(
        "image,score\n" + "".join(f"{name},{5 - i % 8}\n" for i, name in enumerate(names))
    )
    result = run.invoke(app, ["evaluate", "--scores", str(scores), "--data", str(one), str(two)])
    assert result.exit_code == 0, result.output
    assert "lab" in result.output
    assert "wild" in result.output
    assert "average" in result.output


def test_dry_run_plans_and_writes_nothing(ranking_set, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"model": "nano", "data": [{"manifest": str(ranking_set)}], "optimizer": {"epochs": 3}}
        )
    )
    result = run.invoke(app, ["train", str(recipe), "--dry-run", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for line in ("lab 8, wild 8", "steps", "6", "336", "GiB"):
        assert line in result.output
    assert not (tmp_path / "out").exists()


def test_scores_are_matched_by_name_only_where_that_is_sure(tmp_path):
    def manifest(folder: str, names: str) -> Path:
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            picture(i, (40, 40)).save(tmp_path / folder / f"{name}.png")
        path = tmp_path / f"{folder}.csv"
        path.write_text(
            "image,mos\n" + "".join(f"{folder}/{name}.png,{i}\n" for i, name in enumerate(names))
        )
        return path

    b, c = manifest("B", "123"), manifest("C", "156")
    scores = tmp_path / "scores.csv"

    def refused(*data: Path) -> bool:
        given = [part for path in data for part in ("--data", str(path))]
        result = run.invoke(app, ["evaluate", "--scores", str(scores), *given])
        assert result.exit_code in (0, 2)
        return result.exit_code == 2

    scores.write_text("image,score\n" + "".join(f"A/{n}.png,{n}\n" for n in "123"))
    assert refused(b)  # another folder's
    scores.write_text("image,score\n" + "".join(f"{n}.png,{n}\n" for n in "12356"))
    assert not refused(b)
    assert refused(b, c)  # two images are called 1.png
    scores.write_text("image,score\n" + "".join(f"moved/B/{n}.png,{n}\n" for n in "123"))
    assert not refused(b)
