"""Opening images and making prompts of them, in worker processes while the model works on those before."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing import get_context

import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

from ..errors import UserError
from ..models.prompt import Prompt, encode_prompt
from .source import Source, name_of, open_source

WORKERS = min(4, os.cpu_count() or 1)
AHEAD = 2  # images a worker may be ahead of the model, so that memory stays bounded
QUICK_SECONDS = 0.02  # an image that takes longer to read is worth a worker


@dataclass(frozen=True)
class Question:
    """What is asked. `opening`: tokens that open the answer for the model, if any."""

    text: str
    system: str | None = None
    image_last: bool = False
    opening: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """An image as the model takes it: a prompt for each question, or the `problem` that there is with it."""

    name: str
    digest: str
    prompts: tuple[Prompt, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Reader:
    """Makes one image ready for a model. A file that is not an image is no exception: the result says so.

    `reference`: every source is `Referenced`, and a prompt has two images.
    """

    processor: ProcessorMixin
    questions: tuple[Question, ...]
    reference: bool = False

    def __call__(self, source: Source) -> Prepared:
        name = name_of(source)
        try:
            images, digest = open_source(source, reference=self.reference)
        except UserError as error:
            return Prepared(name, "", (), str(error))
        prompts = []
        for question in self.questions:
            try:
                prompt = encode_prompt(
                    self.processor,
                    images,
                    question.text,
                    system=question.system,
                    image_last=question.image_last,
                )
            except (
                ValueError
            ) as error:  # of a shape that the model's processor refuses, for instance
                return Prepared(name, "", (), f"{name}: the model cannot take it ({error})")
            prompts.append(prompt.followed_by(question.opening) if question.opening else prompt)
        return Prepared(name, digest, tuple(prompts))


def read_images(
    reader: Reader, sources: Iterable[Source], *, first: int, shares_processor: bool
) -> Iterator[Prepared]:
    """Each of `sources`, which may be endless, prepared and in order.

    The `first` ones are read in this process: workers cost a moment that a single photo need not wait for. Where the
    model runs on the same processor (`shares_processor`) so are those after them, up to the first that is slow to
    read: a worker takes more from the model than a small image costs.
    """
    iterator = iter(sources)
    yield from map(reader, islice(iterator, first))
    for source in iterator if shares_processor else ():
        started = time.perf_counter()
        prepared = reader(source)
        slow = time.perf_counter() - started > QUICK_SECONDS
        yield prepared
        if slow:
            break
    following = next(iterator, None)
    if following is not None:
        yield from _read_in_workers(reader, chain([following], iterator))


def _read_in_workers(reader: Reader, sources: Iterable[Source]) -> Iterator[Prepared]:
    # A fork has the processor without pickling it, and no second import of PyTorch.
    context = get_context("fork")
    with ProcessPoolExecutor(
        WORKERS, mp_context=context, initializer=_start_worker, initargs=(reader,)
    ) as pool:
        waiting: deque[Future[tuple[Prepared, Arrays]]] = deque()
        try:
            for source in sources:
                waiting.append(pool.submit(_read_in_worker, source))
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


# In a worker: its reader, which a fork has without pickling.
_reader: Reader


def _start_worker(reader: Reader) -> None:
    global _reader
    _reader = reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user talks to
    torch.set_num_threads(1)  # a forked OpenMP pool would hang
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()


def _exit_with(parent: int) -> None:
    """End with the parent: one that is killed cannot stop its workers, which would hold its journal's lock for ever."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


# Prompts on their way from a worker: (tokens, images) of each. Tensors would travel through shared memory, of which
# containers have little.
Arrays = tuple[tuple[dict[str, np.ndarray], dict[str, np.ndarray]], ...]


def _read_in_worker(source: Source) -> tuple[Prepared, Arrays]:
    prepared = _reader(source)
    arrays = [(_to_numpy(p.tokens), _to_numpy(p.images)) for p in prepared.prompts]
    return replace(prepared, prompts=()), tuple(arrays)


def _with_prompts(prepared: Prepared, arrays: Arrays) -> Prepared:
    prompts = [Prompt(_to_torch(tokens), _to_torch(images)) for tokens, images in arrays]
    return replace(prepared, prompts=tuple(prompts))


def _to_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in tensors.items()}


def _to_torch(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}
