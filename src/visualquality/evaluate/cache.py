"""Scores kept by the content of the image and the settings of what rated it, so that nothing is scored twice."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from ..data.images import image_digest, open_image
from ..errors import UserError
from ..io import map_ahead
from ..score.journal import Journal
from ..score.rating import Rater, Rating


def journal_of(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The file in `folder` for scores made with `settings` (model, weights, prompt, mode, seed, …): one for each."""
    canonical = json.dumps(dict(settings), sort_keys=True, allow_nan=False)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(str(settings["model"])).name).strip("-.")
    return folder / f"{name[:60]}-{xxhash.xxh3_64(canonical.encode()).hexdigest()}.jsonl"


def contents(images: Sequence[Path]) -> Iterator[str | UserError]:
    """For each file the digest of its pixels (32 hex digits), or the error that it cannot be opened with, in order."""

    def content(image: Path) -> str | UserError:
        try:
            return image_digest(open_image(image))
        except UserError as error:
            return error

    return map_ahead(content, images)


class ScoreCache:
    """The scores of one rater: `with ScoreCache(folder, rater) as cache`, then `rate` what is not in `known`.

    A journal of results (`Journal`) in `folder`, whose images are named by the digest of their pixels: the same
    photo under another name is the same image, and another seed, prompt or weights is another file. A run that was
    stopped goes on. An image without a score is not kept, so that it is tried again. Raises UserError where another
    run holds the file.
    """

    def __init__(self, folder: Path, rater: Rater) -> None:
        settings = rater.settings()
        self._rater = rater
        self._store = Journal(journal_of(folder, settings), settings)
        self.known: dict[str, float] = {}  # digest -> score

    def __enter__(self) -> "ScoreCache":
        self._store.__enter__()
        for rating in self._store.ratings.values():
            if rating.score is not None:
                self.known[rating.image] = rating.score
        return self

    def rate(self, images: Mapping[str, Path]) -> Iterator[Rating]:
        """Rates those of `images` (digest -> a file of that content) that are not known, and yields their ratings."""
        todo = {digest: str(path) for digest, path in images.items() if digest not in self.known}
        for digest, rating in zip(todo, self._rater.rate(todo.values()), strict=True):
            if rating.score is not None:
                self._store.append(replace(rating, image=digest))
                self.known[digest] = rating.score
            yield rating

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.__exit__(kind, value, trace)
