"""Before the first step: every image of every manifest is checked, and all that cannot be trained on are named at once.

One that is cut off, or that the model's processor refuses, would otherwise end a run when its turn comes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console
from torch import distributed as dist

from ..data.usable import SoundImages, cache_file, image_problems
from ..errors import UserError
from ..io import append_jsonl, read_jsonl, write_text
from ..models.limits import Refusal
from ..process import is_main
from ..terminal import shown
from .examples import Example, read_examples, read_probes, read_validation
from .recipe import Recipe

LISTED = 20  # faults in a message; a file has all
FAULTS = "faulty-images.txt"


@dataclass(frozen=True)
class Fault:
    """An image that cannot be trained on: the row that names it, and a sentence that names the file."""

    manifest: str
    row: int
    image: str
    problem: str

    def __str__(self) -> str:
        return f"{self.manifest}: row {self.row}, {self.problem}"


@dataclass(frozen=True)
class Usable:
    """What a recipe trains on. `left_out` are the faulty images, which are in none of the lists (`skip_bad`)."""

    examples: list[Example]
    probes: list[Example]
    validation: list[Example]
    left_out: list[Fault]


def usable_examples(
    recipe: Recipe,
    refusal: Refusal,
    *,
    console: Console,
    left_out_before: Sequence[Fault] | None = None,
) -> Usable:
    """The examples of a recipe, its probes and validation part, all images checked: decoded in full, and taken by the
    model.

    Several processes share the work. An image that was sound is remembered until its file changes, so that a second
    start is quick.

    refusal: why the model cannot take a width and height, or None. console: shows the progress.
    left_out_before: what the run left out when it began, for a run that goes on: the same is left out again, since
    the order of the run depends on it.

    Raises UserError that names all faulty images; with `skip_bad` only where no example is left, or where an image
    became faulty since the run began. Where they are many, the message has the first 20 and the file
    faulty-images.txt in the run's folder has all.
    """
    examples = read_examples(recipe)
    lists = [examples, read_probes(recipe), read_validation(recipe, examples)]
    left_out = list(left_out_before or ())
    lists = [_without(each, left_out) for each in lists]
    faults = _faults(list(chain(*lists)), refusal, console)
    if faults and left_out_before is not None:
        what = "became unusable since the run began: copy them again, or begin another run"
        raise _refused(recipe, faults, f"{_images(faults)} {what}")
    if faults and not recipe.skip_bad:
        total = sum(map(len, lists))
        what = "cannot be trained on: correct them, or leave them out with skip_bad: true"
        raise _refused(recipe, faults, f"{len(faults)} of {total} images {what}")
    left_out += faults
    examples, probes, validation = (_without(each, faults) for each in lists)
    if not examples:
        raise _refused(recipe, left_out, "no image is left to train on")
    if left_out and is_main():
        text = _listed(recipe, left_out, f"left out (skip_bad): {_images(left_out)}")
        console.print(shown(text, style="yellow"), soft_wrap=True)
    if recipe.validation is not None and not validation:
        raise _refused(recipe, left_out, "no image is left to validate with")
    return Usable(examples, probes, validation, left_out)


def _without(examples: Iterable[Example], faults: Sequence[Fault]) -> list[Example]:
    gone = {(fault.manifest, fault.row) for fault in faults}
    return [e for e in examples if (e.manifest, e.number) not in gone]


def _faults(examples: Sequence[Example], refusal: Refusal, console: Console) -> list[Fault]:
    """Of all examples, in their order; each process opens its share of the images."""
    images = list(dict.fromkeys(path for e in examples for path in e.images))
    several = dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    shown = console if rank == 0 else Console(quiet=True)
    with SoundImages(cache_file()) as memory:
        found = image_problems(images[rank::world], refusal=refusal, memory=memory, console=shown)
    parts: list[dict[Path, str]] = [found]
    if several:
        parts = [{} for _ in range(world)]
        dist.all_gather_object(parts, found)
    problems = {path: text for part in parts for path, text in part.items()}
    faults = []
    for e in examples:
        # A reference is named where it stands first; of an example one fault is enough.
        wrong = [path for path in e.images if path in problems]
        if wrong:
            faults.append(Fault(e.manifest, e.number, str(wrong[0]), problems[wrong[0]]))
    # An image may be an example and a probe.
    return list(dict.fromkeys(faults))


def _images(faults: Sequence[Fault]) -> str:
    return "1 image" if len(faults) == 1 else f"{len(faults)} images"


def _refused(recipe: Recipe, faults: Sequence[Fault], summary: str) -> UserError:
    if not is_main():
        return UserError(summary)  # the first process lists them
    return UserError(_listed(recipe, faults, summary))


def _listed(recipe: Recipe, faults: Sequence[Fault], summary: str) -> str:
    """The summary and the faults under it, a line each."""
    lines = [summary, *map(str, faults[:LISTED])]
    if len(faults) > LISTED:
        file = recipe.output / FAULTS
        write_text(file, "".join(f"{fault}\n" for fault in faults))
        lines.append(f"and {len(faults) - LISTED} more: {file} has all")
    return "\n  ".join(lines)


def write_left_out(metrics: Path, faults: Sequence[Fault]) -> None:
    """The first line of a run's `metrics.jsonl`, of step 0, where images are left out."""
    if faults:
        append_jsonl(metrics, {"step": 0, "left_out": [asdict(fault) for fault in faults]})


def read_left_out(metrics: Path) -> list[Fault]:
    """What `write_left_out` wrote; nothing where it wrote nothing. Raises UserError as `io.read_jsonl` does."""
    first = next(read_jsonl(metrics), None) if metrics.is_file() else None
    found = first.record.get("left_out", []) if first is not None else []
    return [Fault(**fault) for fault in found]
