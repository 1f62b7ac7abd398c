"""Opening images and making prompts of them, in worker processes or threads while the model works on those before."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import active_children, get_context
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers.processing_utils import ProcessorMixin

from .. import response
from ..errors import UserError
from ..io import map_ahead
from ..models.prompt import Prompt, encode_prompt
from ..process import may_fork_workers
from .source import Source, name_of, open_source

WORKERS = min(4, os.cpu_count() or 1)
QUICK_SECONDS = 0.02  # an image that takes longer to read is worth a worker


class Question(NamedTuple):
    """What is asked. `opening`: tokens that open the answer for the model, if any."""

    text: str
    opening: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """An image as the model takes it: a prompt for each question, or the `problem` that there is with it."""

    name: str
    digest: str
    prompts: tuple[Prompt, ...]
    problem: str | None = None
    warnings: tuple[str, ...] = ()  # of how it was read


@dataclass(frozen=True)
class Reader:
    """Makes one image ready for a model. A file that is not an image is no exception: the result says so.

    `prompt`: the name of the prompt, which has its own system message and place of the image. `reference`: every
    source is `Referenced`, and a prompt has two images. `file_options`: how files are read, as `read_image` takes it.
    `add_vision_id`: as `encode_prompt` takes it.
    """

    processor: ProcessorMixin
    questions: tuple[Question, ...]
    prompt: response.PromptName = "paper"
    reference: bool = False
    file_options: Mapping[str, Any] = field(default_factory=dict)
    add_vision_id: bool = False

    def __call__(self, source: Source) -> Prepared:
        name = name_of(source)
        try:
            images, digest, warnings = open_source(
                source, reference=self.reference, **self.file_options
            )
        except UserError as error:
            return Prepared(name, "", (), str(error))
        try:
            prompts = tuple(self.encode(images, question) for question in self.questions)
        except ValueError as error:  # for instance of a shape that the model's processor refuses
            return Prepared(name, "", (), f"{name}: the model cannot take it ({error})")
        return Prepared(name, digest, prompts, warnings=warnings)

    def encode(self, images: Sequence[Image.Image], question: Question) -> Prompt:
        prompt = encode_prompt(
            self.processor,
            images,
            question.text,
            system=response.SYSTEM.get(self.prompt),
            image_last=self.prompt in response.IMAGE_LAST,
            add_vision_id=self.add_vision_id,
        )
        return prompt.followed_by(question.opening)


def read_images(
    reader: Reader, sources: Iterable[Source], *, first: int, shares_processor: bool
) -> Iterator[Prepared]:
    """Each of `sources`, which may be endless, prepared and in order.

    The `first` ones are read in this process: workers cost a moment that a single photo need not wait for. Where the
    model runs on the same processor (`shares_processor`) so are those after them, up to the first that is slow to
    read: for small images, a worker would slow the model down by more than it saves.
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
    pool = _worker_processes(reader) if may_fork_workers() else None
    if pool is None:
        # Slower, since threads share one interpreter with the model, but they work everywhere.
        yield from map_ahead(reader, sources, WORKERS)
        return
    try:
        yield from map(pickle.loads, map_ahead(_read_in_worker, sources, WORKERS, pool))
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads images was killed, perhaps for want of memory: run again"
        ) from error


def _worker_processes(reader: Reader) -> ProcessPoolExecutor | None:
    """A pool whose processes run already, or None where the system gives no process or no semaphore."""
    before = set(active_children())
    try:
        # A fork has the processor without pickling it, and no second import of PyTorch.
        pool = ProcessPoolExecutor(
            WORKERS, get_context("fork"), initializer=_start_worker, initargs=(reader,)
        )
        # The first task starts the processes.
        pool.submit(os.getpid)
    except (OSError, AssertionError, NotImplementedError):
        # OSError: a limit on processes, or no /dev/shm. AssertionError: daemonic by some other library's account.
        # This process would wait at its end for those that did start.
        for child in set(active_children()) - before:
            child.kill()
        return None
    return pool


# In a worker: its reader, which a fork has without pickling.
_reader: Reader


def _start_worker(reader: Reader) -> None:
    global _reader
    _reader = reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that the user talks to
    torch.set_num_threads(1)  # a forked OpenMP pool would hang
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()


def _exit_with(parent: int) -> None:
    # A parent that is killed cannot stop its workers, which would hold the lock of its journal for ever.
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _read_in_worker(source: Source) -> bytes:
    # Pickled here: the pool itself would send tensors through shared memory, of which containers have little.
    return pickle.dumps(_reader(source))
