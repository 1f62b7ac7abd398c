"""Which score belongs to which image: one rule for `evaluate --scores` and for `report --data`."""

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.data.manifest import Manifest, Row
from visualquality.errors import UserError
from visualquality.evaluate.agreement import agreement, answers_line
from visualquality.evaluate.matching import answers_read, evaluate_model, match, read_results
from visualquality.response import read
from visualquality.score.journal import Journal
from visualquality.score.rating import Rating

ROWS = [Row(Path(f"/images/{i:03}.png"), float(i), "lab") for i in range(3)]


def matched(*images: str, rows: list[Row] = ROWS, complete: bool = False) -> list[tuple[str, str]]:
    """(file name of the row, image of the results), for each row that has a match."""
    found = match(rows, {image: image for image in images}, source="r.csv", complete=complete)
    return [(row.image.name, image) for row, image in found]


def test_images_are_matched_by_path_and_else_by_a_unique_name() -> None:
    paths = [str(row.image) for row in ROWS]
    assert [image for _, image in matched(*paths[::-1])] == paths
    assert matched(paths[0], "001.png") == [("000.png", paths[0]), ("001.png", "001.png")]
    assert matched("moved/images/002.png", complete=False) == [("002.png", "moved/images/002.png")]
    # The path decides, whatever else has the name.
    assert matched(paths[1], "other/001.png") == [("001.png", paths[1])]


def test_images_of_a_file_from_windows_are_matched_too() -> None:
    for image in ("images\\001.png", "C:\\Users\\ann\\images\\001.png", "\\images\\001.png"):
        assert matched(image) == [("001.png", image)]
    with pytest.raises(UserError, match=r"no image of the manifests"):
        matched("C:\\elsewhere\\001.png")


def test_another_folder_is_another_image() -> None:
    paths = [str(row.image) for row in ROWS]
    assert matched(paths[0], "elsewhere/001.png") == [("000.png", paths[0])]
    with pytest.raises(UserError, match=r"elsewhere/001\.png, which may not be /images/001\.png"):
        matched(paths[0], "elsewhere/001.png", paths[2], complete=True)
    with pytest.raises(UserError, match=r"no image of the manifests is in r\.csv"):
        matched("elsewhere/001.png", "x.png")
    with pytest.raises(UserError, match=r"r\.csv has no row for /images/001\.png"):
        matched(paths[0], paths[2], complete=True)


@pytest.mark.parametrize("complete", [False, True])
def test_what_is_ambiguous_is_an_error_that_names_the_images(complete: bool) -> None:
    others = [*ROWS, Row(Path("/b/001.png"), 1.0, "b")]
    paths = [str(row.image) for row in ROWS]
    with pytest.raises(UserError, match=r"001\.png.*/images/001\.png or /b/001\.png"):
        matched(paths[0], "001.png", paths[2], rows=others, complete=complete)
    with pytest.raises(UserError, match=r"001\.png and x/images/001\.png"):
        matched(paths[0], "001.png", "x/images/001.png", paths[2], complete=complete)
    with pytest.raises(UserError, match="the same file"):
        matched(*paths, "/images/../images/001.png", complete=complete)


def test_a_relative_path_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [Row(Path(tmp_path.resolve(), "a.png"), 1.0, "x"), Row(Path("/b/a.png"), 2.0, "x")]
    assert match(rows, {"a.png": 3.0}, source="s", complete=False) == [(rows[0], 3.0)]


def manifest(folder: Path, names: str) -> Path:
    folder.mkdir()
    lines = ["image,mos"]
    for i, name in enumerate(names):
        picture(i, (40, 40)).save(folder / f"{name}.png")
        lines.append(f"{folder.name}/{name}.png,{i + 1.5 * (i == 1)}")
    path = folder.with_suffix(".csv")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("image", "sets", "accepted"),
    [
        (lambda row: str(row), "B", True),
        (lambda row: row.name, "B", True),
        (lambda row: f"moved/{row.parent.name}/{row.name}", "B", True),
        (lambda row: f"A/{row.name}", "B", False),  # of another folder
        (lambda row: row.name, "BC", False),  # two images of each name
        (lambda row: str(row), "BC", True),
    ],
)
def test_evaluate_and_report_agree(
    tmp_path: Path, image: Callable[[Path], str], sets: str, accepted: bool
) -> None:
    """The two commands once had rules of their own, and `report` took scores of images in other folders."""
    data, images = [], []
    for name in sets:
        data.append(str(manifest(tmp_path / name, "1234")))
        images += [image(tmp_path.resolve() / name / f"{n}.png") for n in "1234"]
    scores = tmp_path / "scores.jsonl"
    with Journal(scores, {"model": "m"}) as store:
        for i, each in enumerate(dict.fromkeys(images)):
            fields = {"model": "m", "mode": "reason", "seed": 0, "seconds": 0.1}
            store.append(Rating(each, 1.0 + i % 4, None, (), None, None, **fields))  # type: ignore[arg-type]
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    evaluate = ["evaluate", "--scores", str(scores), "--data", *data, "--json", str(numbers)]
    report = ["report", str(scores), "--data", data[0], *data[1:], "-o", str(page)]
    outcomes = [CliRunner().invoke(app, command) for command in (evaluate, report)]
    assert [each.exit_code for each in outcomes] == [0 if accepted else 2] * 2, outcomes
    if accepted:
        text = re.sub(r"<[^>]*>|\s+", " ", page.read_text())
        for name, found in json.loads(numbers.read_text())["datasets"].items():
            srcc = found["srcc"]
            assert re.search(rf"{name} +{found['n']} +{srcc['value']:.3f} ", text)
            assert f"[{srcc['low']:.3f}, {srcc['high']:.3f}]" in text


def rating(image: str, score: float) -> Rating:
    return Rating(image, score, None, (), "Words.", None, "m", "reason", 0, 0.0)


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(UserError, match="not a file"):
        read_results(path)
    for text in ("", "image,score\n", '{"image": "a.png"}\n'):
        path.write_text(text)
        with pytest.raises(UserError, match="header of results"):
            read_results(path)
    path.unlink()
    with Journal(path, {"model": "m"}) as store:
        pass
    with pytest.raises(UserError, match="no results yet"):
        read_results(path)
    with Journal(path, {"model": "m"}) as store:
        store.append(rating("a.png", 2.5))
    header, ratings = read_results(path)
    assert (header, [r.score for r in ratings]) == ({"model": "m"}, [2.5])


def test_evaluation_tells_how_many_answers_each_reading_reads(ranking_set, monkeypatch):
    manifest = Manifest.read(ranking_set)
    by = {"model": "m", "mode": "reason", "seed": 0, "seconds": 0.0, "prompt": "paper"}

    class Answering:
        def settings(self):
            return {"model": "m"}

        def rate(self, images):
            """Of each image one answer in its form; of those of the set wild one more that the authors alone read."""
            for place, image in enumerate(images):
                texts = [f"<answer>{1 + place / 8}</answer>"]
                if "wild" in Path(image).name:
                    texts.append("<answer>Rating: 3</answer>")
                yield Rating.from_samples(image, [read(text) for text in texts], **by)

    found = evaluate_model(Answering(), manifest, console=Console(file=StringIO()))
    assert found["lab"].answers == {"drawn": 8, "strict": 8, "authors": 8}
    assert found["wild"].answers == {"drawn": 16, "strict": 8, "authors": 16}
    assert found["wild"].to_dict()["answers"]["authors"] == 16
    line = "wild: of 16 answers the reading strict reads 8 and the reading authors 16"
    assert answers_line("wild", found["wild"]) == line
    monkeypatch.setattr("visualquality.cli.shared.make_rater", lambda **options: Answering())
    shown = CliRunner().invoke(app, ["evaluate", "--data", str(ranking_set)])
    assert line in shown.output


def test_answers_of_which_nothing_is_known_are_not_counted():
    by = {"mode": "reason", "seed": 0, "seconds": 0.0}
    older = Rating("a", 3.0, None, (3.0, None), None, None, "m", **by, prompt="paper")
    classic = Rating("b", 3.0, None, (3.0,), None, None, "niqe", **by)
    expected = Rating("c", 3.0, 0.1, (), None, None, "m", **by, prompt="paper")
    assert answers_read([older]) is answers_read([classic, expected]) is None
    assert "answers" not in agreement([1, 2, 3, 4], [1, 2, 3, 4]).to_dict()
