"""Runs a suite: every method on every data set, with scores cached by content, and the agreement of each with MOS."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..score.batch import progress_bar
from ..score.rating import Rater
from .agreement import Agreement, agreement
from .cache import ScoreCache, contents
from .matching import evaluate_scores, rows_of
from .paper import paper_tables
from .suite import DataSet, Method, Suite

Item = TypeVar("Item")

BOOTSTRAP = 1000  # resamples behind an interval


@dataclass(frozen=True)
class Column:
    """A data set as it was measured: `n` images; `column` is the paper's column that it stands for, or None."""

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
        rows = [
            f"{result.name}: {result.problem}"
            for result in self.methods
            if result.problem is not None
        ]
        cells = [
            f"{result.name} on {name}: {measured.problem}"
            for result in self.methods
            for name, measured in result.measured.items()
            if measured.agreement is None
        ]
        return rows + cells

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: NaN becomes None. Published numbers are under "paper", apart from the measured ones."""
        return {
            "title": self.title,
            "plcc": self.plcc,
            "datasets": [vars(column) for column in self.columns],
            "methods": [
                {
                    **{
                        key: getattr(result, key)
                        for key in ("name", "group", "settings", "problem")
                    },
                    "measured": {
                        name: _measured_dict(cell) for name, cell in result.measured.items()
                    },
                }
                for result in self.methods
            ],
            "paper": {method: _published_dict(method) for method in self.paper},
        }


def _measured_dict(cell: Measured) -> dict[str, Any]:
    return {
        "agreement": None if cell.agreement is None else cell.agreement.to_dict(),
        "problem": cell.problem,
    }


def _published_dict(method: str) -> dict[str, dict[str, float]]:
    names = [column.name for column in paper_tables().columns]
    return {
        coefficient: dict(zip([*names, "Avg"], map(float, [*row.cells, row.average]), strict=True))
        for coefficient, row in paper_tables().published(method).items()
    }


def run(suite: Suite, make: Callable[[Method], Rater], *, cache: Path, console: Console) -> Results:
    """Every method of `suite` on every data set, a method at a time.

    make: gives the rater of a method that has a model; where it raises UserError (weights or a package that cannot be
    had), the method's row holds that sentence and the others go on.
    cache: the folder of scores, which an interrupted run, or another suite, goes on from.

    Raises UserError for a manifest that cannot be read, or that holds more than one data set.
    """
    manifests = [_read(data) for data in suite.datasets]
    columns = tuple(
        Column(data.name, data.group, data.column, len(manifest))
        for data, manifest in zip(suite.datasets, manifests, strict=True)
    )
    with progress_bar(console) as progress:
        digests: dict[Path, str | UserError] = {}
        if any(method.model is not None for method in suite.methods):
            images = list(
                dict.fromkeys(row.image for manifest in manifests for row in manifest.rows)
            )
            digests = dict(
                zip(
                    images,
                    _watched(progress, "reading images", contents(images), len(images)),
                    strict=True,
                )
            )
        bench = _Bench(
            dict(zip(columns, manifests, strict=True)), digests, cache, console, progress
        )
        methods = tuple(
            bench.scores_of(m) if m.scores is not None else bench.rated(m, make)
            for m in suite.methods
        )
    return Results(suite.title, suite.plcc, columns, methods, suite.published)


def _read(data: DataSet) -> Manifest:
    manifest = Manifest.read(data.manifest)
    groups = rows_of(manifest, data.split)
    if len(groups) > 1:
        raise UserError(
            f"{data.manifest} holds {len(groups)} data sets ({', '.join(groups)}), and scales are never mixed: "
            f"give {data.name} a manifest of one"
        )
    return Manifest(tuple(row for rows in groups.values() for row in rows))


@dataclass(frozen=True)
class _Bench:
    """What is the same for every method."""

    manifests: dict[Column, Manifest]
    digests: dict[Path, str | UserError]
    cache: Path
    console: Console
    progress: Progress

    def scores_of(self, method: Method) -> Result:
        """A row from a file of scores; a data set that it does not wholly cover is a problem of that cell."""
        assert method.scores is not None
        measured = {}
        for column, manifest in self.manifests.items():
            try:
                (found,) = evaluate_scores(method.scores, manifest, bootstrap=BOOTSTRAP).values()
                left_out = f"empty in {method.scores.name}" if found.n_unreadable else None
                measured[column.name] = Measured(found, left_out)
            except UserError as error:
                measured[column.name] = Measured(None, str(error))
        return Result(method.name, method.group, {"scores": method.scores.name}, measured)

    def rated(self, method: Method, make: Callable[[Method], Rater]) -> Result:
        """A row from a rater, which is gone when this returns, and its memory with it."""
        loading = self.progress.add_task(f"loading {method.name}", total=None, rate="")
        try:
            rater = make(method)
        except UserError as error:
            return Result(method.name, method.group, {}, {}, str(error))
        finally:
            self.progress.remove_task(loading)
        measured = {}
        with ScoreCache(self.cache, rater) as scores:
            for column, manifest in self.manifests.items():
                try:
                    measured[column.name] = self._on(
                        f"{method.name} · {column.name}", scores, manifest.rows
                    )
                except (
                    UserError
                ) as error:  # a server that is gone; what was scored before is in the cache
                    measured[column.name] = Measured(None, str(error))
        return Result(method.name, method.group, rater.settings(), measured)

    def _on(self, what: str, scores: ScoreCache, rows: Sequence[Row]) -> Measured:
        problems: list[str] = []
        images: dict[str, Path] = {}
        for row in rows:
            found = self.digests[row.image]
            if isinstance(found, UserError):
                problems.append(
                    str(found).replace(str(row.image), row.image.name)
                )  # not where on whose disk
            else:
                images.setdefault(found, row.image)
        todo = len(images.keys() - scores.known.keys())
        for rating in _watched(self.progress, what, scores.rate(images), todo):
            if rating.problem is not None:
                problems.append(f"{Path(rating.image).name}: {rating.problem}")
        self.console.print(
            f"{what}: {len(rows)} images, {todo} scored now", markup=False, highlight=False
        )
        found_scores = [scores.known.get(str(self.digests[row.image])) for row in rows]
        result = agreement(found_scores, [row.mos for row in rows], bootstrap=BOOTSTRAP)
        return Measured(result, problems[0] if problems else None)


def _watched(progress: Progress, what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """`items` as they come, with a line of progress that shows their rate and the time left."""
    task = progress.add_task(what, total=total, rate="")
    try:
        for item in items:
            progress.advance(task)
            speed = progress.tasks[progress.task_ids.index(task)].speed
            progress.update(task, rate=f"{speed:.1f} images/s" if speed else "")
            yield item
    finally:
        progress.remove_task(task)
