"""Files and long work, each done in one way: whole files, JSON Lines, strict YAML, progress, bounded threads.

lock_file      one process at a time, also on Windows
size_and_time  what changes with a file
user_folder    where programs keep things of a user
write_whole    a file that is there whole or not at all
read_jsonl     the objects of a JSON Lines file, with one rule for a line that a kill tore
read_yaml      the mapping in a YAML file, and `validated` to make typed settings of it
progress_bar   one bar for all commands, and `tracked` to move it
map_ahead      `map` in threads, in order, a bounded number of items ahead
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .errors import UserError, first_line, shortened
from .parsing import MAX_YAML, parse_json, parse_yaml

T = TypeVar("T")
U = TypeVar("U")
Model = TypeVar("Model", bound=BaseModel)

_LISTED_FAULTS = 20  # of a file of settings


# Locks

# Windows locks bytes, and nobody else may then read them: this one lies behind all that is in a file of results.
_LOCKED_BYTE = 2**31 - 2


def lock_file(fd: int) -> None:
    """Lock the open file `fd` for this process, until `unlock_file` or the end of the process.

    Raises BlockingIOError where another process holds it, another OSError where its file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(error.errno, "another process holds the lock") from error


def unlock_file(fd: int) -> None:
    """The inverse of `lock_file`."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)
        return
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)


# Places and states of files


def size_and_time(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """A file's bytes, and the time of its last change in nanoseconds; None where it cannot be looked at."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None
    return status.st_size, status.st_mtime_ns


def user_folder(variable: str, below_home: str) -> Path:
    """This package's folder for a kind of the user's files; it need not exist.

    It is in $`variable` (XDG Base Directory Specification), where that is an absolute path, else in %LOCALAPPDATA% on
    Windows, else in `below_home` of the home folder. Raises RuntimeError where there is no home.
    """
    for name in (variable, "LOCALAPPDATA"):
        given = os.environ.get(name, "")
        # The specification says to ignore a relative path.
        if os.path.isabs(given):
            return Path(given) / "visualquality"
    return Path.home() / below_home / "visualquality"


# Whole files


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends without an error; its folder is made.

    Whoever reads `path` meanwhile sees the old file or the whole new one, also after a power cut.
    Raises UserError where the file cannot be written (no permission, a full disk).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        # Without this a power cut could leave the new name on an empty file.
        # For writing, too: Windows syncs no file that is open to read.
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): give another name or make room"
        ) from error
    finally:
        # Where the name cannot be written, it often cannot be removed either; the first error is the one to see.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all (`write_whole`).

    Half a character, as a response that was cut off or an odd file name may hold, becomes a question mark.
    """
    with write_whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def expand(path: Path) -> Path:
    """The path with `~` at its start as the home folder. Raises UserError where nobody has such a home folder."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder, give the whole path") from error


# JSON Lines


class JsonLine(NamedTuple):
    """A line of a JSON Lines file: its number (from 1), its object, its bytes, and the offset where it ends."""

    number: int
    record: dict[str, Any]
    raw: bytes
    end: int


def read_jsonl(path: Path) -> Iterator[JsonLine]:
    """The objects of a JSON Lines file in order; blank lines are skipped.

    A last line without its newline that is not a JSON object was torn by a kill, and is left out. Raises UserError,
    with file and line, for any other line that is not an object, and where the file cannot be read.
    """
    end = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                end += len(line)
                if not line.strip():  # such lines come from editing by hand
                    continue
                record = _json_object(line)
                if record is not None:
                    yield JsonLine(number, record, line, end)
                elif line.endswith(b"\n"):
                    raise UserError(f"{path}, line {number}: not a JSON object; remove that line")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a JSON Lines file that exists"
        ) from error


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        found = parse_json(line)
    except ValueError:  # of JSON and of UTF-8
        return None
    return found if isinstance(found, dict) else None


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one object as one line. For logs: a journal of results, which is locked, writes its own.

    Raises UserError where the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            # ASCII only: a file name may hold bytes that are no UTF-8, and would stop the run.
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room, and continue"
        ) from error


def filter_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the objects that `keep` refuses, and a torn last line; without the file, nothing is done."""
    if path.is_file():
        kept = [line.raw.removesuffix(b"\n") for line in read_jsonl(path) if keep(line.record)]
        with write_whole(path) as part:
            part.write_bytes(b"".join(raw + b"\n" for raw in kept))


# Strict YAML


class Settings(BaseModel):
    """Typed settings that refuse unknown keys and numbers that are not finite, and cannot be changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; `what` names it in errors, such as "recipe". Raises UserError."""
    try:
        with path.open(encoding="utf-8") as file:
            # No more than it may have: a device such as /dev/zero never ends.
            tree = parse_yaml(file.read(MAX_YAML + 1))
    except FileNotFoundError as error:
        raise UserError(f"no {what} {path}: give a YAML file that exists") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read ({reason}): give a YAML file") from error
    except ValueError as error:  # of YAML and of UTF-8
        raise UserError(f"{path} is not a YAML file: {first_line(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(
            f"{path} is empty or not a mapping: a {what} has lines of the form `key: value`"
        )
    return tree


def validated(model: type[Model], tree: dict[str, Any], path: Path, what: str) -> Model:
    """`tree` as `model`. Raises one UserError that names the file and each wrong field."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        # Of pydantic's own words, these two puzzle whoever has not met it.
        plain = {"extra_forbidden": "there is no such field", "missing": "this field is missing"}
        faults = []
        for e in error.errors():
            where = ".".join(map(str, e["loc"])) or what
            # Pydantic writes this before the sentence of a check of our own.
            said = e["msg"].removeprefix("Value error, ")
            faults.append(f"{shortened(where)}: {plain.get(e['type'], said)}")
        if len(faults) > _LISTED_FAULTS:
            faults[_LISTED_FAULTS:] = [f"and {len(faults) - _LISTED_FAULTS} more faults"]
        raise UserError(f"{path}: {'; '.join(faults)}") from error


# Progress


def progress_bar(console: Console, *, transient: bool = True) -> Progress:
    """A bar with count, rate and the time left; nothing where `console` is not a terminal.

    `transient`: it is wiped when it ends. A task needs the field `note`, the text after its count.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),  # the name of a method may hold brackets
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )


def tracked(
    bar: Progress, items: Iterable[T], what: str, total: int, unit: str = "images"
) -> Iterator[T]:
    """`items` as they come, under a line of `bar` that shows how many of `total` are done and their rate."""
    task = bar.add_task(what, total=total, note="")  # the columns of `progress_bar` need a note
    try:
        for item in items:
            bar.advance(task)
            # Of the last seconds; rich knows none before the second item.
            speed = bar.tasks[bar.task_ids.index(task)].speed
            bar.update(task, note=f"{speed:.1f} {unit}/s" if speed else "")
            yield item
    finally:
        # Also where the consumer stops early: the next task takes this line.
        bar.remove_task(task)


# Threads


def map_ahead(
    function: Callable[[T], U],
    items: Iterable[T],
    workers: int | None = None,
    pool: Executor | None = None,
) -> Iterator[U]:
    """`map` in threads (by default one a processor, 8 at most), in the order of `items`, which may be endless.

    No more than twice as many items as threads are taken ahead of the consumer, so that memory stays bounded.
    For work that leaves the interpreter free, such as decoders, NumPy and waiting for disks; else give a `pool` of
    processes with this number of workers, which is shut down at the end.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    pool = pool or ThreadPoolExecutor(workers)
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After Ctrl-C, only what is under way is waited for.
        pool.shutdown(cancel_futures=True)
