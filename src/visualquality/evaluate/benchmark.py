"""Runs a suite: every method on every data set, with scores cached by image content, and their agreement with MOS."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..data.images import image_digest, open_image
from ..data.manifest import Manifest, Row
from ..errors import UserError
from ..io import map_ahead, progress_bar, tracked
from ..score.journal import Journal, journal_of
from ..score.rating import Rater
from ..score.stamp import file_digest
from .agreement import RESAMPLES, Agreement, JsonReady, agreement, average
from .matching import evaluate_scores, rows_of
from .paper import paper_tables
from .rerun import changed_settings, check_datasets, dataset_digest, versions
from .suite import DataSet, Method, Record, Suite

# The digest of the pixels of each image file, or why it cannot be opened.
Digests = dict[Path, str | UserError]


@dataclass(frozen=True)
class Column:
    """A data set as it was measured: `n` images; `column` is its column in the paper's tables, or None.

    digest: of its pixels and MOS (`rerun.dataset_digest`).
    """

    name: str
    group: str
    column: str | None
    n: int
    digest: str = ""


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

    `problem` says why a method is unavailable; it is None for the others. `trained_on`, `published`: as in `Method`.
    """

    name: str
    group: str
    settings: dict[str, Any]
    problem: str | None = None
    measured: dict[str, Measured] = field(default_factory=dict)
    trained_on: str = ""
    published: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def average(self) -> Agreement | None:
        """Over the data sets; None unless each of them has an agreement."""
        found = [cell.agreement for cell in self.measured.values() if cell.agreement]
        return average(found) if found and len(found) == len(self.measured) else None


@dataclass(frozen=True)
class Results(JsonReady):
    """A finished benchmark. `plcc` (raw or logistic) is what is shown; `paper` names the published rows to show.

    versions: of Python, of packages and of this package's code.
    """

    title: str
    plcc: str
    datasets: tuple[Column, ...]
    methods: tuple[Result, ...]
    paper: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """A sentence for each method that is unavailable, and for each data set that one could not be measured on."""
        sentences = [f"{each.name}: {each.problem}" for each in self.methods if each.problem]
        for result in self.methods:
            for name, cell in result.measured.items():
                if cell.agreement is None:
                    sentences.append(f"{result.name} on {name}: {cell.problem}")
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: NaN becomes None. Published numbers are under "paper", apart from the measured ones."""
        # Here the paper's rows are only named; a file of results holds their numbers.
        published = {}
        for method in self.paper:
            rows = paper_tables().published(method)
            published[method] = {
                coefficient: {name: float(number) for name, number in row.cells.items()}
                | {"Avg": float(row.average)}
                for coefficient, row in rows.items()
            }
        return super().to_dict() | {"paper": published}


def run(suite: Suite, make: Callable[[Method], Rater], *, cache: Path, console: Console) -> Results:
    """Every method of `suite` on every data set, one method at a time.

    make: gives the rater of a method that has a model. Where it raises UserError (weights or a package that cannot be
    had), the method's row holds that sentence and the others go on.
    cache: the folder of scores, from which an interrupted run, or another suite, continues. Scores are kept by the
    content of the image: the same photo under another name is the same image, while another seed, prompt or weights
    has another file. An image without a score is not kept, so it is tried again.

    Raises UserError for a manifest that cannot be read, or that holds more than one data set, where another run holds a
    file of the cache, and where a data set is not the one of the suite's record.
    """
    rows_of_set: dict[str, tuple[Row, ...]] = {}
    # A method that allows fewer has these images' problem in their rows.
    most = max(method.max_image_pixels for method in suite.methods)
    for data in suite.datasets:
        rows_of_set[data.name] = _rows(data, most)
    with progress_bar(console) as bar:
        # The pixels of all images are read once, whatever the number of methods. Files of scores need none.
        digests: Digests = {}
        if any(method.model is not None for method in suite.methods):
            images = list(dict.fromkeys(row.image for rows in rows_of_set.values() for row in rows))
            reading = map_ahead(lambda image: _digest(image, most), images)
            found = tracked(bar, reading, "reading images", len(images))
            digests = dict(zip(images, found, strict=True))
        sets = {}
        for data in suite.datasets:
            rows = rows_of_set[data.name]
            # The size of what is measured, not of the manifest: a suite may take one split of it.
            digest = dataset_digest(rows, digests)
            sets[Column(data.name, data.group, data.column, len(rows), digest)] = rows
        if suite.record:
            check_datasets(suite.record, {column.name: column.digest for column in sets})
        methods = []
        for method in suite.methods:
            if method.scores is not None:
                result = _from_file(method, method.scores, sets, suite.record)
            else:
                result = _from_rater(method, make, sets, digests, cache, bar, suite.record)
            published = {
                name: {str(key): value for key, value in figures.items()}
                for name, figures in method.published.items()
            }
            methods.append(replace(result, trained_on=method.trained_on, published=published))
    return Results(
        suite.title, suite.plcc, tuple(sets), tuple(methods), suite.published, versions()
    )


def _rows(data: DataSet, max_image_pixels: int) -> tuple[Row, ...]:
    manifest = Manifest.read(data.manifest, max_image_pixels=max_image_pixels)
    rows = rows_of(manifest, data.split)
    names = dict.fromkeys(row.dataset for row in rows)
    if len(names) > 1:
        raise UserError(
            f"{data.manifest} holds {len(names)} data sets ({', '.join(names)}), and scales are never mixed: "
            f"give {data.name} a manifest of one"
        )
    return rows


def _digest(image: Path, max_image_pixels: int) -> str | UserError:
    try:
        return image_digest(open_image(image, max_image_pixels=max_image_pixels))
    except UserError as error:
        return error


def _each_set(
    sets: Mapping[Column, Sequence[Row]], measure: Callable[[str, Sequence[Row]], Measured]
) -> dict[str, Measured]:
    """`measure` of each data set, given its name and rows; an error is the problem of this data set alone."""
    measured = {}
    for column, rows in sets.items():
        try:
            measured[column.name] = measure(column.name, rows)
        except UserError as error:
            measured[column.name] = Measured(None, str(error))
    return measured


def _from_file(
    method: Method, scores: Path, sets: Mapping[Column, Sequence[Row]], record: Record | None
) -> Result:
    """A row from a file of scores, which must wholly cover a data set to be measured on it."""

    def measure(_: str, rows: Sequence[Row]) -> Measured:
        manifest = Manifest(tuple(rows))
        (found,) = evaluate_scores(scores, manifest, bootstrap=RESAMPLES).values()
        return Measured(found, f"empty in {scores.name}" if found.n_unreadable else None)

    digest = file_digest(str(scores))
    if digest is None:
        return Result(method.name, method.group, {}, f"{scores} cannot be read: give another file")
    settings = {"scores": scores.name, "digest": digest}
    if record and (problem := changed_settings(record, method.name, settings)):
        return Result(method.name, method.group, settings, problem)
    return Result(method.name, method.group, settings, measured=_each_set(sets, measure))


def _from_rater(
    method: Method,
    make: Callable[[Method], Rater],
    sets: Mapping[Column, Sequence[Row]],
    digests: Digests,
    cache: Path,
    bar: Progress,
    record: Record | None,
) -> Result:
    """A row from a rater, which is freed with its memory when this returns."""
    # No total: how long weights take to load is not known.
    loading = bar.add_task(f"loading {method.name}", total=None, note="")
    try:
        rater = make(method)
    except UserError as error:
        return Result(method.name, method.group, {}, str(error))
    finally:
        bar.remove_task(loading)
    # Scores do not depend on it, so that the cache outlives a new calibration.
    settings = {name: value for name, value in rater.settings().items() if name != "calibration"}
    if record and (problem := changed_settings(record, method.name, settings)):
        return Result(method.name, method.group, settings, problem)

    def measure(name: str, rows: Sequence[Row]) -> Measured:
        problems: list[str] = []
        todo: dict[str, str] = {}
        for row in rows:
            digest = digests[row.image]
            if isinstance(digest, UserError):
                # Results may be published: they name files, but no folders of this machine.
                problems.append(str(digest).replace(str(row.image), row.image.name))
            elif digest not in journal.ratings:
                # The same pixels under two names are scored once.
                todo.setdefault(digest, str(row.image))
        # Images of the cache are not shown to the rater again.
        what = f"{method.name} · {name}"
        ratings = tracked(bar, rater.rate(todo.values()), what, len(todo))
        for digest, rating in zip(todo, ratings, strict=True):
            if rating.problem is not None:
                problems.append(f"{Path(rating.image).name}: {rating.problem}")
            else:
                # At once, so that an interrupt or a server that goes away loses nothing.
                journal.append(rating.without_interval(image=digest))
        message = f"{what}: {len(rows)} images, {len(todo)} scored now"
        bar.console.print(message, markup=False, highlight=False)
        # An image that cannot be opened has an error for a digest, which is in no journal.
        found = [journal.ratings.get(str(digests[row.image])) for row in rows]
        scores = [rating.score if rating else None for rating in found]
        agreed = agreement(scores, [row.mos for row in rows], bootstrap=RESAMPLES)
        return Measured(agreed, problems[0] if problems else None)

    # Its images are named by the digest of their pixels.
    with Journal(journal_of(cache, settings), settings) as journal:
        return Result(method.name, method.group, settings, measured=_each_set(sets, measure))
