"""Settings of the whole process: how it keeps memory, and which notices of other libraries it shows."""

import ctypes
import logging
import sys
import warnings

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


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
