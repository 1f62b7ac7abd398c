"""Messages of libtiff, the library inside Pillow: it writes them to the process's standard error, past Python."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from ...process import ForkSafeLock

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_own = threading.local()  # of each thread, the messages of the file that it reads, if it reads one
_lock = ForkSafeLock()
_installed: Any = None  # what libtiff calls; it must live as long as the process
_before: Any = None  # what it called until then, for those who read TIFF files without us


def _on_error(module: bytes | None, form: bytes | None, arguments: int | None) -> None:
    messages = getattr(_own, "messages", None)
    if messages is None:
        if _before:
            _before(module, form, arguments)
        return
    # The arguments of the form are a C va_list, which Python cannot read: the form itself says enough.
    messages.append(b": ".join(part or b"" for part in (module, form)).decode("utf-8", "replace"))


def _install() -> None:
    """Once a process. Where Pillow has libtiff built in without its names (Windows), messages go where they went."""
    global _installed, _before
    with _lock:
        if _installed is not None:
            return
        _installed = _HANDLER(_on_error)
        try:
            # The extension's own library, or one that it was linked to: the one copy that Pillow uses.
            install = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        except (AttributeError, OSError):
            return
        install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        before = install(ctypes.cast(_installed, ctypes.c_void_p))
        _before = _HANDLER(before) if before else None


@contextmanager
def errors_of_libtiff() -> Iterator[list[str]]:
    """What libtiff says in this thread meanwhile, as "module: form of the message"; nothing of it is shown.

    Messages of other threads, and of Pillow where others use it, go where they went before.
    """
    _install()
    outer = getattr(_own, "messages", None)
    messages: list[str] = []
    _own.messages = messages
    try:
        yield messages
    finally:
        _own.messages = outer
