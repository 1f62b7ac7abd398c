"""Names that lead elsewhere: reading them is what their author asks for; only the named output is written."""

import json
import os

import pytest
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.data.manifest import Manifest


@pytest.fixture
def place(tmp_path):
    """A data set in a folder, and images around it that its names lead to."""
    folder = tmp_path / "home" / "set"
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    picture(0).save(folder / "images" / "in.png")
    picture(1).save(tmp_path / "outside.png")
    picture(2).save(tmp_path / "home" / "linked.png")
    os.symlink(tmp_path / "home" / "linked.png", folder / "images" / "link.png")
    (tmp_path / "private.txt").write_text("secret words")
    os.symlink(tmp_path / "private.txt", folder / "images" / "text.png")
    (tmp_path / "out").mkdir()
    return tmp_path


def files(place):
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


NAMES = ("images/in.png", "../../outside.png", "ABSOLUTE", "images/link.png")


def forms(place):
    """The same four names in each form of file that a user may get."""
    names = [name.replace("ABSOLUTE", str(place / "home" / "linked.png")) for name in NAMES]
    jsonl = [
        json.dumps(
            {"dataset_name": "d", "image": [name], "conversations": [{"from": "gpt", "value": n}]}
        )
        for n, name in enumerate(names)
    ]
    deqa = [{"image": name, "gt_score": n} for n, name in enumerate(names)]
    lines = [f"{name} {n}" for n, name in enumerate(names)]
    return {
        "csv": ("l.csv", "image,mos\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names))),
        "authors-txt": ("l.txt", "\n".join(lines)),
        "authors-jsonl": ("l.jsonl", "\n".join(jsonl)),
        "deqa-json": ("l.json", json.dumps(deqa)),
    }


@pytest.mark.parametrize("form", ["csv", "authors-txt", "authors-jsonl", "deqa-json"])
def test_an_import_writes_its_output_and_nothing_else(form, place):
    name, text = forms(place)[form]
    (place / "home" / "set" / name).write_text(text)
    before = files(place)
    output = place / "out" / "m.csv"
    done = run("data", "import", form, place / "home" / "set" / name, "-o", output)
    assert done.exit_code == 0, done.output
    after = files(place)
    assert after.keys() - before.keys() == {output}
    assert {path: after[path] for path in before} == before
    read = Manifest.read(output, check_images=True)
    places = (
        "home/set/images/in.png",
        "outside.png",
        "home/linked.png",
        "home/set/images/link.png",
    )
    assert [row.image for row in read.rows] == [place / name for name in places]


def test_what_is_no_image_is_never_shown(place):
    folder = place / "home" / "set"
    lines = ["image,mos", "../../private.txt,1", "images/text.png,2", "/etc/passwd,3"]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    for command in (
        ["data", "check", folder / "m.csv"],
        ["score", folder / "images" / "text.png", "--model", "niqe"],
        ["data", "show", folder / "m.csv", "-o", place / "out" / "s.png"],
    ):
        done = run(*command)
        assert done.exit_code in (1, 2)
        assert "secret words" not in done.output
        assert "root:" not in done.output
    assert not (place / "out" / "s.png").exists()


@pytest.mark.parametrize("command", ["import", "split"])
def test_an_output_that_is_a_link_is_replaced_and_not_followed(command, place):
    folder = place / "home" / "set"
    name, text = forms(place)["csv"]
    (folder / name).write_text(text)
    link = place / "out" / "m.csv"
    os.symlink(place / "private.txt", link)
    arguments = ["csv", folder / name] if command == "import" else [folder / name]
    ratios = [] if command == "import" else ["--ratios", "2:1:1"]
    done = run("data", command, *arguments, "-o", link, "--overwrite", *ratios)
    assert done.exit_code == 0, done.output
    assert (place / "private.txt").read_text() == "secret words"
    assert not link.is_symlink()
