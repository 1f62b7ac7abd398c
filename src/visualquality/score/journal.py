"""The journal of a run, an append-only file of ratings, and scoring many images with it so that a run can resume.

The journal is JSON Lines. Its first line, {"header": {...}}, holds what the ratings depend on (model, weights hash,
prompt, mode, samples, seed, version); each further line is one `Rating`. A run that writes `out.csv` or `out.parquet`
keeps its journal beside it, as `out.csv.jsonl`, and writes the output from it at the end (`export` in files.py).
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import xxhash
from rich.console import Console

from ..errors import UserError
from ..io import JsonLine, progress_bar, read_jsonl, tracked
from .files import export
from .rating import Rater, Rating
from .source import Referenced, name_of

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

    Raises UserError on entering for another header, a file that another run holds, a file that is no journal, and a
    damaged or repeated line; the file is then left as it was.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.ratings: dict[str, Rating] = {}
        self._header = header
        self._fd = -1
        self._size = 0  # bytes of whole lines
        self._synced = 0.0  # time of the last fsync, in seconds

    def __enter__(self) -> "Journal":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # O_APPEND: every line lands at the end, also after the file was cut back.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
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
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        old, self.ratings, last = _read(self.path, "give another -o")
        # Through JSON, as the old header went: a tuple is a list there.
        self._check(old, json.loads(header_line)["header"])
        self._size = last.end
        os.ftruncate(self._fd, self._size)
        if not last.raw.endswith(b"\n"):
            # A kill between the object and its line feed: the rating counts, and its line is completed.
            self._write(b"\n")

    def _check(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        for field in [*new, *old]:
            if field in old and field in new and old[field] == new[field]:
                continue
            was = repr(old[field]) if field in old else "none"
            now = repr(new[field]) if field in new else "none"
            raise UserError(
                f"{self.path} was written with {field} {was} and this run has {now}; "
                "give another -o or the same settings"
            )

    def append(self, rating: Rating) -> None:
        """Write one line, and have the disk confirm it at most once a second.

        Raises ValueError for an image that is rated already, UserError where the disk is full; the file is then
        unchanged.
        """
        if rating.image in self.ratings and self.ratings[rating.image].answered:
            raise ValueError(f"{rating.image} is already in {self.path}")
        self._write(_encoded(rating.to_dict()))
        # A dict keeps an old key at its old place, and the order is that of the last lines.
        self.ratings.pop(rating.image, None)
        self.ratings[rating.image] = rating
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
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)


def _encoded(record: dict[str, Any]) -> bytes:
    """One line of a journal. NaN and infinity, which are not JSON, raise ValueError."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def _read(path: Path, fix: str) -> tuple[dict[str, Any], dict[str, Rating], JsonLine]:
    """The header of a journal, image -> its last rating in the order of the last lines, and the last line.

    Raises UserError with `fix` for a file that is no journal, and with the line for a damaged or repeated one.
    """
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
    header = last.record["header"]
    ratings: dict[str, Rating] = {}
    for last in lines:
        try:
            rating = Rating.from_dict(last.record)
        except UserError as error:
            raise UserError(f"{path}, line {last.number}: {error}") from error
        # Taken out, since a dict would keep the key at its old place.
        before = ratings.pop(rating.image, None)
        if before is not None and before.answered:
            raise UserError(
                f"{path}, line {last.number}: {rating.image} is there a second time; remove one of the two"
            )
        ratings[rating.image] = rating
    return header, ratings, last


def read_journal(path: Path) -> tuple[dict[str, Any], list[Rating]]:
    """The header of a journal and its ratings, one an image, in the order of their last lines.

    An image that was tried again has several lines, of which the last counts; a torn last line is left out. Raises
    UserError where there is no such file, for a file that is no journal, and for a damaged or repeated line.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is not a file: give the .jsonl that score or evaluate wrote with -o"
        )
    header, ratings, _ = _read(path, "give the .jsonl that score or evaluate wrote with -o")
    return header, list(ratings.values())


def score_all(
    rater: Rater,
    images: Sequence[str | Referenced],
    *,
    journal: Path | None = None,
    export_to: Path | None = None,
    references: Path | None = None,
    console: Console,
) -> Iterator[Rating]:
    """The rating of each image, in order: taken from `journal` if it is there, else made and appended to it.

    An image that nothing answered for, such as a broken file, is tried again. The run may be stopped at any point:
    what was yielded is in the journal.

    Args:
        journal: the file to resume from and to append to; without it nothing is kept.
        export_to: a .csv or .parquet file that gets all ratings of the journal when the last image is done.
        references: where the reference images come from. It goes into the header of the journal, since ratings
            against other reference images are not the same ratings.

    Raises UserError as `Journal` and `export` do.
    """
    header = rater.settings()
    if references is not None:
        header = {**header, "reference": str(references)}
    opened = nullcontext() if journal is None else Journal(journal, header)
    with opened as store, progress_bar(console) as bar:
        done: dict[str, Rating] = {}
        if store is not None:
            done = {name: rating for name, rating in store.ratings.items() if rating.answered}
        todo = [image for image in images if name_of(image) not in done]
        if len(todo) < len(images):
            there = len(images) - len(todo)
            console.print(f"{there} of {len(images)} images are in {journal} already")
        fresh = tracked(bar, rater.rate(todo), "scoring", len(todo))
        for image in images:
            name = name_of(image)
            if name in done:
                yield done[name]
                continue
            rating = next(fresh)
            if store is not None:
                # Before it is yielded, so that nothing the caller has seen can be lost.
                store.append(rating)
            yield rating
    if store is not None and export_to is not None:
        export(store.ratings.values(), export_to)
