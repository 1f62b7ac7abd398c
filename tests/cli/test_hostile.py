"""Commands on hostile names and full disks: nothing reaches the terminal that moves it; each fault is a sentence."""

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.score.journal import Journal
from visualquality.score.rating import Rating

NAMES = [
    "plain.png",
    "[bold]x[bold].png",
    "[link].png",
    "\x1b[2J\x1b]0;owned\x07.png",
    "\x9b31m.png",
    "\u202egnp.exe.png",
    "two\nlines.png",
    "re\rturn.png",
    "=1+1.png",
    "@x.png",
    "-e.png",
    "\udcff.png",
]


@pytest.fixture
def photos(tmp_path):
    """A folder in a folder whose name would close a tag of rich's markup."""
    folder = tmp_path / "[" / "x]"
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        picture(number, (120, 110)).save(folder / os.fsdecode(os.fsencode(name)), "PNG")
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    for text in (done.stdout, done.stderr):
        assert [c for c in text if not c.isprintable() and c not in "\n"] == []
    return done.exit_code, done.stdout, done.stderr


def test_scores_of_hostile_names(photos):
    status, text, _ = run("score", photos, "--model", "niqe")
    assert status == 0
    unbroken = "".join(text.replace("│", "").split())
    for shown in (
        "\\u001b[2J\\u001b]0;owned\\u0007",
        "re\\u000dturn",
        "two\\u000alines",
        "[bold]x[bold]",
    ):
        assert shown in unbroken
    for command in (["rank", photos], ["compare", photos / NAMES[3], photos / NAMES[2]]):
        assert run(*command, "--model", "niqe")[0] == 0


def test_lines_of_json_are_harmless_and_exact(photos):
    status, text, _ = run("score", photos, "--model", "niqe", "--json")
    assert status == 0
    images = [json.loads(line)["image"] for line in text.splitlines()]
    assert sorted(Path(image).name for image in images) == sorted(NAMES)


def test_exports_beside_hostile_names(photos, monkeypatch):
    monkeypatch.chdir(photos)
    output = "[/y].csv"
    status, _, told = run("score", "--model", "niqe", "-o", output, "--", *NAMES[:6], *NAMES[8:11])
    assert (status, "9 of 9 images scored -> [/y].csv" in told) == (0, True)
    assert (
        "are in [/y].csv.jsonl already"
        in run("score", "--model", "niqe", "-o", output, "plain.png")[2]
    )
    with Path(output).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows if row["image"][0] in "=@+-"] == []
    # The same files by the names in the table, and numbers are numbers.
    assert all(Path(row["image"]).is_file() and float(row["score"]) for row in rows)
    manifest = "\n".join(["image,mos", *(f'"{name}",{i}' for i, name in enumerate(NAMES[8:11]))])
    Path("m.csv").write_text(manifest + "\n", encoding="utf-8")
    status, table, told = run("evaluate", "--scores", output, "--data", "m.csv")
    assert (status, "m" in table) == (0, True), told


@pytest.mark.parametrize("name", ["[/nope]", "\x1b[2J", "a\nb"])
def test_errors_name_hostile_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        ["score", f"{name}.png"],
        ["score", "x.png", "--model", f"./{name}"],
        ["report", f"{name}.jsonl"],
        ["data", "show", f"{name}.csv", "-o", f"{name}.png"],
        ["train", f"{name}.yaml"],
        ["benchmark", f"{name}.yaml"],
    ):
        Image.new("RGB", (120, 110)).save("x.png")
        status, _, told = run(*command)
        assert status == 2
        assert "Traceback" not in told


def test_manifests_with_hostile_data_sets(photos, monkeypatch):
    monkeypatch.chdir(photos)
    lines = [f'"{name}",{i},"[/red]\x1b[2J"' for i, name in enumerate(NAMES[:6])]
    Path("m.csv").write_text("\n".join(["image,mos,dataset", *lines]) + "\n", encoding="utf-8")
    assert run("data", "check", "m.csv")[0] == 0
    assert run("data", "show", "m.csv", "-o", "[/s].png")[0] == 0
    status, text, _ = run("data", "import", "csv", "m.csv", "-o", "[/i].csv")
    assert (status, "[/red]\\u001b[2J" in text) == (0, True)
    assert run("data", "split", "[/i].csv", "-o", "s.csv", "--ratios", "1:1:1")[0] == 0


def test_a_report_about_hostile_results(photos, monkeypatch):
    monkeypatch.chdir(photos)
    with Journal(Path("r.jsonl"), {"model": "[/x]\x1b"}) as store:
        for i, name in enumerate(NAMES[:6]):
            store.append(Rating(name, 1.0 + i, 0.1, (), "\x1b[2J", None, "m", "reason", 0, 0.1))
    assert run("report", "r.jsonl", "-o", "[/r].html")[0] == 0
    assert "\x1b" not in Path("[/r].html").read_text(encoding="utf-8")


def shell(folder: Path, *arguments: str, limit: int | None = None, stdout: str = "out.txt"):
    """A command in a process of its own; `limit` is the most bytes a file may have, as on a full disk."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (
        (folder / "out.txt").open("w")
        if stdout == "out.txt"
        else open(stdout, "w", encoding="utf-8") as out
    ):
        return subprocess.run(
            [sys.executable, "-m", "visualquality", *arguments],
            cwd=folder,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=bound,
            check=False,
        )


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        picture(number, (120, 110)).save(tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text("image,mos\n0.png,1\n1.png,2\n2.png,3\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "score 0.png 1.png 2.png --model niqe -o new/scores.csv",
        "data check m.csv --json new.json",
        "data show m.csv -o new.png",
        "data import csv m.csv -o new.csv",
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(command, folder):
    done = shell(folder, *command.split(), limit=10)
    assert done.returncode == 2, done.stderr
    told = " ".join(done.stderr.split())
    assert "cannot be written" in told
    assert "Traceback" not in told
    assert [path.name for path in folder.rglob("*") if path.name.endswith(".part")] == []
    assert [path for path in folder.glob("new*") if path.is_file() and path.stat().st_size] == []
    # With room, the same command does it.
    assert shell(folder, *command.split()).returncode == 0


def test_what_was_scored_before_the_disk_was_full_is_kept(folder):
    whole = shell(
        folder, *["score", "0.png", "1.png", "2.png", "--model", "niqe", "-o", "whole.csv"]
    )
    assert whole.returncode == 0
    size = (folder / "whole.csv.jsonl").stat().st_size
    done = shell(
        folder,
        *["score", "0.png", "1.png", "2.png", "--model", "niqe", "-o", "s.csv"],
        limit=size - 20,
    )
    assert done.returncode == 2
    kept = (folder / "s.csv.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    assert kept.count(b"\n") == 3  # the header and two of three
    done = shell(folder, *["score", "0.png", "1.png", "2.png", "--model", "niqe", "-o", "s.csv"])
    assert (done.returncode, "2 of 3 images are in s.csv.jsonl already" in done.stderr) == (0, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_standard_output_is_one_sentence(more, folder):
    done = shell(folder, "score", "0.png", "--model", "niqe", *more, stdout="/dev/full")
    assert done.returncode == 2
    assert " ".join(done.stderr.split()) == (
        "error: the output cannot be written (No space left on device): make room"
    )


def test_no_home_no_temporary_folder_and_no_configuration(folder, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(folder / "none"))
    done = shell(folder, *["score", "0.png", "--model", "niqe", "-o", "s.csv"])
    assert (done.returncode, "1 of 1 images scored" in done.stderr) == (0, True)
    done = shell(folder, *["report", "s.csv", "-o", "r.html"])
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
