"""Before the first step all images are checked: all faults are named at once, or left out and said so."""

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from small_runs import assert_same_weights, lines, reward_on_a_letter, small_recipe
from visualquality.cli import app
from visualquality.data import usable
from visualquality.errors import UserError
from visualquality.evaluate.run_page import read_metrics, report_run
from visualquality.models.limits import size_refusal
from visualquality.train.faults import LISTED, read_left_out, usable_examples
from visualquality.train.run import train

QUIET = Console(quiet=True)
FAULTY = ("wide.png", "cut.jpg", "text.png")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path, ranking_set) -> Path:
    """A copy of the ranking set with three faulty images between the sound ones: rows 3, 6 and 9."""
    target = tmp_path / "images"
    shutil.copytree(ranking_set.parent, target)
    Image.new("RGB", (1005, 5)).save(target / "wide.png")
    Image.open(target / "lab0.png").save(target / "cut.jpg", quality=95)
    (target / "cut.jpg").write_bytes((target / "cut.jpg").read_bytes()[:-900])
    (target / "text.png").write_text("no image")
    rows = (target / "ranking.csv").read_text().splitlines()
    for at, name in zip((2, 5, 8), FAULTY, strict=True):
        rows.insert(at, f"{name},3,lab,none")
    (target / "bad.csv").write_text("\n".join(rows) + "\n")
    return target


@pytest.fixture
def recipe(tmp_path, model_folder, folder, monkeypatch):
    reward_on_a_letter(monkeypatch)

    def make(name: str = "run", family: str = "qwen2_5_vl", manifest: str = "bad.csv", **changes):
        data = [{"manifest": str(folder / manifest), "mos_range": [0, 100]}]
        changes = {"method": "sft", "data": data, **changes}
        return small_recipe(tmp_path, model_folder(family), folder, name, **changes)

    return make


def checked(recipe, **options):
    refusal = size_refusal(recipe.model, recipe.max_pixels)
    return usable_examples(recipe, refusal, console=options.pop("console", QUIET), **options)


def test_all_faulty_images_are_named_with_manifest_and_row(recipe, folder):
    with pytest.raises(UserError) as caught:
        train(recipe())
    summary, *faults = str(caught.value).splitlines()
    assert "3 of 19 images cannot be trained on" in summary
    assert "skip_bad: true" in summary
    assert len(faults) == 3
    for fault, row, name in zip(faults, (3, 6, 9), FAULTY, strict=True):
        assert fault.strip().startswith(f"{folder / 'bad.csv'}: row {row}, {folder / name}")
    assert "1005 × 5" in faults[0]
    assert "truncated or damaged" in faults[1]


def test_nano_takes_the_wide_one(recipe):
    with pytest.raises(UserError, match=r"^2 of 19 images"):
        checked(recipe(family="nano"))


def test_a_second_start_decodes_nothing(recipe, monkeypatch):
    chosen = recipe(manifest="ranking.csv")
    assert len(checked(chosen).examples) == 16
    monkeypatch.setattr(usable, "open_image", None)
    assert len(checked(chosen).examples) == 16


def test_references_and_probes_are_checked_too(recipe, folder):
    (folder / "own.csv").write_text(
        "image,mos,reference\nlab0.png,3,lab1.png\nlab2.png,4,cut.jpg\nlab3.png,5,lab1.png\n"
    )
    data = [{"manifest": str(folder / "own.csv")}]
    probes = {"manifest": str(folder / "own.csv")}
    chosen = recipe(method="rl2r", data=data, reference=True, probes=probes)
    with pytest.raises(UserError, match=r"row 3, .*cut\.jpg is truncated") as caught:
        checked(chosen)
    # The image is an example and a probe, and one fault.
    assert len(str(caught.value).splitlines()) == 2
    kept = checked(recipe(method="rl2r", data=data, reference=True, probes=probes, skip_bad=True))
    for examples in (kept.examples, kept.probes):
        assert [e.path.name for e in examples] == ["lab0.png", "lab3.png"]


def test_many_faults_are_cut_and_a_file_has_all(recipe, folder):
    rows = [f"gone{i}.png,{i}" for i in range(LISTED + 7)]
    (folder / "gone.csv").write_text("\n".join(["image,mos", "lab0.png,5", *rows]) + "\n")
    chosen = recipe(manifest="gone.csv")
    with pytest.raises(UserError) as caught:
        checked(chosen)
    told = str(caught.value).splitlines()
    assert len(told) == LISTED + 2
    file = chosen.output / "faulty-images.txt"
    assert told[-1].strip() == f"and 7 more: {file} has all"
    assert len(file.read_text().splitlines()) == LISTED + 7
    assert "row 29, " in file.read_text()


def test_no_image_left_is_an_error(recipe, folder):
    (folder / "none.csv").write_text("image,mos\ncut.jpg,3\ntext.png,4\n")
    with pytest.raises(UserError, match="no image is left to train on"):
        checked(recipe(manifest="none.csv", skip_bad=True))


def test_left_out_images_are_said_everywhere_and_the_rest_is_trained_on(recipe, folder, tmp_path):
    """On the terminal, in metrics.jsonl and on the page of the run, which leaves out the same when it is resumed."""
    chosen = recipe(method="rl2r", skip_bad=True)
    said = io.StringIO()
    final = train(chosen, console=Console(file=said, width=500))
    assert "left out (skip_bad): 3 images" in said.getvalue()
    assert all(name in said.getvalue() for name in FAULTY)
    metrics = chosen.output / "metrics.jsonl"
    first, *steps = lines(metrics)
    assert first["step"] == 0
    assert [fault["row"] for fault in first["left_out"]] == [3, 6, 9]
    assert [Path(fault.image).name for fault in read_left_out(metrics)] == list(FAULTY)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert read_metrics(metrics) == steps
    trained = {name for line in lines(chosen.output / "samples.jsonl") for name in line["images"]}
    assert len(trained) == 16
    assert trained.isdisjoint(FAULTY)
    page = tmp_path / "page.html"
    report_run(chosen.output, page, console=QUIET)
    text = " ".join(page.read_text().split())
    assert (
        "3 images were left out, which could not be read or which the model cannot take: "
        "wide.png, cut.jpg, text.png." in text
    )
    # A resumption leaves out the same, although the images are sound by now.
    shutil.rmtree(final)
    shutil.rmtree(chosen.output / "checkpoint-4")
    for name in FAULTY:
        shutil.copy(folder / "lab0.png", folder / name)
    train(chosen, resume=True)
    assert [line["step"] for line in lines(metrics)] == [0, 1, 2, 3, 4]
    assert len(read_left_out(metrics)) == 3
    samples = lines(chosen.output / "samples.jsonl")
    assert trained == {name for line in samples for name in line["images"]}
    # A new run would have them.
    assert checked(chosen).left_out == []


def test_skipping_gives_the_run_of_the_sound_images(recipe, folder):
    """As if the faulty ones had never been drawn: the same weights, where rows keep their numbers."""
    skipped = train(recipe("skipped", skip_bad=True))
    # The same rows, of which another split is not trained on.
    head, *rows = (folder / "bad.csv").read_text().splitlines()
    marked = [f"{row},{'test' if row.startswith(FAULTY) else 'train'}" for row in rows]
    for name in FAULTY:
        shutil.copy(folder / "lab0.png", folder / name)
    (folder / "marked.csv").write_text("\n".join([f"{head},split", *marked]) + "\n")
    source = {"manifest": str(folder / "marked.csv"), "mos_range": [0, 100], "split": "train"}
    plain = train(recipe("plain", data=[source]))
    assert_same_weights(skipped, plain)


def test_an_image_that_became_faulty_stops_a_resumption(recipe, folder):
    chosen = recipe(manifest="ranking.csv", skip_bad=True)
    final = train(chosen)
    shutil.rmtree(final)
    (folder / "lab3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 image became unusable since the run began") as caught:
        train(chosen, resume=True)
    assert "row 5, " in str(caught.value)
    assert "lab3.png is empty" in str(caught.value)


def test_a_dry_run_and_data_check_find_the_same(recipe, folder, tmp_path, model_folder):
    recipe()
    planned = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--dry-run"])
    assert planned.exit_code == 2
    report = tmp_path / "check.json"
    words = ["data", "check", str(folder / "bad.csv"), "--json", str(report)]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 1
    broken = {Path(b["image"]).name for b in json.loads(report.read_text())["broken"]}
    assert broken == {"cut.jpg", "text.png"}
    with_model = CliRunner().invoke(app, [*words, "--model", str(model_folder("qwen2_5_vl"))])
    assert with_model.exit_code == 1
    found = {Path(b["image"]).name: b["problem"] for b in json.loads(report.read_text())["broken"]}
    assert set(found) == set(FAULTY)
    for problem in found.values():
        assert problem in planned.output
    # It is still compared with the others.
    sizes = json.loads(report.read_text())["datasets"][0]["width"]
    assert sizes[2] == 1005
    left_out = CliRunner().invoke(
        app, ["train", str(tmp_path / "run.yaml"), "--dry-run", "--set", "skip_bad=true"]
    )
    assert left_out.exit_code == 0, left_out.output
    assert "left out (skip_bad): 3 images" in left_out.output
    assert "plan" in left_out.output


def test_a_plan_without_the_processor_says_what_was_not_checked(recipe, tmp_path):
    recipe(manifest="ranking.csv")
    words = ["train", str(tmp_path / "run.yaml"), "--dry-run", "--set", "model=owner/Qwen2.5-VL-7B"]
    planned = CliRunner().invoke(app, words)
    assert planned.exit_code == 0, planned.output
    assert "images are not checked against its limits" in " ".join(planned.output.split())


def test_data_check_names_a_model_that_is_not_there(folder):
    words = ["data", "check", str(folder / "bad.csv"), "--model", "nothing"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "nothing" in result.output
