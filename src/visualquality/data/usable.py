"""Which images can be trained on: each is decoded in full, and taken by the model's processor.

A header says nothing of a body that was cut off, and one such image would end a run hours after its start.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from rich.console import Console

from ..errors import UserError
from ..io import map_ahead, progress_bar, size_and_time, tracked, user_folder
from .images import open_image

LINE_SECONDS = 15.0  # between lines where there is no terminal
WRITE_SECONDS = 2.0  # between writes of what is remembered: the most that a kill loses
LOCK_SECONDS = 5.0  # to wait for another process that writes
# What was sound to one version need not be so to another. The number in front is to be raised where the same version
# reads images anew.
READER = f"2, visualquality {version('visualquality')}, Pillow {PIL.__version__}"

Size = tuple[int, int]  # width, height of the upright image
SizeAndTime = tuple[int, int]  # of a file, as `size_and_time` gives them


def image_problems(
    paths: Sequence[Path],
    *,
    refusal: Callable[[int, int], str | None] = lambda width, height: None,
    memory: "SoundImages",
    console: Console,
) -> dict[Path, str]:
    """The images that cannot be used, with a sentence for each that names it; in the order of `paths`.

    All images are decoded, in threads. refusal: why a model cannot take a width and height, or None. memory: what
    need not be decoded again. console: gets a bar with rate and time left, or lines where it is no terminal.
    """
    problems: dict[Path, str] = {}
    # Asked here and not in the threads: the memory is for one thread.
    asked = ((path, memory.recall(path)) for path in paths)
    with progress_bar(console) as bar:
        found = tracked(bar, map_ahead(_decode, asked), "checking images", len(paths))
        lines = _progress_lines(len(paths), console)
        for path, decoded in zip(paths, found, strict=True):
            next(lines)
            if isinstance(decoded, UserError):
                problems[path] = str(decoded)
                continue
            if decoded.fresh:
                memory.remember(path, decoded.stamp, decoded.size)
            if reason := refusal(*decoded.size):
                problems[path] = f"{path}: {reason}"
    return problems


class _Sound(NamedTuple):
    """An image that could be decoded; `fresh`: just now, so that it is not remembered yet."""

    stamp: SizeAndTime | None
    size: Size
    fresh: bool


def _decode(asked: tuple[Path, tuple[SizeAndTime, Size] | None]) -> _Sound | UserError:
    path, known = asked
    # Before the file is opened: if it changes meanwhile, what is remembered no longer fits it.
    stamp = size_and_time(path)
    if known is not None and known[0] == stamp:
        return _Sound(*known, fresh=False)
    try:
        return _Sound(stamp, open_image(path).size, fresh=True)
    except UserError as error:
        return error


def _progress_lines(total: int, console: Console) -> Iterator[None]:
    """Each `next` is an image; now and then a line says how many are done, where there is no bar."""
    started = printed = time.monotonic()
    done = 0
    while True:
        yield
        done += 1
        now = time.monotonic()
        if not console.is_terminal and now - printed > LINE_SECONDS:
            printed = now
            rate = done / (now - started)
            left = (total - done) / rate / 60
            text = f"checked {done} of {total} images, {rate:.1f} images/s, {left:.1f} min left"
            console.print(text, soft_wrap=True)


class SoundImages:
    """The sizes of images that were decoded without an error, until their file changes.

    A cache, in an SQLite file that several processes may share. Where that cannot be read or written (no home, a full
    disk, no locks), nothing is remembered and images are decoded again. To be used in one thread.
    """

    def __init__(self, file: Path | None):
        self._database: sqlite3.Connection | None = None
        self._new: list[tuple[Any, ...]] = []  # rows that are not in the file yet
        self._written = time.monotonic()
        if file is None:
            return
        with suppress(OSError, sqlite3.Error):
            file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(file, timeout=LOCK_SECONDS)
            database.execute(
                "CREATE TABLE IF NOT EXISTS sound"
                " (path BLOB PRIMARY KEY, size, changed, width, height, reader)"
            )
            # So the file does not grow with each version.
            database.execute("DELETE FROM sound WHERE reader != ?", (READER,))
            database.commit()
            self._database = database

    def __enter__(self) -> "SoundImages":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        if self._database is not None:
            self._database.close()

    def recall(self, path: Path) -> tuple[SizeAndTime, Size] | None:
        """What the file was like when it was decoded, and the image's size."""
        if self._database is None:
            return None
        try:
            row = self._database.execute(
                "SELECT size, changed, width, height FROM sound WHERE path = ?", (_key(path),)
            ).fetchone()
        except sqlite3.Error:
            self._database = None
            return None
        return row and (row[:2], row[2:])

    def remember(self, path: Path, stamp: SizeAndTime | None, size: Size) -> None:
        """That the file, as `stamp` says it was, is a sound image of this size."""
        if stamp is None:
            return
        self._new.append((_key(path), *stamp, *size, READER))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        # In one go: while a transaction is open, no other process can write.
        if self._database is not None and self._new:
            try:
                with self._database:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO sound VALUES (?, ?, ?, ?, ?, ?)", self._new
                    )
            except sqlite3.Error:
                self._database = None
        self._new.clear()
        self._written = time.monotonic()


def _key(path: Path) -> bytes:
    # A file name need not be text in any encoding.
    return os.fsencode(path.absolute())


def cache_file() -> Path | None:
    """The user's file for `SoundImages`; None where there is no home.

    Its folder is that of $XDG_CACHE_HOME, by default ~/.cache (`io.user_folder`).
    """
    try:
        return user_folder("XDG_CACHE_HOME", ".cache") / "sound-images.sqlite"
    except RuntimeError:
        return None
