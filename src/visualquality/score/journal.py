"""The journal of a run: an append-only file of ratings, from which a run resumes (`score_all` in resume.py).

The journal is JSON Lines. Its first line, {"header": {...}}, holds what the ratings depend on (model, weights hash,
prompt, mode, samples, seed, version); each further line is one `Rating`, with the stamps of its files as "files".
Lines are never changed: {"dropped": image} takes back the row of an image that is no longer the one that was rated, and
a further header says that intervals come from another calibration from there on.

A run that writes `out.csv` or `out.parquet` keeps its journal beside it, as `out.csv.jsonl`, and writes the output from
it at the end (`export` in files.py).
"""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ..errors import UserError
from ..io import JsonLine, lock_file, read_jsonl, unlock_file
from .files import DROPPED
from .rating import Rating
from .stamp import Stamp, Stamps

# The most that a power cut may lose. A killed process loses nothing: each line goes to the kernel at once.
SYNC_SECONDS = 1.0


def journal_path(output: Path) -> Path:
    """The journal of `-o output`: `output` itself if it is .jsonl, else `output` + ".jsonl".

    Raises UserError for any other ending than .jsonl, .csv, .parquet.
    """
    if output.suffix == ".jsonl":
        return output
    if output.suffix in (".csv", ".parquet"):
        return output.with_name(output.name + ".jsonl")
    raise UserError(f"{output} must end in .jsonl, .csv or .parquet; give -o such a name")


def journal_of(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The journal in `folder` for ratings made with `settings` (model, weights, prompt, mode, seed, …): one for each.

    So ratings made with other weights or options are never taken for these.
    """
    # Sorted, since two dicts with the same content may differ in order.
    canonical = json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    # The model may be a folder, whose path does not belong into a name.
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(str(settings["model"])).name).strip("-.")
    return folder / f"{name[:60]}-{xxhash.xxh3_64(canonical.encode()).hexdigest()}.jsonl"


class Journal:
    """The journal of one run: `with Journal(path, header) as journal`, then `append` each new rating.

    On entering, a new file gets the header; an existing one must have the same header, and its ratings are read.
    A line that a kill tore is cut off, so that its image is scored again. One process at a time may hold a journal.

    Attributes:
        path: the file.
        ratings: image -> its last rating, in the order of the last lines. A rating that is not `answered` is among
            them, and its image may get a second line, which then counts.
        stamps: image -> those of the files that the rating is of; none in journals of versions that recorded none.

    Raises UserError on entering for another header, a file that another run holds, a file that is no journal, and a
    damaged or repeated line; the file is then left as it was.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.ratings: dict[str, Rating] = {}
        self.stamps: dict[str, Stamps] = {}
        self._header = header
        self._fd = -1
        self._size = 0  # bytes of whole lines
        self._synced = 0.0  # time of the last fsync, in seconds

    def __enter__(self) -> "Journal":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # O_APPEND: every line lands at the end, also after the file was cut back. O_BINARY: Windows would write
            # line feeds as two bytes.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._fd = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be opened for results: {error.strerror}; give another -o"
            ) from error
        try:
            self._lock()
            self._load()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _lock(self) -> None:
        try:
            lock_file(self._fd)
        except OSError as error:
            fault = f"another run is writing {self.path}; wait for its end or give another -o"
            # Some network file systems have no locks.
            if not isinstance(error, BlockingIOError):
                fault = f"{self.path} cannot be locked ({error.strerror}); give -o a file on a local disk"
            raise UserError(fault) from error

    def _load(self) -> None:
        header_line = _encoded({"header": self._header})
        with self.path.open("rb") as file:
            first = file.readline()
        if not first.endswith(b"\n") and header_line.startswith(first):
            # A new file, or a kill in the middle of the header: start from nothing.
            os.ftruncate(self._fd, 0)
            self._write(header_line)
            self._sync()
            return
        found = _read(self.path, "give another -o")
        # Through JSON, as the old header went: a tuple is a list there.
        new = json.loads(header_line)["header"]
        self._check(found.header, new)
        self.ratings, self.stamps = found.ratings, found.stamps
        self._size = found.last.end
        os.ftruncate(self._fd, self._size)
        if not found.last.raw.endswith(b"\n"):
            # A kill between the object and its line feed: the rating counts, and its line is completed.
            self._write(b"\n")
        if found.header != new:
            self._write(header_line)

    def _check(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Raises UserError for other settings. Another calibration is none: it only adds to ratings (`score_all`)."""
        if "calibration" in old and "calibration" not in new:
            raise UserError(
                f"{self.path} has intervals of a calibration, and this run has no calibration: "
                "give it with --calibration, or give another -o"
            )
        for field in [*new, *old]:
            if field == "calibration":
                continue
            if field in old and field in new and old[field] == new[field]:
                continue
            was = repr(old[field]) if field in old else "none"
            now = repr(new[field]) if field in new else "none"
            raise UserError(
                f"{self.path} was written with {field} {was} and this run has {now}; "
                "give another -o or the same settings"
            )

    def append(self, rating: Rating, stamps: Stamps = ()) -> None:
        """Write one line, and have the disk confirm it at most once a second.

        Raises ValueError for an image that is rated already, UserError where the disk is full; the file is then
        unchanged.
        """
        if rating.image in self.ratings and self.ratings[rating.image].answered:
            raise ValueError(f"{rating.image} is already in {self.path}")
        self._put(b"", rating, stamps)

    def replace(self, rating: Rating, stamps: Stamps) -> None:
        """Write a rating in the place of the one that its image has. Raises UserError where the disk is full."""
        self._put(_encoded({DROPPED: rating.image}), rating, stamps)

    def drop(self, image: str) -> None:
        """Take back the rating of an image. Raises UserError where the disk is full."""
        self._write(_encoded({DROPPED: image}))
        self.ratings.pop(image, None)
        self.stamps.pop(image, None)

    def _put(self, before: bytes, rating: Rating, stamps: Stamps) -> None:
        files = {"files": [stamp.to_dict() for stamp in stamps]} if stamps else {}
        self._write(before + _encoded(rating.to_dict() | files))
        # A dict keeps an old key at its old place, and the order is that of the last lines.
        self.ratings.pop(rating.image, None)
        self.ratings[rating.image] = rating
        self.stamps[rating.image] = stamps
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                # The kernel may take less than all of it, for instance on a nearly full disk.
                rest = rest[os.write(self._fd, rest) :]
        except BaseException as error:
            # A full disk or an interrupt must not leave half a line, which the next line would follow.
            os.ftruncate(self._fd, self._size)
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.path} cannot be written: {error.strerror}; fix that and run again"
                ) from error
            raise
        self._size += len(line)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced = time.monotonic()

    def __exit__(self, *error: object) -> None:
        try:
            self._sync()
        finally:
            # Closing is not enough: a forked worker may hold a copy of the descriptor, and with it the lock.
            unlock_file(self._fd)
            os.close(self._fd)


def _encoded(record: dict[str, Any]) -> bytes:
    """One line of a journal. NaN and infinity, which are not JSON, raise ValueError."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


class _Content(NamedTuple):
    """What is in a journal: its last header, what `Journal` has, and the last line."""

    header: dict[str, Any]
    ratings: dict[str, Rating]
    stamps: dict[str, Stamps]
    last: JsonLine


def _read(path: Path, fix: str) -> _Content:
    """Raises UserError with `fix` for a file that is no journal, and with the line for a damaged or repeated one."""
    lines = read_jsonl(path)
    try:
        last = next(lines, None)
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # the file cannot be read, whatever it holds
            raise
        last = None
    if last is None or not isinstance(last.record.get("header"), dict):
        raise UserError(
            f"{path} does not begin with a header of results, so it is no journal of results; {fix}"
        )
    found = _Content(last.record["header"], {}, {}, last)
    for last in lines:
        try:
            found = _with_line(found, last)
        except UserError as error:
            raise UserError(f"{path}, line {last.number}: {error}") from error
    return found._replace(last=last)


def _with_line(found: _Content, line: JsonLine) -> _Content:
    """What is there with one more line. Raises UserError."""
    record = line.record
    if record.keys() == {"header"} and isinstance(record["header"], dict):
        return found._replace(header=record["header"])
    if record.keys() == {DROPPED} and isinstance(record[DROPPED], str):
        found.ratings.pop(record[DROPPED], None)
        found.stamps.pop(record[DROPPED], None)
        return found
    files = record.pop("files", [])
    rating = Rating.from_dict(record)
    if not isinstance(files, list):
        raise UserError(f"files is {files!r}: it must be a list")
    # Taken out, since a dict would keep the key at its old place.
    before = found.ratings.pop(rating.image, None)
    if before is not None and before.answered:
        raise UserError(f"{rating.image} is there a second time; remove one of the two")
    found.ratings[rating.image] = rating
    found.stamps[rating.image] = tuple(map(Stamp.from_dict, files))
    return found


def read_journal(path: Path) -> tuple[dict[str, Any], list[Rating]]:
    """The last header of a journal and its ratings, one an image, in the order of their last lines.

    An image that was tried again has several lines, of which the last counts; a torn last line is left out. Raises
    UserError where there is no such file, for a file that is no journal, and for a damaged or repeated line.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is not a file: give the .jsonl that score or evaluate wrote with -o"
        )
    found = _read(path, "give the .jsonl that score or evaluate wrote with -o")
    return found.header, list(found.ratings.values())
