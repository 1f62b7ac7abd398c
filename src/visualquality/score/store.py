"""Results on disk: an append-only journal that an interrupted run continues, and its exports.

The journal is JSON Lines. Its first line, {"header": {...}}, names what made the results (model, weights
hash, prompt, mode, samples, seed, version); each further line is one `Rating`. A run that writes `out.csv`
or `out.parquet` keeps its journal beside it, as `out.csv.jsonl`, and exports when it is finished.
"""

import csv
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visualquality.errors import UserError
from visualquality.score.rating import Rating
from visualquality.score.scores import parse_line, read_scores

__all__ = ["ResultStore", "export", "journal_path", "read_ratings", "read_scores"]

# What a power cut may cost. A killed process loses nothing, since each row goes to the kernel at once.
SYNC_SECONDS = 1.0

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("score", pa.float64()),
        ("std", pa.float64()),
        ("samples", pa.list_(pa.float64())),
        ("reasoning", pa.string()),
        ("problem", pa.string()),
        ("model", pa.string()),
        ("mode", pa.string()),
        ("seed", pa.int64()),
        ("seconds", pa.float64()),
        ("prompt", pa.string()),
    ]
)


def journal_path(output: Path) -> Path:
    """Where the journal of `-o output` lies: `output` itself if it is .jsonl, else `output` + ".jsonl".

    Raises `UserError` for any other ending than .jsonl, .csv, .parquet.
    """
    if output.suffix == ".jsonl":
        return output
    if output.suffix in (".csv", ".parquet"):
        return output.with_name(output.name + ".jsonl")
    raise UserError(f"{output} must end in .jsonl, .csv or .parquet; give -o such a name")


class ResultStore:
    """The journal of one run: `with ResultStore(path, header) as store`, then `append` what is not in `done`.

    On entering, a new file gets the header; an existing one must have the same. Its images are in `done`, those without
    a score too, but not those that nothing was asked about, such as broken files. A last line torn by a kill is cut
    off, so that its image is scored again. One process at a time may hold a journal. Raises `UserError` for another
    header, a locked file, or one that is not a journal, and leaves that file as it was.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.done: set[str] = set()
        self._line = (json.dumps({"header": header}, allow_nan=False) + "\n").encode()
        self._fd = -1
        self._size = 0  # bytes of whole lines
        self._synced = 0.0

    def __enter__(self) -> "ResultStore":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
        except OSError as fault:
            raise UserError(
                f"{self.path} cannot be opened for results: {fault.strerror}; give another -o"
            ) from fault
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
        except BlockingIOError as fault:
            raise UserError(
                f"another run is writing {self.path}; wait for its end or give another -o"
            ) from fault
        except OSError as fault:
            raise UserError(
                f"{self.path} cannot be locked ({fault.strerror}); give -o a file on a local disk"
            ) from fault

    def _load(self) -> None:
        with open(self.path, "rb") as file:
            first = file.readline()
            if (
                self._line.startswith(first) and first != self._line
            ):  # new, or killed in the middle of the header
                os.ftruncate(self._fd, 0)
                self._write(self._line)
                self._sync()
                return
            self._check(_read_header(self.path, first))
            self._size = len(first)
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n"):
                    break
                rating = _read_rating(self.path, number, line)
                if rating.image in self.done:
                    raise UserError(
                        f"{self.path}, line {number}: {rating.image} is there a second time; remove one of the two"
                    )
                if rating.asked:
                    self.done.add(rating.image)
                self._size += len(line)
        os.ftruncate(self._fd, self._size)

    def _check(self, old: dict[str, Any]) -> None:
        new = json.loads(self._line)["header"]
        for field in [*new, *old]:
            if field not in old or field not in new or old[field] != new[field]:
                was, now = (repr(side[field]) if field in side else "none" for side in (old, new))
                raise UserError(
                    f"{self.path} was written with {field} {was} and this run has {now}; "
                    "give another -o or the same settings"
                )

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except (
            BaseException
        ) as fault:  # a full disk or an interrupt must not leave half a line for others to follow
            os.ftruncate(self._fd, self._size)
            if isinstance(fault, OSError):
                raise UserError(
                    f"{self.path} cannot be written: {fault.strerror}; mend that and run again"
                ) from fault
            raise
        self._size += len(line)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced = time.monotonic()

    def append(self, rating: Rating) -> None:
        """Writes one line, and has the disk confirm it at most every second.

        Raises `ValueError` for an image already there, `UserError` where the disk is full; the file is then
        unchanged.
        """
        if rating.image in self.done:
            raise ValueError(f"{rating.image} is already in {self.path}")
        self._write((json.dumps(rating.to_dict(), allow_nan=False) + "\n").encode())
        if rating.asked:
            self.done.add(rating.image)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._sync()
        finally:
            fcntl.flock(
                self._fd, fcntl.LOCK_UN
            )  # by name, since a forked worker may hold a copy of the descriptor
            os.close(self._fd)


def _read_header(path: Path, line: bytes) -> dict[str, Any]:
    header = None
    with suppress(UserError):
        header = parse_line(path, 1, line).get("header")
    if not isinstance(header, dict):
        raise UserError(f"{path} is there already and is no journal of results; give another -o")
    return header


def _read_rating(path: Path, number: int, line: bytes) -> Rating:
    try:
        return Rating.from_dict(parse_line(path, number, line))
    except UserError as fault:
        raise UserError(f"{path}, line {number}: {fault}") from fault


def read_ratings(path: Path) -> Iterator[Rating]:
    """The ratings of a journal, an image each, in the order of their last lines; a torn last line is no rating.

    An image that was tried again has several lines, of which the last counts. Raises `UserError`.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a journal of results that exists")
    last = {rating.image: number for number, rating in _lines(path)}
    yield from (rating for number, rating in _lines(path) if last[rating.image] == number)


def _lines(path: Path) -> Iterator[tuple[int, Rating]]:
    with open(path, "rb") as file:
        _read_header(path, file.readline())
        for number, line in enumerate(file, start=2):
            if line.endswith(b"\n"):
                yield number, _read_rating(path, number, line)


def export(journal: Path, output: Path) -> None:
    """Writes the ratings of `journal` to `output` (.csv or .parquet), all of them or nothing.

    Columns are those of `Rating`. What is None is an empty cell (CSV) or null (Parquet); `samples` is a JSON
    list in CSV. Raises `UserError` for another ending, or for an image name that Parquet cannot hold.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(
            f"results are exported to .csv or .parquet, not to {output}; give another name"
        )
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        (_write_csv if output.suffix == ".csv" else _write_parquet)(read_ratings(journal), part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)


def _write_csv(ratings: Iterator[Rating], path: Path) -> None:
    # surrogateescape gives file names that are not UTF-8 back byte for byte
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # Lines end in CR LF (RFC 4180), without which the writer leaves a lone CR in a cell unquoted.
        writer = csv.DictWriter(file, SCHEMA.names)
        writer.writeheader()
        for rating in ratings:
            writer.writerow({**rating.to_dict(), "samples": json.dumps(rating.samples)})


def _write_parquet(ratings: Iterator[Rating], path: Path) -> None:
    with pq.ParquetWriter(path, SCHEMA) as writer:
        while rows := [rating.to_dict() for rating in islice(ratings, 10_000)]:
            try:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            except UnicodeEncodeError as fault:
                raise UserError(
                    f"Parquet cannot hold {fault.object!r}, not UTF-8; rename it or use .csv"
                ) from fault
