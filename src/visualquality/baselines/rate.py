"""Rating many images with a function of one image, in threads: in order, and a bounded number at a time."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image

from ..data.images import open_image
from ..errors import UserError
from ..score.rating import Rating
from ..score.source import Picture, name_of

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
T = TypeVar("T")
U = TypeVar("U")


def map_in_threads(
    function: Callable[[T], U], items: Iterable[T], workers: int | None = None
) -> Iterator[U]:
    """`map` with up to `workers` threads (by default one a processor, 8 at most), in the order of `items`.

    `items` may be endless: no more than twice as many as there are threads are taken ahead. The functions here spend
    their time in NumPy, SciPy and decoders, which run beside one another.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def rate_each(
    score: Callable[[Image.Image], float],
    images: Iterable[Picture],
    *,
    model: str,
    workers: int | None,
) -> Iterator[Rating]:
    """A `Rating` of one sample for each image, in order; an image that cannot be opened has its problem in it."""
    made_by: dict[str, Any] = {"model": model, "mode": "direct", "seed": 0}

    def rate(source: Picture) -> Rating:
        started, name = time.perf_counter(), name_of(source)
        try:
            value = round(score(open_image(source)), 6)
        except UserError as error:
            return Rating.failed(name, str(error), **made_by)
        seconds = round(time.perf_counter() - started, 4)
        return Rating(name, value, None, (value,), None, None, **made_by, seconds=seconds)

    return map_in_threads(rate, images, workers)
