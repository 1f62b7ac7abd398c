"""calibrate, and what score, compare, rank and report show of its intervals."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFilter
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.score.calibration import read_calibrations
from visualquality.score.raters import make_rater
from visualquality.score.settings import score_settings

run = CliRunner()


@pytest.fixture(scope="module")
def rated(tmp_path_factory) -> Path:
    """64 images with MOS from 0 to 100 that NIQE agrees with, but for errors; the manifest's path.

    NIQE finds 0.png best and 63.png worst.
    """
    folder = tmp_path_factory.mktemp("rated")
    images = [picture(i, (100, 100)).filter(ImageFilter.GaussianBlur(i / 16)) for i in range(64)]
    ratings = make_rater("niqe", score_settings()).rate(images)
    scores = [rating.score for rating in ratings]
    lines, rng = ["image,mos"], np.random.default_rng(0)
    for place, i in enumerate(np.argsort(scores)[::-1]):
        images[i].save(folder / f"{place}.png")
        lines.append(f"{place}.png,{np.clip(95 - 1.4 * place + rng.normal(0, 8), 0, 100):.2f}")
    (folder / "lab.csv").write_text("\n".join(lines) + "\n")
    return folder / "lab.csv"


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share"


def ok(*arguments: object) -> str:
    result = run.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: object) -> str:
    result = run.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_a_calibrated_model_has_intervals_everywhere(rated, tmp_path, data_home):
    a, b = rated.with_name("0.png"), rated.with_name("63.png")
    before = ok("compare", a, b, "-m", "niqe")
    assert f"{a} looks better than {b} to niqe" in before
    assert "P(" not in before
    said = ok("calibrate", "niqe", "--data", rated, "--range", "0", "100")
    assert "images of lab" in said
    assert "64" in said
    assert "mean width" in said
    (place,) = (data_home / "visualquality" / "calibrations").iterdir()
    (made,) = read_calibrations(place)
    assert (made.dataset, made.mos_range, made.n, made.coverage) == ("lab", (0, 100), 64, 0.9)

    output = tmp_path / "out.csv"
    ok("score", rated.parent, "-m", "niqe", "-o", output)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["coverage"] for row in rows} == {"0.9"}
    assert all(
        1 <= float(r["low"]) <= float(r["expected_mos"]) <= float(r["high"]) <= 5 for r in rows
    )
    # The intervals are on the scale of the ratings, taken to 1 to 5.
    mos = {
        f"{i}.png": float(line.split(",")[1])
        for i, line in enumerate(rated.read_text().split()[1:])
    }
    held = [
        float(r["low"]) <= 1 + mos[Path(r["image"]).name] / 25 <= float(r["high"]) for r in rows
    ]
    assert np.mean(held) > 0.75
    shown = ok("score", a, "-m", "niqe")
    low, high = (
        float(next(r for r in rows if r["image"] == str(a))[name]) for name in ("low", "high")
    )
    assert f"{low:.1f}–{high:.1f}" in shown
    assert "90 %" in shown
    compared = ok("compare", a, b, "-m", "niqe")
    assert 0.5 < float(compared.split(" = ")[1].split()[0]) < 1
    assert "No calibration" not in compared
    assert "90 %" in ok("rank", a, b, "-m", "niqe")
    page = tmp_path / "page.html"
    ok("report", f"{output}.jsonl", "-o", page)
    assert "MOS, 90 %" in page.read_text(encoding="utf-8")
    # Another model has none.
    assert "90 %" not in ok("score", a, "-m", "brisque")


def test_a_file_of_ones_own_and_scores_that_are_kept(rated, tmp_path, data_home):
    journal, output = tmp_path / "kept.jsonl", tmp_path / "mine.json"
    command = ["calibrate", "nano", "--mode", "expect", "--data", rated, "--range", 0, 100]
    command += ["--journal", journal, "-o", output]
    ok(*command)
    assert not data_home.exists()
    header, *rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(rows) == 64
    assert "calibration" not in header["header"]
    assert "64 of 64 images are in" in ok(*command, "--coverage", 0.8)
    # The scores are the same ones also where a calibration is found for them.
    for _ in range(2):
        assert "64 of 64 images are in" in ok(*command[:-2])
    (made,) = read_calibrations(output)
    assert made.coverage == 0.8
    image = rated.with_name("0.png")
    scored = ["score", image, "--calibration", output, "--json", "--mode"]
    result = run.invoke(app, [*map(str, scored), "expect"])
    assert json.loads(result.stdout)["coverage"] == 0.8
    assert result.stderr == ""
    # It does not fit: no interval, and one sentence on standard error says why.
    result = run.invoke(app, [*map(str, scored), "direct"])
    assert result.exit_code == 0
    row = json.loads(result.stdout)
    assert [row[name] for name in ("low", "high", "coverage", "expected_mos")] == [None] * 4
    assert "mode expect and not direct" in " ".join(result.stderr.split())
    said = ok("compare", image, rated.with_name("63.png"), "--mode", "direct", "-k", 2)
    assert "No calibration is known" in said


def test_known_data_sets_need_no_range(rated, tmp_path):
    known = rated.with_name("known.csv")
    rows = [f"{line},spaq" for line in rated.read_text().split()[1:]]
    known.write_text("\n".join(["image,mos,dataset", *rows]) + "\n")
    output = tmp_path / "c.json"
    ok("calibrate", "niqe", "--data", known, "-o", output)
    assert read_calibrations(output)[0].mos_range == (0, 100)


def test_what_cannot_be_calibrated_is_one_sentence_and_nothing_is_scored(
    rated, tmp_path, ranking_set
):
    journal = tmp_path / "kept.jsonl"
    base = ("calibrate", "niqe", "--journal", journal, "--data")
    assert "--range 0 100" in refused(*base, rated)
    assert "outside 0 to 50" in refused(*base, rated, "--range", 0, 50)
    assert "lower end first" in refused(*base, rated, "--range", 100, 0)
    assert "2 data sets (lab, wild)" in refused(*base, ranking_set, "--range", 0, 100)
    assert "no row of split 'val'" in refused(*base, rated, "--split", "val")
    assert "coverage is 90" in refused(*base, rated, "--range", 0, 100, "--coverage", 90)
    small = rated.with_name("small.csv")
    small.write_text("\n".join(rated.read_text().split()[:31]) + "\n")
    assert "30 images of small" in refused(*base, small, "--range", 0, 100)
    assert "leave --calibration out" in refused(*base, rated, "--calibration", "c.json")
    assert not journal.exists()
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json is not a file of cal" in refused(*base, rated, "-o", tmp_path / "bad.json")
    assert "must end in .jsonl" in refused(
        "calibrate", "niqe", "--data", rated, "--journal", "a.csv"
    )
    server = ("calibrate", "m", "--data", rated, "--range", 0, 100, "--engine", "openai")
    assert "--engine here" in refused(*server, "--url", "http://localhost:1/v1")
