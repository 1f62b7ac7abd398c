"""What concerns the whole process: its memory, its devices, forks, and which notices of other libraries it shows."""

import ctypes
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing import current_process
from typing import Any, TypeVar

from .errors import UserError

T = TypeVar("T")

# What `torch.device` may be called here. Of cpu and mps there is one each, which PyTorch also numbers.
_DEVICE = re.compile(r"(cpu|mps)(:0)?|cuda(:(0|[1-9][0-9]{0,3}))?")

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


# Memory


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed for the next tensor; False where it has no such setting (only glibc does).

    By default glibc gives every block above 32 MB back to the kernel at once, and a training step on a CPU frees and
    asks for hundreds of them: the pages are zeroed again each time, a hundred thousand a second, which costs a tenth to
    a half of the time. The process then holds on to its peak, as it would on a GPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28))
    return all(mallopt(*option) for option in options)


# Devices


def device_name(name: object) -> str:
    """The name of a device, or of a `torch.device`, as it was given. Raises UserError for one that there never is."""
    if _DEVICE.fullmatch(str(name)) is None:
        raise UserError("the devices are cpu, cuda, cuda:N (the GPU of number N, from 0) and mps")
    return str(name)


def usable_device(name: str | None) -> str:
    """The device `name` if this machine has it; without a name "cuda" where there is one, else "cpu".

    Raises UserError that says why it cannot be used, and what there is.
    """
    # Takes seconds.
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        name = device_name(name)
    except UserError as error:
        raise UserError(f"device is {name!r}: {error}") from error
    kind, _, number = name.partition(":")
    if kind == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            raise UserError(
                f"device is {name}, but the PyTorch that is installed was built without CUDA: "
                "install a build with it (pytorch.org), or give the device cpu"
            )
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(
                f"device is {name}, but PyTorch finds no GPU: check the driver (nvidia-smi), or give the device cpu"
            )
        if number and int(number) >= count:
            last = f" to cuda:{count - 1}" if count > 1 else " alone"
            raise UserError(f"device is {name}, but there is cuda:0{last}: give one that is there")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"device is {name}, the GPU of a Mac, and PyTorch finds none here: give another, such as cpu"
        )
    return name


# Several processes of one run, processes that were forked, and workers


def is_main() -> bool:
    """Whether this is the only process of a training run, or the one that writes (rank 0 of torchrun's)."""
    return os.environ.get("RANK", "0") == "0"


def first_decides(decide: Callable[[], T]) -> T:
    """What `decide` gives on the first process of a training run, on all of them; it is called on that one alone.

    So processes do the same where they see different disks. The result must be picklable. Before the processes know
    each other (torch.distributed), or where there is one, it is simply called. A UserError is raised on all.
    """
    from torch import distributed as dist

    if not dist.is_initialized():
        return decide()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = decide()
        except UserError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise UserError(told[1])
    return told[0]


def seen_by_all(here: bool) -> list[bool]:
    """What each process of a training run says, by rank."""
    from torch import distributed as dist

    if not dist.is_initialized():
        return [here]
    said = [here] * dist.get_world_size()
    dist.all_gather_object(said, here)
    return said


def was_forked() -> bool:
    """Whether this process was forked from one that had imported this module, and with it often PyTorch."""
    return os.getpid() != _IMPORTED_IN


_IMPORTED_IN = os.getpid()


@cache
def _one_thread_in(process: int) -> None:
    import torch

    torch.set_num_threads(1)


def use_model_here(device: str) -> None:
    """To be called before a model on `device` is loaded or used: makes that safe in a process that was forked.

    A fork has none of the threads that PyTorch (OpenMP) computes with, and would wait for them for ever. There the
    model gets one thread, once; a caller that knows better may then call `torch.set_num_threads`.

    Raises UserError for a GPU that the process was forked from has used already, which no fork can use.
    """
    if not was_forked():
        return
    import torch

    module = {"cuda": torch.cuda, "mps": torch.mps}.get(device.partition(":")[0])
    # Not a public name, but the one by which PyTorch itself finds this.
    if module is not None and getattr(module, "_is_in_bad_fork", bool)():
        raise UserError(
            f"this process was forked from one that used {device}, and a GPU cannot be used after that: "
            'start processes with multiprocessing\'s method "spawn", or load the model in each of them alone'
        )
    _one_thread_in(os.getpid())


class ForkSafeLock:
    """A `threading.Lock` that is open in a process that was forked while another thread held it.

    That thread does not exist in the fork, and so would never open it.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def may_fork_workers() -> bool:
    """Whether processes of its own may help this one: not on Windows, in a daemonic worker, or beside other threads.

    A daemonic process (of `multiprocessing.Pool`, a DataLoader, Celery) may have no children. A fork while another
    thread works may copy a lock that the thread holds, which nobody opens in the copy. Daemonic threads, such as that
    of a progress bar or of a notebook, do no such work.
    """
    # Celery's process objects may lack what this property reads: such a process is daemonic, too.
    if not hasattr(os, "fork") or getattr(current_process(), "daemon", True):
        return False
    here = threading.current_thread()
    others = [each for each in threading.enumerate() if each is not here and not each.daemon]
    return here is threading.main_thread() and not others


# Notices of other libraries


def quiet_matplotlib() -> None:
    """Without a home folder that can be written, it says at length where it keeps its cache."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep other libraries' notices off the user's screen; their errors stay."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    quiet_matplotlib()
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers|trl|peft|accelerate"
    )
