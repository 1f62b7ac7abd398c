"""report: a run or results, told by what they are; one clear sentence for what is neither."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli.report import report
from visualquality.score.journal import Journal
from visualquality.score.rating import Rating

app = typer.Typer()
app.command()(report)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of six images, results of five of them and of one other, and a run that came by three of them."""
    lines = ["image,mos,split"]
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / name)
        lines.append(f"{name},{i},{'test' if i < 3 else 'train'}")
    (tmp_path / "set.csv").write_text("\n".join(lines) + "\n")
    with Journal(tmp_path / "results.csv.jsonl", {"model": "nano", "seed": 0}) as store:
        for i, name in enumerate([*names[:5], "other.png"]):
            image = str(tmp_path / name)
            store.append(
                Rating(image, 1.0 + i / 2, 0.1, (), "Words.", None, "nano", "reason", 0, 0.1)
            )
    (tmp_path / "results.csv").write_text("image,score\n")
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    recipe = {
        "data": [{"manifest": str(tmp_path / "set.csv")}],
        "optimizer": {"steps": 2},
        "model": "nano-base",
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.75}\n')
    step = {"dataset": "set", "images": names[:3], "mos": [0, 1, 2], "scores": [[2.0, 2.5]] * 3}
    texts = [f"<think>Soft.</think><answer>{s}</answer>" for s in (2.0, 2.5)]
    samples = [json.dumps({"step": s, **step, "texts": texts}) + "\n" for s in (1, 2)]
    (run / "samples.jsonl").write_text("".join(samples))
    return tmp_path


def run_report(folder: Path, *arguments: str) -> tuple[int, str, str]:
    page = folder / "page.html"
    page.unlink(missing_ok=True)
    given = [str(folder / a) if (folder / a).exists() else a for a in arguments]
    result = CliRunner().invoke(app, [*given, "-o", str(page)])
    text = " ".join(page.read_text().split()) if page.exists() else ""
    return result.exit_code, " ".join(result.output.split()), text


def test_results_beside_ratings(folder: Path) -> None:
    code, output, page = run_report(folder, "results.csv.jsonl", "--data", "set.csv")
    assert (code, "page.html" in output.replace(" ", "")) == (0, True)
    assert "Agreement of nano with human ratings" in page
    assert "1 of the 6 images of the manifests are not in the results." in page
    assert "1 of the 6 images of the results are not in the manifests." in page
    assert "1.000" in page
    code, _, page = run_report(folder, "results.csv", "--data", "set.csv", "--split", "test")
    assert code == 0
    assert "3 of 3 images have a score." in page


def test_results_alone(folder: Path) -> None:
    code, _, page = run_report(folder, "results.csv")
    assert code == 0
    assert "Scores of nano" in page
    assert "6 of 6" in page
    assert page.count("<img") == 5
    assert "No picture: other.png" in page


def test_a_run_with_and_without_its_images(folder: Path) -> None:
    code, output, page = run_report(folder, "runs/mine")
    assert code == 0, output
    assert "Training run runs/mine" in page
    assert "Trained from nano-base for 2 steps" in page
    assert "total 0.5 at first, 0.75 at last" in page
    assert page.count("<article") == page.count("<img") == 3
    (folder / "set.csv").unlink()
    code, output, page = run_report(folder, "runs/mine")
    assert code == 0
    assert "no pictures: " in output
    assert "Images have no pictures here" in page
    assert (page.count("<article"), page.count("<img")) == (3, 0)


def test_a_run_names_its_images_by_path(folder: Path) -> None:
    """Two images of one name and MOS both have their picture; older files do not tell them apart."""
    run = folder / "runs" / "mine"
    (folder / "copy").mkdir()
    picture(9).save(folder / "copy" / "0.png")
    step = {"dataset": "set", "images": ["0.png", "0.png"], "mos": [0, 0], "scores": [[2.0]] * 2}
    named = {
        "keys": ["set/0/0.png", "set/6/0.png"],
        "paths": [f"{folder}/0.png", f"{folder}/copy/0.png"],
    }
    texts = ["<think>Soft.</think><answer>2.0</answer>"]
    for record, images in ((step | named, 2), (step, 0)):
        lines = [json.dumps({"step": s, **record, "texts": texts}) + "\n" for s in (1, 2)]
        if images:
            # Each step has words about its first image.
            swapped = {key: value[::-1] for key, value in named.items()}
            lines.append(json.dumps({"step": 3, **record, **swapped, "texts": texts}) + "\n")
        (run / "samples.jsonl").write_text("".join(lines))
        code, output, page = run_report(folder, "runs/mine")
        assert code == 0, output
        followed = page.split("The same image at several steps")[1].split("Words during")[0]
        pictures = set(re.findall(r'src="([^"]*)"', followed))
        assert (followed.count("<article"), len(pictures)) == (images, images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.jsonl"], "absent.jsonl is not a file"),
        (["set.csv"], "not a file: give the .jsonl"),
        (["0.png"], "does not begin with a header"),
        (["runs"], "is no training run, since it has no metrics.jsonl"),
        (["runs/mine", "--data", "set.csv"], "leave --data out"),
        (["results.csv", "--split", "test"], "give --data as well"),
        (["results.csv", "--data", "set.csv", "--split", "val"], "no row of split 'val'"),
        (["results.csv", "--data", "absent.csv"], "absent.csv: cannot be read"),
        (["results.csv", "-o", "page.txt"], "must end in .html"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, arguments: list[str], words: str) -> None:
    if "-o" in arguments:
        result = CliRunner().invoke(app, [str(folder / "results.csv"), *arguments[1:]])
        code, output, page = result.exit_code, " ".join(result.output.split()), ""
    else:
        code, output, page = run_report(folder, *arguments)
    assert (code, page) == (2, "")
    assert words in output


def test_a_supervised_run_and_a_run_without_samples_are_refused(folder: Path) -> None:
    run = folder / "runs" / "mine"
    (run / "samples.jsonl").unlink()
    code, output, _ = run_report(folder, "runs/mine")
    assert (code, "has no samples.jsonl" in output) == (2, True)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"method": "sft"}))
    code, output, _ = run_report(folder, "runs/mine")
    assert (code, "is a run of method sft" in output) == (2, True)
