"""A finished benchmark as a file from which it runs again: the suite, and all that its numbers depend on.

`visualquality benchmark OUTPUT/rerun.yaml` measures the same again. Where the data or a model is no longer the same, it
says so in place of a number.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
import yaml

from ..data.find import relative_paths
from ..data.row import Row
from ..errors import UserError
from ..io import write_text
from .suite import Record, Suite

if TYPE_CHECKING:
    from .benchmark import Results

FILE = "rerun.yaml"
PACKAGES = ("visualquality", "torch", "transformers", "numpy", "scipy", "pillow", "pyiqa", "vllm")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that scores depend on, and a digest of this package's own code."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"code": _code_digest()}


def _code_digest() -> str:
    """32 hex digits of the package's Python files: a version alone stays the same while somebody works on them."""
    package = Path(__file__).parents[1]
    digest = xxhash.xxh3_128()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def dataset_digest(rows: Sequence[Row], contents: Mapping[Path, str | UserError]) -> str:
    """32 hex digits of a data set: of the pixels and the MOS of each row, in order.

    contents: the digest of each image's pixels. An image that was not read, or could not be, counts by its name.
    """
    digest = xxhash.xxh3_128()
    for row in rows:
        content = contents.get(row.image)
        what = content if isinstance(content, str) else row.image.name
        digest.update(f"{what} {row.mos!r}\n".encode())
    return digest.hexdigest()


def check_datasets(record: Record, now: Mapping[str, str]) -> None:
    """Raises UserError for data sets whose digest is no longer the recorded one."""
    changed = [name for name, digest in now.items() if record.datasets.get(name) != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: the images or the MOS are not those that were measured: bring them back, or "
            "measure anew with the suite itself"
        )


def changed_settings(record: Record, method: str, now: Mapping[str, Any]) -> str | None:
    """What differs from the recorded settings of a method, in one sentence, or None.

    The version of this package is no difference: `changed_versions` names it.
    """
    before = record.methods.get(method)
    if before is None:
        return "it is not in the record"
    # As the record holds them, in which a tuple is a list.
    now = json.loads(json.dumps(now))
    different = []
    for name in {**before, **now}:
        if name != "version" and before.get(name) != now.get(name):
            different.append(f"{name} was {before.get(name)} and is {now.get(name)}")
    return f"it is not what was measured: {', '.join(different)}" if different else None


def changed_versions(record: Record, now: Mapping[str, str]) -> list[str]:
    """A few words for each version that differs from the recorded one."""
    return [
        f"{name} was {record.versions.get(name, 'not there')} and is {now.get(name, 'not there')}"
        for name in {**record.versions, **now}
        if record.versions.get(name) != now.get(name)
    ]


def write_rerun(
    results: "Results", suite: Suite, folder: Path, defaults: Mapping[str, Any]
) -> None:
    """Write `FILE` into `folder`: the suite with all of its options, and what it was measured with.

    defaults: the options of the command line, which stand where a method has none of its own. Paths are relative to
    `folder`, so that it can be moved together with its data.
    """
    tree: dict[str, Any] = {
        "title": suite.title,
        "plcc": suite.plcc,
        "paper": list(suite.published),
    }
    tree["methods"] = [_method(method, folder, defaults) for method in suite.methods]
    tree["datasets"] = []
    for data in suite.datasets:
        kept = data.model_dump(mode="json", exclude_none=True)
        tree["datasets"].append(kept | {"manifest": _relative(data.manifest, folder)})
    tree["record"] = Record(
        versions=results.versions,
        datasets={column.name: column.digest for column in results.datasets},
        methods={result.name: result.settings for result in results.methods if not result.problem},
    ).model_dump(mode="json")
    command = f"visualquality benchmark {FILE}"
    header = f"# Written by visualquality benchmark. It runs again from here with: {command}\n"
    write_text(folder / FILE, header + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _method(method: Any, folder: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = method.model_dump(mode="json", exclude_unset=True)
    if method.scores is not None:
        return kept | {"scores": _relative(method.scores, folder)}
    options = {name: value for name, value in defaults.items() if value is not None}
    # An engine has a batch size and a device of its own.
    kept = (options if method.engine == "here" else {}) | kept
    kind, colon, parameters = str(method.model).partition(":")
    if kind in ("niqe", "brisque") and colon:
        return kept | {"model": f"{kind}:{_relative(Path(parameters), folder)}"}
    model = Path(str(method.model))
    return kept | {"model": _relative(model, folder) if model.is_dir() else str(method.model)}


def _relative(path: Path, folder: Path) -> str:
    (name,) = relative_paths([path], folder)
    return name
