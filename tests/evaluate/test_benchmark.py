"""Running a suite: what is scored, what is not scored again, and what is said where a method cannot be had."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from visualquality.cli.benchmark import benchmark
from visualquality.data.images import open_image
from visualquality.errors import UserError
from visualquality.evaluate.benchmark import Results, run
from visualquality.evaluate.suite import Method, read_suite
from visualquality.score import raters
from visualquality.score.journal import read_journal
from visualquality.score.rating import Rating
from visualquality.score.settings import ScoreSettings

CONSOLE = Console(quiet=True)


class Brightness:
    """A rater for tests: the mean of the pixels, with `rated` listing the files it was given."""

    def __init__(self, seed: int = 0, fails: Iterable[str] = (), stops_after: int | None = None):
        self.seed, self.fails, self.stops_after = seed, set(fails), stops_after
        self.rated: list[str] = []

    def settings(self) -> dict[str, Any]:
        return {"model": "tests/brightness", "seed": self.seed}

    def rate(self, images: Iterable[str]) -> Iterator[Rating]:
        by: dict[str, Any] = {"model": "brightness", "mode": "direct", "seed": self.seed}
        for image in images:
            if len(self.rated) == self.stops_after:
                raise KeyboardInterrupt
            self.rated.append(Path(image).name)
            if Path(image).name in self.fails:
                yield Rating.failed(image, "too dark to see", **by)
            else:
                yield Rating(
                    image,
                    float(np.mean(open_image(image))),
                    None,
                    (),
                    None,
                    None,
                    **by,
                    seconds=0.0,
                )


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("visualquality.evaluate.benchmark.RESAMPLES", 10)


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    """Two data sets of eight images, brighter is better but for a swap; b7.png has the pixels of a7.png."""
    rng = np.random.default_rng(0)
    for name in "ab":
        rows = ["image,mos"]
        for i in range(8):
            pixels = rng.integers(0, 40, (6, 5, 3), dtype=np.uint8) + np.uint8(20 * i)
            Image.fromarray(pixels).save(tmp_path / f"{name}{i}.png")
            rows.append(f"{name}{i}.png,{i + 1.5 * (i == 3)}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "b7.png").write_bytes((tmp_path / "a7.png").read_bytes())
    path = tmp_path / "suite.yaml"
    path.write_text(
        "title: T\nmethods:\n  - {name: Bright, model: bright}\n"
        "datasets:\n  - {name: A, manifest: a.csv, column: BID}\n  - {name: B, manifest: b.csv}\n"
    )
    return path


def go(suite_file: Path, make: Callable[[Method], Any]) -> Results:
    return run(read_suite(suite_file), make, cache=suite_file.with_name("cache"), console=CONSOLE)


def add(suite_file: Path, method: str) -> None:
    suite_file.write_text(
        suite_file.read_text(encoding="utf-8").replace("datasets:", f"  - {method}\ndatasets:"),
        encoding="utf-8",
    )


def test_a_second_run_scores_nothing_and_gives_the_same(suite_file):
    first, second = Brightness(), Brightness()
    before = go(suite_file, lambda _: first)
    assert len(first.rated) == 15  # b7 is a7
    assert "b7.png" not in first.rated
    assert go(suite_file, lambda _: second).to_dict() == before.to_dict()
    assert second.rated == []
    found = before.methods[0].measured
    assert {cell.agreement.n for cell in found.values()} == {8}
    assert 0.9 < found["A"].agreement.srcc.value < 1


def test_a_new_calibration_does_not_make_scores_again(suite_file):
    class Calibrated(Brightness):
        def settings(self) -> dict[str, Any]:
            return {**super().settings(), "calibration": "abc"}

        def rate(self, images: Iterable[str]) -> Iterator[Rating]:
            for rating in super().rate(images):
                yield replace(rating, low=2.0, high=4.0, coverage=0.9, expected_mos=3.0)

    first, second = Calibrated(), Brightness()
    before = go(suite_file, lambda _: first)
    assert go(suite_file, lambda _: second).to_dict() == before.to_dict()
    assert second.rated == []
    (journal,) = suite_file.with_name("cache").iterdir()
    assert {rating.low for rating in read_journal(journal)[1]} == {None}


def test_an_interrupted_run_goes_on(suite_file):
    stopped, after = Brightness(stops_after=11), Brightness()
    with pytest.raises(KeyboardInterrupt):
        go(suite_file, lambda _: stopped)
    (journal,) = suite_file.with_name("cache").iterdir()
    with journal.open("ab") as file:
        file.write(b'{"image": "torn')
    results = go(suite_file, lambda _: after)
    assert len(after.rated) == 4
    assert sorted(stopped.rated + after.rated) == sorted(set(stopped.rated + after.rated))
    whole = run(
        read_suite(suite_file),
        lambda _: Brightness(),
        cache=suite_file.with_name("other"),
        console=CONSOLE,
    )
    assert results.to_dict() == whole.to_dict()


def test_other_settings_and_other_pixels_are_scored_anew(suite_file):
    go(suite_file, lambda _: Brightness())
    other_seed, changed = Brightness(seed=1), Brightness()
    go(suite_file, lambda _: other_seed)
    assert len(other_seed.rated) == 15
    Image.new("RGB", (5, 6), (9, 9, 9)).save(suite_file.with_name("a2.png"))
    go(suite_file, lambda _: changed)
    assert changed.rated == ["a2.png"]
    assert len(list(suite_file.with_name("cache").iterdir())) == 2


def test_the_same_photo_under_other_names_is_not_scored_again(suite_file):
    go(suite_file, lambda _: Brightness())
    for i in range(8):
        suite_file.with_name(f"a{i}.png").rename(suite_file.with_name(f"renamed{i}.png"))
    manifest = suite_file.with_name("a.csv")
    manifest.write_text(manifest.read_text().replace("\na", "\nrenamed"))
    again = Brightness()
    go(suite_file, lambda _: again)
    assert again.rated == []


def test_an_image_without_a_score_is_left_out_named_and_tried_again(suite_file):
    broken = suite_file.with_name("b0.png")
    broken.write_bytes(broken.read_bytes()[:-30])
    first, second = Brightness(fails=["a1.png"]), Brightness()
    results = go(suite_file, lambda _: first)
    a, b = (results.methods[0].measured[name] for name in "AB")
    assert (a.agreement.n, a.agreement.n_unreadable, b.agreement.n) == (7, 1, 7)
    assert "a1.png: too dark to see" in a.problem
    assert "b0.png is truncated" in b.problem
    assert "b0.png" not in first.rated
    fixed = go(suite_file, lambda _: second).methods[0].measured["A"]
    assert second.rated == ["a1.png"]
    assert (fixed.agreement.n, fixed.problem) == (8, None)


def test_an_unavailable_method_says_so_and_the_others_go_on(suite_file):
    add(suite_file, "{name: Far, model: far, group: VLM-based}")

    def make(method):
        if method.model == "far":
            raise UserError("the weights of far cannot be fetched")
        return Brightness()

    results = go(suite_file, make)
    assert [result.problem for result in results.methods] == [
        None,
        "the weights of far cannot be fetched",
    ]
    assert results.missing() == ["Far: the weights of far cannot be fetched"]
    assert (
        json.loads(json.dumps(results.to_dict(), allow_nan=False))["methods"][1]["measured"] == {}
    )


def test_a_server_that_goes_away_costs_its_cells_alone(suite_file):
    class Away(Brightness):
        def rate(self, images):
            for index, rating in enumerate(super().rate(images)):
                if index == 2:
                    raise UserError("no server answers")
                yield rating

    add(suite_file, "{name: Far, model: far, group: VLM-based}")
    rater, back = Away(seed=1), Brightness(seed=1)
    results = go(suite_file, lambda method: rater if method.model == "far" else Brightness())
    near, far = results.methods
    assert near.measured["B"].agreement.n == 8
    assert [far.measured[name].problem for name in "AB"] == ["no server answers"] * 2
    go(suite_file, lambda method: back if method.model == "far" else Brightness())
    assert not set(back.rated) & {"a0.png", "a1.png"}  # what was scored is kept


def test_a_file_of_scores_is_a_method(suite_file):
    add(suite_file, "{name: Mine, scores: mine.csv}")
    lines = ["image,score", *(f"a{i}.png,{-i}" for i in range(8)), "b0.png,1"]
    suite_file.with_name("mine.csv").write_text("\n".join(lines) + "\n")
    results = go(suite_file, lambda _: Brightness())
    mine = results.methods[1].measured
    assert mine["A"].agreement.srcc.value == pytest.approx(
        -results.methods[0].measured["A"].agreement.srcc.value
    )
    assert mine["B"].agreement is None
    assert len(results.missing()) == 1
    assert "mine.csv has no row for" in results.missing()[0]


def test_scales_are_not_mixed(suite_file):
    manifest = suite_file.with_name("a.csv")
    lines = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([lines[0] + ",dataset", *(f"{x},{i % 2}" for i, x in enumerate(lines[1:]))])
        + "\n"
    )
    with pytest.raises(UserError, match=r"a\.csv holds 2 data sets"):
        go(suite_file, lambda _: Brightness())


@pytest.fixture
def command(monkeypatch) -> Callable[..., Any]:
    asked: list[dict[str, Any]] = []

    def make_rater(name: str, settings: ScoreSettings) -> Brightness:
        asked.append({"name": name, **settings.model_dump(exclude_unset=True)})
        if name == "far":
            raise UserError("far is not to be had")
        return Brightness(settings.seed)

    monkeypatch.setattr(raters, "make_rater", make_rater)
    app = typer.Typer()
    app.command()(benchmark)

    def call(*arguments: Any) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return SimpleNamespace(
            code=result.exit_code, out=result.stdout, err=result.stderr, asked=asked
        )

    return call


def test_the_command_writes_every_form(suite_file, tmp_path, command):
    add(
        suite_file,
        "{name: Reasons, model: nano, seed: 3, samples: 2, mode: direct, prompt: released}",
    )
    done = command(suite_file, "-o", tmp_path / "out", "--batch", 5)
    assert done.code == 0
    assert done.asked[1] == {
        "name": "nano",
        "mode": "direct",
        "samples": 2,
        "seed": 3,
        "prompt": "released",
        "batch": 5,
        "device": None,
    }
    names = {"table.md", "table.tex", "table.csv", "table.html", "results.json", "rerun.yaml"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert len(list((tmp_path / "out.cache").iterdir())) == 2
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    (row,) = [
        r for r in rows if (r["method"], r["dataset"], r["coefficient"]) == ("Bright", "A", "SRCC")
    ]
    value = results["methods"][0]["measured"]["A"]["agreement"]["srcc"]["value"]
    assert float(row["value"]) == pytest.approx(value, abs=1e-6)
    assert f"{value:.3f}" in done.out


@pytest.fixture
def finished(suite_file, tmp_path, command) -> Path:
    """The file from which a finished benchmark runs again; one of its methods is a file of scores."""
    mine = ["image,score", *(f"{name}{i}.png,{i}" for name in "ab" for i in range(8))]
    suite_file.with_name("mine.csv").write_text("\n".join(mine) + "\n")
    add(suite_file, "{name: Mine, scores: mine.csv}")
    add(suite_file, "{name: Reasons, model: nano, seed: 3, samples: 2}")
    assert command(suite_file, "-o", tmp_path / "out", "--batch", 5).code == 0
    return tmp_path / "out" / "rerun.yaml"


def test_a_benchmark_runs_again_from_its_record(finished, tmp_path, command, monkeypatch):
    # The whole folder moves, as to another machine.
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    monkeypatch.chdir(moved)
    before = len(command().asked)
    done = command(moved / "out" / "rerun.yaml")
    assert done.code == 0, done.err
    assert "not as recorded" not in done.err
    # Beside the first run, and with its options.
    again = moved / "runs" / "out-again"
    assert done.asked[before + 1]["batch"] == 5
    assert done.asked[before + 1]["seed"] == 3
    for file in ("results.json", "table.csv", "rerun.yaml"):
        assert (again / file).read_text().replace("../../", "../") == (
            moved / "out" / file
        ).read_text()


def test_a_record_is_not_measured_on_other_data(finished, tmp_path, command):
    manifest = tmp_path / "a.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace("a0.png,0.0", "a0.png,0.5"))
    done = command(finished)
    assert done.code == 2
    assert "A: the images or the MOS are not those" in " ".join(done.err.split())
    manifest.write_text(text)
    (tmp_path / "b1.png").write_bytes((tmp_path / "b2.png").read_bytes())
    assert "error: B: the images" in " ".join(command(finished).err.split())


def test_a_record_says_which_method_and_which_version_is_another(finished, tmp_path, command):
    record = finished.read_text()
    assert "model: tests/brightness" in record
    finished.write_text(
        record.replace("model: tests/brightness", "model: tests/darkness", 1).replace(
            f"numpy: {np.__version__}", "numpy: 1.0.0"
        )
    )
    (tmp_path / "mine.csv").write_text((tmp_path / "mine.csv").read_text().replace(",7", ",8"))
    done = command(finished, "-o", tmp_path / "again")
    said = " ".join(done.err.split())
    assert done.code == 1
    assert f"not as recorded: numpy was 1.0.0 and is {np.__version__}" in said
    assert (
        "not measured: Bright: it is not what was measured: "
        "model was tests/darkness and is tests/brightness" in said
    )
    assert "not measured: Mine: it is not what was measured: digest was" in said
    assert "not measured: Reasons" not in said


def test_the_command_ends_with_1_and_names_what_is_missing(suite_file, tmp_path, command):
    add(suite_file, "{name: Far, model: far}")
    done = command(suite_file, "-o", tmp_path / "out")
    assert done.code == 1
    assert "not measured: Far: far is not to be had" in " ".join(done.err.split())
    assert "Bright" in done.out
    assert (tmp_path / "out" / "table.html").is_file()


def test_the_command_refuses_a_wrong_suite(tmp_path, command):
    assert command(tmp_path / "none.yaml").code == 2


def test_the_batch_of_the_command_is_not_that_of_an_engine(suite_file, tmp_path, command):
    add(suite_file, "{name: Fast, model: some/model, engine: vllm}")
    done = command(suite_file, "-o", tmp_path / "out", "--batch", 5)
    assert [(asked["name"], asked.get("batch")) for asked in done.asked] == [
        ("bright", 5),
        ("some/model", None),
    ]
