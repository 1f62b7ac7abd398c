"""Scoring many images with a journal: which of its ratings still hold, and the others made and appended."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..data.find import relative_path
from ..io import map_ahead, progress_bar, tracked
from .files import export
from .journal import Journal
from .rating import Rater, Rating
from .source import Referenced, name_of
from .stamp import Stamp, Stamps, look, stamped, unchanged

_NAMED = 3  # changed images that a message names


def score_all(
    rater: Rater,
    images: Sequence[str | Referenced],
    *,
    journal: Path | None = None,
    export_to: Path | None = None,
    references: Path | None = None,
    trust_names: bool = False,
    console: Console,
) -> Iterator[Rating]:
    """The rating of each image, in order: taken from `journal` if it is there, else made and appended to it.

    An image that nothing answered for, such as a broken file, is tried again. The run may be stopped at any point:
    what was yielded is in the journal.

    A file that changed under its name is another image: its rating is dropped, and made again if it is among `images`.
    Ratings of the journal get the intervals of the rater's calibration, if it has another one than they were made with.

    Args:
        journal: the file to resume from and to append to; without it nothing is kept.
        export_to: a .csv or .parquet file that gets all ratings of the journal when the last image is done.
        references: where the reference images come from. It goes into the header of the journal, since ratings
            against other reference images are not the same ratings.
        trust_names: take a file for the image that was rated by its name alone, without a look at it.

    Raises UserError as `Journal` and `export` do.
    """
    header = rater.settings()
    if references is not None:
        header = {**header, "reference": str(references)}
    opened = nullcontext() if journal is None else Journal(journal, header)
    with opened as store, progress_bar(console) as bar:
        done: dict[str, Rating] = {}
        if store is not None:
            if not trust_names:
                drop_changed(store, images, bar, console)
            renew_intervals(store, rater, console)
            done = {name: rating for name, rating in store.ratings.items() if rating.answered}
        todo = [image for image in images if name_of(image) not in done]
        if len(todo) < len(images):
            there = len(images) - len(todo)
            console.print(f"{there} of {len(images)} images are in {journal} already")
        looks: deque[list[Stamp | None]] = deque()
        asked_for = iter(todo) if store is None else _looked_at(todo, looks)
        fresh = tracked(bar, rater.rate(asked_for), "scoring", len(todo))
        for image in images:
            name = name_of(image)
            if name in done:
                yield done[name]
                continue
            rating = next(fresh)
            if store is not None:
                # Taken before the file was opened: what is changed from then on differs from it.
                before = looks.popleft()
                # Before it is yielded, so that nothing the caller has seen can be lost.
                store.append(rating, _stamps_of(store, before) if rating.answered else ())
            yield rating
    if store is not None and export_to is not None:
        export(store.ratings.values(), export_to)


def _files_of(source: str | Referenced) -> list[str]:
    if isinstance(source, Referenced):
        return [str(source.image), str(source.reference)]
    return [source]


def _looked_at(
    images: Iterable[str | Referenced], looks: "deque[list[Stamp | None]]"
) -> Iterator[str | Referenced]:
    """The images as they are asked for, each with a look at its files, which goes into `looks`."""
    for image in images:
        looks.append(list(map(look, _files_of(image))))
        yield image


def _stamps_of(store: Journal, looks: list[Stamp | None]) -> Stamps:
    """The stamps of files that were rated; none where one of them could not be looked at."""
    found = [each for each in looks if each is not None]
    return tuple(_in(store, stamped(each)) for each in found) if len(found) == len(looks) else ()


def _in(store: Journal, stamp: Stamp) -> Stamp:
    """The stamp with its path seen from the journal's folder: it is found from every folder, and tells of no other."""
    folder = os.path.abspath(store.path.parent)
    return replace(stamp, path=relative_path(os.path.abspath(stamp.path), folder))


def drop_changed(
    store: Journal, images: Sequence[str | Referenced], bar: Progress, console: Console
) -> None:
    """Drop the ratings of files that are no longer what was rated, and say which; record what is known anew."""
    wanted = {name_of(image): _files_of(image) for image in images}
    known = [name for name, stamps in store.stamps.items() if stamps]
    answered = [name for name, rating in store.ratings.items() if rating.answered]
    unknown = [name for name in answered if not store.stamps[name]]
    if unknown:
        console.print(
            f"{len(unknown)} of the images in {store.path} were scored by a version that did not record what their "
            "files were: they are taken by their names"
        )

    def compare(name: str) -> Stamps | None:
        found = []
        stamps = store.stamps[name]
        # What this run was not given is looked for where it was.
        paths = wanted.get(name) or [str(store.path.parent / stamp.path) for stamp in stamps]
        for stamp, path in zip(stamps, paths, strict=False):
            now = unchanged(stamp, path)
            if now is None:
                return None
            found.append(stamp if now is stamp else _in(store, now))
        return tuple(found)

    changed = []
    # In threads, since a disk may be slow; they are gone before workers are forked.
    compared = tracked(bar, map_ahead(compare, known), "comparing", len(known))
    for name, now in zip(known, compared, strict=True):
        if now is None:
            changed.append(name)
            store.drop(name)
        elif now != store.stamps[name]:
            # The same content at another time: it need not be read again in the next run.
            store.replace(store.ratings[name], now)
    again = [name for name in changed if name in wanted]
    gone = [name for name in changed if name not in wanted]
    for names, what in ((again, "scored again"), (gone, "without a score now")):
        if names:
            listed = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
            text = f"changed under their names since they were scored, and {what}: {len(names)} ({listed})"
            console.print(text, markup=False)


def renew_intervals(store: Journal, rater: Rater, console: Console) -> None:
    """Give all ratings the intervals of the rater's calibration, if it has one."""
    # An engine that cannot be calibrated has no such attribute.
    calibration = getattr(rater, "calibration", None)
    if calibration is None:
        return
    renewed = 0
    for rating in list(store.ratings.values()):
        with_interval = calibration.apply(rating)
        if with_interval != rating:
            store.replace(with_interval, store.stamps[rating.image])
            renewed += 1
    if renewed:
        console.print(
            f"{renewed} of the ratings in {store.path} are from before this calibration: they get its intervals"
        )
