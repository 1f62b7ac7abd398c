"""What a file was when it was rated (size, time of its last change, digest), so that a later change is seen."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from ..errors import UserError
from ..io import size_and_time

# File systems keep times to within this, so that another change within it may leave the time as it was (FAT: 2 s).
FRESH_SECONDS = 2
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Stamp:
    """A file as it was.

    path: where it is; in a journal seen from the journal's folder. size: in bytes.
    mtime_ns: time of its last change, in nanoseconds; None where it had just changed, and could have changed once more
    within the same time. digest: 32 hex digits, xxh3_128 of its bytes; None where it changed while it was rated.
    """

    path: str
    size: int
    mtime_ns: int | None
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Any) -> "Stamp":
        """The inverse of `to_dict`. Raises UserError for anything else."""
        try:
            stamp = cls(**record)
        except TypeError as error:
            raise UserError(
                f"a file is described by path, size, mtime_ns and digest: {error}"
            ) from error
        if not isinstance(stamp.path, str):
            raise UserError(f"the path of a file is {stamp.path!r}: it must be a text")
        return stamp


Stamps = tuple[
    Stamp, ...
]  # of the files that a rating is of: the image and, if there is one, its reference


def look(path: str) -> Stamp | None:
    """The file as it is, without its digest; None where it cannot be looked at."""
    now = size_and_time(path)
    return None if now is None else Stamp(path, *now)


def stamped(before: Stamp) -> Stamp:
    """The stamp of a file that was rated after `before` was taken. Its bytes are read, mostly from memory by then."""
    return _with_digest(before, file_digest(before.path))


def unchanged(stamp: Stamp, path: str) -> Stamp | None:
    """The stamp of the file `path` if its content is that of `stamp`, else None.

    Where size and time are the same, so is the content, and the stamp is `stamp` itself; where only the time differs,
    the digest decides. A file that is gone counts as unchanged: nothing contradicts its rating.
    """
    now = look(path)
    if now is None or (now.size, now.mtime_ns) == (stamp.size, stamp.mtime_ns):
        return stamp
    if now.size != stamp.size or stamp.digest is None:
        return None
    digest = file_digest(path)
    return _with_digest(now, digest) if digest == stamp.digest else None


def _with_digest(before: Stamp, digest: str | None) -> Stamp:
    if look(before.path) != before:
        return before
    age = time.time_ns() - (before.mtime_ns or 0)
    fresh = age < FRESH_SECONDS * 10**9
    return replace(before, mtime_ns=None if fresh else before.mtime_ns, digest=digest)


def file_digest(path: str) -> str | None:
    """32 hex digits, xxh3_128 of a file's bytes; None where it cannot be read."""
    digest = xxhash.xxh3_128()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
