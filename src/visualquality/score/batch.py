"""Scoring many images: with progress, and so that it can be stopped and gone on with."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .rating import Rater, Rating
from .source import Referenced, name_of
from .store import ResultStore, read_ratings


def score_all(
    scorer: Rater,
    images: Sequence[str | Referenced],
    *,
    journal: Path | None = None,
    references: Path | None = None,
    console: Console,
) -> Iterator[Rating]:
    """A rating for each path, in order; those in `journal` already are read from it, the others scored and appended.

    `references`: where those of `images` come from, for the journal's header: ratings against others are not theirs.
    What could not be read before is tried again. Stop it at any point: what was yielded is in the journal.
    """
    header = scorer.settings() | ({} if references is None else {"reference": str(references)})
    store = nullcontext() if journal is None else ResultStore(journal, header)
    with store as opened, progress_bar(console) as progress:
        wanted = set(map(name_of, images))
        before = (
            {}
            if journal is None
            else {r.image: r for r in read_ratings(journal) if r.asked and r.image in wanted}
        )
        todo = [image for image in images if name_of(image) not in before]
        if before:
            console.print(f"{len(before)} of {len(images)} images are in {journal} already")
        task = progress.add_task("scoring", total=len(todo), rate="")
        fresh = scorer.rate(todo)
        for image in images:
            if name_of(image) in before:
                yield before[name_of(image)]
                continue
            rating = next(fresh)
            if opened is not None:
                opened.append(rating)
            progress.advance(task)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.1f} images/s" if speed else "")
            yield rating


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
