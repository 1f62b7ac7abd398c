"""Differences between two folders of golden files, by part, file and key."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def compare(old: Path, new: Path, limit: int) -> int:
    """Print every difference, at most `limit` of a file, and return the exit status: 1 if there is any.

    Parts that one of the two folders lacks altogether are named and not compared.
    """
    parts = {folder: {path.name for path in folder.iterdir()} for folder in (old, new)}
    for part in sorted(parts[old] ^ parts[new]):
        print(f"part {part}: only in {old if part in parts[old] else new}, not compared")
    total = 0
    for part in sorted(parts[old] & parts[new]):
        count = 0
        names = sorted({_name(path, root) for root in (old, new) for path in _files(root / part)})
        for name in names:
            found = list(_differences(old / name, new / name, name))
            if found and not count:
                print(f"== {part}")
            count += len(found)
            for line in found[:limit]:
                print(f"{name}: {line}")
            if len(found) > limit:
                print(f"{name}: and {len(found) - limit} more")
        print(f"{part}: {len(names)} files, {count or 'no'} differences")
        total += count
    return int(total > 0)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _differences(old: Path, new: Path, name: str) -> Iterator[str]:
    if not old.is_file() or not new.is_file():
        yield f"only in the {'old' if old.is_file() else 'new'} folder"
        return
    before, after = old.read_bytes(), new.read_bytes()
    if before == after:
        return
    trees = [_parsed(content, name) for content in (before, after)]
    if None in trees:
        yield from _lines(before, after)
        return
    places: dict[str, list[str]] = {}
    for place, general, difference in _tree(*trees):
        places.setdefault(f"{general} {difference.split(':')[0]}", []).append(
            f"{place} {difference}"
        )
    for first, *more in places.values():
        yield first + (f"   (and so {len(more)} times more)" if more else "")
    if not places:
        yield "the bytes differ (spaces, or how a number is written), the content does not"


def _parsed(content: bytes, name: str) -> Any:
    """JSON, or a list of the objects of JSON Lines; None for what is neither."""
    try:
        if name.endswith(".json"):
            return json.loads(content)
        return [json.loads(line) for line in content.splitlines()]
    except ValueError:
        return None


def _lines(before: bytes, after: bytes) -> Iterator[str]:
    sides = [side.decode(errors="backslashreplace").splitlines() for side in (before, after)]
    if sides[0] == sides[1]:
        yield "line endings differ"
    for line in difflib.unified_diff(*sides, n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield line if len(line) <= 300 else f"{line[:300]} …"


def _tree(old: Any, new: Any, place: str = "", general: str = "") -> Iterator[tuple[str, str, str]]:
    """(place, place without numbers of lists, what differs) of two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = (f"{place}.{key}", f"{general}.{key}")
            if key not in old or key not in new:
                side, value = ("old", old[key]) if key in old else ("new", new[key])
                yield *inner, f"only in {side}: {_short(value)}"
            else:
                yield from _tree(old[key], new[key], *inner)
        if old.keys() == new.keys() and list(old) != list(new):
            yield place, general, f"order of keys: old {list(old)}, new {list(new)}"
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield place, general, f"length: old {len(old)}, new {len(new)}"
        for index, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from _tree(a, b, f"{place}[{index}]", f"{general}[]")
    elif type(old) is not type(new) or old != new:
        yield place, general, f"differs: old {_short(old)}, new {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} …"
