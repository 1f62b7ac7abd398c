"""Every image is decoded before it is trained on, once, and remembered until its file changes."""

import io
import os
import sqlite3
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from conftest import picture
from visualquality.data import usable
from visualquality.data.usable import SoundImages, cache_file, image_problems

QUIET = Console(quiet=True)


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """A sound JPEG, one whose body is cut off, a wide one, and one that is not there."""
    paths = [tmp_path / name for name in ("sound.jpg", "cut.jpg", "wide.png", "gone.png")]
    picture(0, (96, 64)).save(paths[0])
    paths[1].write_bytes(paths[0].read_bytes()[:-400])
    Image.new("RGB", (603, 3)).save(paths[2])
    return paths


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """The images that were decoded, in order."""
    found = []
    real = usable.open_image
    monkeypatch.setattr(usable, "open_image", lambda path: found.append(path) or real(path))
    return found


def narrow(width: int, height: int) -> str | None:
    return "too wide" if width > 200 * height else None


def test_all_that_cannot_be_used_is_named(images):
    problems = image_problems(images, refusal=narrow, memory=SoundImages(None), console=QUIET)
    assert list(problems) == images[1:]
    assert "cut.jpg is truncated or damaged" in problems[images[1]]
    assert problems[images[2]] == f"{images[2]}: too wide"
    assert "gone.png does not exist" in problems[images[3]]


def test_a_sound_image_is_decoded_once_until_its_file_changes(images, opened, tmp_path):
    def problems() -> dict[Path, str]:
        opened.clear()
        with SoundImages(tmp_path / "new" / "cache.sqlite") as memory:
            return image_problems(images, refusal=narrow, memory=memory, console=QUIET)

    first = problems()
    assert sorted(opened) == sorted(images)
    # The faulty ones may have been copied again; a size that another model may take is remembered.
    assert problems() == first
    assert sorted(opened) == sorted([images[1], images[3]])
    # Of the same size, changed at another time; and of another size at the same time.
    for change in (
        lambda: os.utime(images[0], ns=(1, 1)),
        lambda: (
            images[0].write_bytes(images[0].read_bytes() + b"\0") and os.utime(images[0], ns=(1, 1))
        ),
    ):
        change()
        assert problems() == first
        assert images[0] in opened
        problems()
        assert images[0] not in opened
    # And one that was sound is not taken for sound when it is not.
    images[0].write_bytes(images[1].read_bytes())
    assert images[0] in problems()


def test_what_another_version_found_sound_is_decoded_again(images, opened, tmp_path, monkeypatch):
    file = tmp_path / "cache.sqlite"
    for reader in ("version 1", "version 2"):
        monkeypatch.setattr(usable, "READER", reader)
        with SoundImages(file) as memory:
            image_problems(images[:1], memory=memory, console=QUIET)
    assert opened == [images[0]] * 2
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM sound").fetchone() == (1,)


@pytest.mark.parametrize("fault", ["folder", "not a database", "locked", "full"])
def test_a_memory_that_cannot_be_used_stops_nothing(images, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(usable, "LOCK_SECONDS", 0.1)
    file = tmp_path / "cache.sqlite"
    other = None
    if fault == "folder":
        file.mkdir()
    elif fault == "not a database":
        file.write_bytes(b"x" * 5000)
    else:
        with SoundImages(file):
            pass
        other = sqlite3.connect(file)
        if fault == "locked":
            other.execute("BEGIN EXCLUSIVE")
        else:
            real = usable.sqlite3.connect

            def small(*args, **kwargs):
                database = real(*args, **kwargs)
                database.execute("PRAGMA max_page_count = 1")
                return database

            monkeypatch.setattr(usable.sqlite3, "connect", small)
    with SoundImages(file) as memory:
        problems = image_problems(images, memory=memory, console=QUIET)
    assert len(problems) == 2
    if other is not None:
        other.close()


def test_two_processes_remember_what_each_of_them_found(images, opened, tmp_path):
    pictures = [images[0], images[2]]
    with SoundImages(tmp_path / "c.sqlite") as one, SoundImages(tmp_path / "c.sqlite") as other:
        for memory, path in ((one, pictures[0]), (other, pictures[1])):
            image_problems([path], memory=memory, console=QUIET)
    opened.clear()
    with SoundImages(tmp_path / "c.sqlite") as memory:
        image_problems(pictures, memory=memory, console=QUIET)
    assert opened == []


def test_a_file_name_that_is_no_text_is_remembered(tmp_path, opened):
    path = tmp_path / os.fsdecode(b"\xff.png")
    try:
        picture(0).save(path)
    except OSError:
        pytest.skip("this file system takes text only")
    for _ in range(2):
        with SoundImages(tmp_path / "cache.sqlite") as memory:
            assert not image_problems([path], memory=memory, console=QUIET)
    assert opened == [path]


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "visualquality" / "sound-images.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_file() == tmp_path / "x" / "visualquality" / "sound-images.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file() is None


def test_lines_tell_the_progress_where_there_is_no_terminal(images, monkeypatch):
    monkeypatch.setattr(usable, "LINE_SECONDS", -1.0)
    said = io.StringIO()
    image_problems(images, memory=SoundImages(None), console=Console(file=said))
    assert "checked 2 of 4 images, " in said.getvalue()
    assert "images/s, " in said.getvalue()
    assert " min left" in said.getvalue()
