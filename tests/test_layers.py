"""Imports run one way: from benchmarks/ to recipes/, and inside the package from later rooms to earlier ones."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "visualquality"

# A room (a folder or a file of the package) imports only from itself and from rooms of a lower rank.
RANKS = {
    "errors": 0,
    "seeds": 0,
    "terminal": 0,
    "parsing": 0,
    "io": 1,
    "process": 1,
    "rl2r": 1,
    "response": 1,
    "coefficients": 1,
    "data": 2,
    "models": 3,
    "classics": 3,
    "score": 4,
    "train": 5,
    "evaluate": 6,
    "metrics": 7,
    "cli": 8,
    "__main__": 9,
}


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of each import, also inside functions; `from a import b` gives "a.b".

    What stands under `if TYPE_CHECKING:` is left out: it is never executed.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            yield from ((node.level, prefix + alias.name) for alias in node.names)
        else:
            yield from imported_modules(node)


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a file of it imports."""
    rooms = set()
    parents = path.relative_to(PACKAGE).parent.parts
    for level, name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        if level:
            # One dot is the file's own folder, each further one the folder above.
            parts = [*parents[: len(parents) - level + 1], *name.split(".")]
        elif name.startswith("visualquality."):
            parts = name.split(".")[1:]
        else:
            continue
        rooms.add(parts[0])
    return rooms


def test_rooms_import_only_from_lower_ones():
    against = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE)
        room = file.with_suffix("").parts[0]
        if room == "__init__":  # its imports are lazy: they only give the public names
            continue
        for other in imported_rooms(path) | {room}:
            assert other in RANKS, (
                f"{file}: the room {other!r} needs a rank in tests/test_layers.py"
            )
            if other != room and RANKS[other] >= RANKS[room]:
                against.add((file.as_posix(), other))

    assert not against, "\n".join(
        f"{file} imports {other}, which is not to the left of it: move what it needs to a lower room"
        for file, other in sorted(against)
    )


def test_recipes_never_import_benchmarks():
    names = {"benchmarks"} | {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    for path in sorted((ROOT / "recipes").rglob("*.py")):
        for level, name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            # A relative import stays in the recipe's own folder.
            assert level or name.split(".")[0] not in names, f"{path} imports {name}"


def test_imports_are_found_wherever_they_stand():
    source = """
import a
from ..b import c
if TYPE_CHECKING:
    import d
def f():
    from . import e
    if x:
        import g.h
"""
    found = set(imported_modules(ast.parse(source)))
    assert found == {(0, "a"), (2, "b.c"), (1, "e"), (0, "g.h")}


@pytest.mark.parametrize(
    "script", ["benchmarks/truth.py", "benchmarks/reliability.py", "recipes/nano/card.py"]
)
def test_scripts_find_their_modules_wherever_they_are_called(script, tmp_path):
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
