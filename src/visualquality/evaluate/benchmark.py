"""Runs a suite: every method on every data set, with scores cached by image content, and their agreement with MOS."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash
from rich.console import Console
from rich.progress import Progress

from ..data.images import image_digest, open_image
from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from ..score.journal import Journal
from ..score.rating import Rater, Rating
from .agreement import RESAMPLES, Agreement, agreement
from .matching import evaluate_scores, rows_of
from .paper import paper_tables
from .suite import DataSet, Method, Suite

# The digest of the pixels of each image file, or why it cannot be opened.
Digests = dict[Path, str | UserError]


@dataclass(frozen=True)
class Column:
    """A data set as it was measured: `n` images; `column` is its column in the paper's tables, or None."""

    name: str
    group: str
    column: str | None
    n: int


@dataclass(frozen=True)
class Measured:
    """A method on a data set: its agreement, or None where `problem` says why.

    With an agreement, `problem` says why the first of the images left out has no score, or is None.
    """

    agreement: Agreement | None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        found = None if self.agreement is None else self.agreement.to_dict()
        return {"agreement": found, "problem": self.problem}


@dataclass(frozen=True)
class Result:
    """A method: what made its scores, and a `Measured` for each data set by name; none where it is unavailable.

    `problem` says why a method is unavailable; it is None for the others.
    """

    name: str
    group: str
    settings: dict[str, Any]
    measured: dict[str, Measured]
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "name": self.name,
            "group": self.group,
            "settings": self.settings,
            "problem": self.problem,
            "measured": {name: cell.to_dict() for name, cell in self.measured.items()},
        }


@dataclass(frozen=True)
class Results:
    """A finished benchmark. `plcc` (raw or logistic) is what is shown; `paper` names the published rows to show."""

    title: str
    plcc: str
    columns: tuple[Column, ...]
    methods: tuple[Result, ...]
    paper: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """A sentence for each method that is unavailable, and for each data set that one could not be measured on."""
        methods, cells = [], []
        for result in self.methods:
            if result.problem is not None:
                methods.append(f"{result.name}: {result.problem}")
            for name, measured in result.measured.items():
                if measured.agreement is None:
                    cells.append(f"{result.name} on {name}: {measured.problem}")
        return methods + cells

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: NaN becomes None. Published numbers are under "paper", apart from the measured ones."""
        return {
            "title": self.title,
            "plcc": self.plcc,
            "datasets": [vars(column) for column in self.columns],
            "methods": [result.to_dict() for result in self.methods],
            "paper": {method: _published_dict(method) for method in self.paper},
        }


def _published_dict(method: str) -> dict[str, dict[str, float]]:
    names = [column.name for column in paper_tables().columns]
    return {
        coefficient: dict(zip([*names, "Avg"], map(float, [*row.cells, row.average]), strict=True))
        for coefficient, row in paper_tables().published(method).items()
    }


class ScoreCache:
    """The scores of one rater: `with ScoreCache(folder, rater) as cache`, then `rate` what is not in `scores`.

    It is a journal of results in `folder`, whose images are named by the digest of their pixels: the same photo under
    another name is the same image, while another seed, prompt or weights has another file. A run that was stopped
    continues. An image without a score is not kept, so it is tried again. Raises UserError where another run holds the
    file.
    """

    def __init__(self, folder: Path, rater: Rater) -> None:
        settings = rater.settings()
        self._rater = rater
        self._journal = Journal(_cache_file(folder, settings), settings)
        self.scores: dict[str, float] = {}  # by digest

    def __enter__(self) -> "ScoreCache":
        self._journal.__enter__()
        for rating in self._journal.ratings.values():
            if rating.score is not None:
                self.scores[rating.image] = rating.score
        return self

    def rate(self, images: Mapping[str, Path]) -> Iterator[Rating]:
        """Rate those of `images` (digest -> a file of that content) that have no score yet; yields their ratings."""
        todo = {digest: str(path) for digest, path in images.items() if digest not in self.scores}
        for digest, rating in zip(todo, self._rater.rate(todo.values()), strict=True):
            if rating.score is not None:
                # Under its digest, not its name: what is kept is of the content.
                self._journal.append(replace(rating, image=digest))
                self.scores[digest] = rating.score
            yield rating

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._journal.__exit__(kind, value, trace)


def _cache_file(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The file in `folder` for scores made with `settings` (model, weights, prompt, mode, seed, …): one for each."""
    # Sorted, since two dicts with the same content may differ in order.
    canonical = json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(str(settings["model"])).name).strip("-.")
    return folder / f"{name[:60]}-{xxhash.xxh3_64(canonical.encode()).hexdigest()}.jsonl"


def run(suite: Suite, make: Callable[[Method], Rater], *, cache: Path, console: Console) -> Results:
    """Every method of `suite` on every data set, one method at a time.

    make: gives the rater of a method that has a model. Where it raises UserError (weights or a package that cannot be
    had), the method's row holds that sentence and the others go on.
    cache: the folder of scores, from which an interrupted run, or another suite, continues.

    Raises UserError for a manifest that cannot be read, or that holds more than one data set.
    """
    sets: dict[Column, list[Row]] = {}
    for data in suite.datasets:
        rows = _rows(data)
        # The size of what is measured, not of the manifest: a suite may take one split of it.
        sets[Column(data.name, data.group, data.column, len(rows))] = rows
    with progress_bar(console) as bar:
        # The pixels of all images are read once, whatever the number of methods. Files of scores need none.
        digests: Digests = {}
        if any(method.model is not None for method in suite.methods):
            images = list(dict.fromkeys(row.image for rows in sets.values() for row in rows))
            found = tracked(bar, map_ahead(_digest, images), "reading images", len(images))
            digests = dict(zip(images, found, strict=True))
        bench = _Bench(sets, digests, cache, console, bar)
        methods = [
            bench.from_file(method, method.scores)
            if method.scores is not None
            else bench.from_rater(method, make)
            for method in suite.methods
        ]
    return Results(suite.title, suite.plcc, tuple(sets), tuple(methods), suite.published)


def _rows(data: DataSet) -> list[Row]:
    groups = rows_of(Manifest.read(data.manifest), data.split)
    if len(groups) > 1:
        raise UserError(
            f"{data.manifest} holds {len(groups)} data sets ({', '.join(groups)}), and scales are never mixed: "
            f"give {data.name} a manifest of one"
        )
    (rows,) = groups.values()
    return rows


def _digest(image: Path) -> str | UserError:
    try:
        return image_digest(open_image(image))
    except UserError as error:
        return error


@dataclass(frozen=True)
class _Bench:
    """What is the same for every method: the data sets, the content of their images, and where scores are kept."""

    sets: Mapping[Column, Sequence[Row]]
    digests: Digests
    cache: Path
    console: Console
    bar: Progress

    def from_file(self, method: Method, scores: Path) -> Result:
        """A row from a file of scores; a data set that it does not wholly cover is a problem of that cell."""
        measured = {}
        for column, rows in self.sets.items():
            try:
                (found,) = evaluate_scores(
                    scores, Manifest(tuple(rows)), bootstrap=RESAMPLES
                ).values()
                problem = f"empty in {scores.name}" if found.n_unreadable else None
                measured[column.name] = Measured(found, problem)
            except UserError as error:
                measured[column.name] = Measured(None, str(error))
        return Result(method.name, method.group, {"scores": scores.name}, measured)

    def from_rater(self, method: Method, make: Callable[[Method], Rater]) -> Result:
        """A row from a rater, which is freed with its memory when this returns."""
        # No total: how long weights take to load is not known.
        loading = self.bar.add_task(f"loading {method.name}", total=None, note="")
        try:
            rater = make(method)
        except UserError as error:
            return Result(method.name, method.group, {}, {}, str(error))
        finally:
            self.bar.remove_task(loading)
        measured = {}
        with ScoreCache(self.cache, rater) as cache:
            for column, rows in self.sets.items():
                what = f"{method.name} · {column.name}"
                try:
                    measured[column.name] = self._measure(what, cache, rows)
                except UserError as error:
                    # For example a server that is gone. What was scored before is in the cache.
                    measured[column.name] = Measured(None, str(error))
        return Result(method.name, method.group, rater.settings(), measured)

    def _measure(self, what: str, cache: ScoreCache, rows: Sequence[Row]) -> Measured:
        problems: list[str] = []
        images: dict[str, Path] = {}
        for row in rows:
            digest = self.digests[row.image]
            if isinstance(digest, UserError):
                # Results may be published: they name files, but no folders of this machine.
                problems.append(str(digest).replace(str(row.image), row.image.name))
            else:
                # The same pixels under two names are scored once.
                images.setdefault(digest, row.image)
        todo = len(images.keys() - cache.scores.keys())
        for rating in tracked(self.bar, cache.rate(images), what, todo):
            if rating.problem is not None:
                problems.append(f"{Path(rating.image).name}: {rating.problem}")
        message = f"{what}: {len(rows)} images, {todo} scored now"
        self.console.print(message, markup=False, highlight=False)
        # An image that cannot be opened has an error for a digest, which is in no cache: no score.
        scores = [cache.scores.get(str(self.digests[row.image])) for row in rows]
        found = agreement(scores, [row.mos for row in rows], bootstrap=RESAMPLES)
        return Measured(found, problems[0] if problems else None)
