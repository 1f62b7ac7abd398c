"""Opening and encoding images, in worker processes while the model works on those before."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError
from ..models.encode import Encoded, encode_prompt
from .expect import begun
from .source import Source, name_of, open_source

WORKERS = min(
    4, os.cpu_count() or 1
)  # they start where reading is slow: then the model waits for them
AHEAD = 2  # images a worker may be ahead of the model, so that memory stays flat
QUICK = 0.02  # seconds


@dataclass(frozen=True)
class Question:
    """What is asked; `opening` are the tokens that the answer is begun with, if any."""

    text: str
    system: str | None = None
    image_last: bool = False
    opening: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """An image as the model takes it: a prompt for each question, or the `problem` that there is with it."""

    name: str
    digest: str
    prompts: tuple[Encoded, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Preparation:
    """How images are prepared. A call prepares one; a file that is not an image is no exception.

    `reference`: every source is `Referenced`, and a prompt has two images.
    """

    processor: ProcessorMixin
    questions: tuple[Question, ...]
    reference: bool = False

    def __call__(self, source: Source) -> Prepared:
        try:
            images, digest = open_source(source, reference=self.reference)
        except UserError as error:
            return Prepared(name_of(source), "", (), str(error))
        try:
            prompts = tuple(self._prompt(images, question) for question in self.questions)
        except ValueError as error:  # of a shape that the model's processor refuses, for instance
            return Prepared(
                name_of(source), "", (), f"{name_of(source)}: the model cannot take it ({error})"
            )
        return Prepared(name_of(source), digest, prompts)

    def _prompt(self, images: Sequence[Image.Image], question: Question) -> Encoded:
        prompt = encode_prompt(
            self.processor,
            images,
            question.text,
            system=question.system,
            image_last=question.image_last,
        )
        return begun(prompt, question.opening)


def prepare_all(
    preparation: Preparation, sources: Iterable[Source], inline: int, quick: float = 0.0
) -> Iterator[Prepared]:
    """Each of `sources`, which may be endless, prepared and in order.

    The first `inline` are prepared here: workers cost a moment that a single photo need not wait for. So are those
    after them, up to the first that takes longer than `quick` seconds: where the model is on the same cores, a worker
    takes from it more than a small image costs.
    """
    iterator = iter(sources)
    yield from map(preparation, islice(iterator, inline))
    for source in iterator if quick else ():
        started = time.perf_counter()
        prepared = preparation(source)
        slow = time.perf_counter() - started > quick
        yield prepared
        if slow:
            break
    following = next(iterator, None)
    if following is None:
        return
    # A fork has the processor without pickling it, and no second import of PyTorch.
    context = get_context("fork")
    with ProcessPoolExecutor(
        WORKERS, mp_context=context, initializer=_start, initargs=(preparation,)
    ) as pool:
        waiting: deque[Future[tuple[Prepared, Arrays]]] = deque()
        try:
            for source in chain([following], iterator):
                waiting.append(pool.submit(_prepare, source))
                if len(waiting) > AHEAD * WORKERS:
                    yield _with_prompts(*waiting.popleft().result())
            while waiting:
                yield _with_prompts(*waiting.popleft().result())
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads images was killed, perhaps for want of memory: run again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_preparation: Preparation


def _start(preparation: Preparation) -> None:
    global _preparation
    _preparation = preparation
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user talks to
    torch.set_num_threads(1)  # a forked OpenMP pool would hang
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A parent that is killed cannot stop its workers, which would hold its journal's lock for ever."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


Arrays = tuple[dict[str, np.ndarray], ...]


def _prepare(source: Source) -> tuple[Prepared, Arrays]:
    """The prompts as arrays: tensors would travel through shared memory, of which containers have little."""
    prepared = _preparation(source)
    return replace(prepared, prompts=()), tuple(
        {k: v.numpy() for k, v in p.items()} for p in prepared.prompts
    )


def _with_prompts(prepared: Prepared, arrays: Arrays) -> Prepared:
    return replace(
        prepared, prompts=tuple({k: torch.from_numpy(v) for k, v in p.items()} for p in arrays)
    )
