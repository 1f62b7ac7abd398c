"""What is special about Windows, as far as another system can play it: nobody has run this package there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import picture

SOURCE = Path(__file__).parents[1] / "src" / "visualquality"

# Before anything of ours is imported: no fcntl, no fork, none of the signals and flags that Windows lacks, and its
# msvcrt, flags and refusals instead.
WINDOWS = """
import os, signal, struct, sys, types
import fcntl as posix
# Others ask for the system in other ways, and are needed to play.
import asyncio, multiprocessing, subprocess, torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

def locking(fd, mode, count):
    start = os.lseek(fd, 0, os.SEEK_CUR)
    assert start > 1 << 30, "Windows lets nobody read the bytes that are locked"
    kind = posix.F_UNLCK if mode == 0 else posix.F_WRLCK
    try:
        # Of the open file, as on Windows: locks of the process end with any other that it closes.
        lock = struct.pack("hhqqi0q", kind, os.SEEK_SET, start, count, 0)
        posix.fcntl(fd, posix.F_OFD_SETLK, lock)
    except OSError:
        raise PermissionError(13, "Permission denied")

sys.modules["fcntl"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking)
for name in ("fork", "forkpty", "register_at_fork", "O_CLOEXEC", "getuid", "geteuid"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGKILL", "SIGCHLD"):
    delattr(signal, name)
os.O_BINARY = 1 << 29
real_open, real_fsync = os.open, os.fsync

def open_file(path, flags, *more, **named):
    assert flags & os.O_BINARY or not str(path).endswith(".jsonl"), "line feeds would be two bytes"
    return real_open(path, flags & ~os.O_BINARY, *more, **named)

def fsync(fd):
    if posix.fcntl(fd, posix.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    real_fsync(fd)

os.open, os.fsync = open_file, fsync
"""

PROGRAM = """
import subprocess
from pathlib import Path
from visualquality.cli import app
from visualquality.errors import UserError
from visualquality.score.journal import Journal

if sys.argv[1] == "second":
    try:
        Journal(Path("held.jsonl"), {}).__enter__()
    except UserError as error:
        print(error)
    sys.exit()

app(["--help"], standalone_mode=False)
for _ in range(2):
    app(["score", "photos", "--model", "niqe", "-o", "out.csv"], standalone_mode=False)
again = [sys.executable, __file__, "second"]
with Journal(Path("held.jsonl"), {}):
    print(subprocess.run(again, capture_output=True, text=True, check=True).stdout)
print("then:", subprocess.run(again, capture_output=True, text=True, check=True).stdout)

from visualquality import Scorer
from visualquality.score import reading
reading.QUICK_SECONDS = 0.0
scorer = Scorer(sys.argv[1], mode="expect", device="cpu", batch=2)
print("scores:", *[rating.score for rating in scorer([f"photos/{i}.png" for i in range(6)])])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its locks of open files play those of Windows")
def test_help_classics_journals_and_models_work_without_what_windows_lacks(tmp_path, model_folder):
    (tmp_path / "photos").mkdir()
    for seed in range(6):
        picture(seed, (240, 200)).save(tmp_path / "photos" / f"{seed}.png")
    (tmp_path / "program.py").write_text(WINDOWS + PROGRAM, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "program.py", str(model_folder("nano"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout
    assert "6 of 6 images scored" in run.stderr
    assert "6 of 6 images are in out.csv.jsonl already" in run.stderr
    assert "another run is writing held.jsonl" in run.stdout
    assert run.stdout.split("then:")[1].split("scores:")[0].strip() == ""
    assert len(run.stdout.split("scores:")[1].split()) == 6
    written = [part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts]
    assert "out.csv" in written
    assert not [name for name in written if re.search(r'[<>:"|?*\\]|[. ]$', name)]


def _opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text, and so in an encoding: `open`, `path.open`, `read_text`, `write_text`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in ("os", "Image", "self"):
        return False  # no text, or our own
    if name in ("read_text", "write_text"):
        # Our own functions of these names are not methods, and have UTF-8 in them.
        return owner is not None
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    return name == "open" and not any("b" in str(mode) for mode in modes)


def test_every_text_file_has_an_encoding_since_the_default_of_windows_is_another():
    calls = 0
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                calls += 1
                given = {keyword.arg for keyword in node.keywords}
                assert "encoding" in given, f"{path.name}, line {node.lineno}"
    assert calls > 5


def test_nothing_but_the_lock_knows_fcntl():
    users = [
        path.name
        for path in SOURCE.rglob("*.py")
        if re.search(r"^\s*(import|from) fcntl", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == ["io.py"]
