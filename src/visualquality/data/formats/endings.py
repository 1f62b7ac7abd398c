"""Streams that end too early, or fail their checksums, which Pillow's decoders accept without a word."""

import re
import zlib
from typing import BinaryIO

_CHUNK = 1 << 20  # bytes that are read at a time
# A marker of JPEG that is no stuffed 0xFF of the compressed data (FF 00), no restart (FF D0 to D7), and no fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = 0xD9


class DamagedError(ValueError):
    """Why a stream is not whole."""


def check_png(file: BinaryIO) -> None:
    """Raises DamagedError for a wrong checksum of a critical chunk (PNG, sections 5.3 and 5.4), and without IEND.

    Pillow checks those of the chunks before the pixels alone; a changed bit of the pixels may only change colours.
    """
    file.seek(8)
    while True:
        start = file.read(8)
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if len(start) < 8:
            raise DamagedError("it ends before its last chunk, IEND")
        if kind[0] & 32:  # in lower case: ancillary
            file.seek(length + 4, 1)
            continue
        found = zlib.crc32(kind)
        while length:
            block = file.read(min(length, _CHUNK))
            if not block:
                raise DamagedError(f"it ends within its chunk {kind.decode('latin-1')}")
            found = zlib.crc32(block, found)
            length -= len(block)
        stated = file.read(4)
        if len(stated) < 4 and kind != b"IEND":
            raise DamagedError(f"it ends within its chunk {kind.decode('latin-1')}")
        if int.from_bytes(stated, "big") != found:
            raise DamagedError(f"the checksum of its chunk {kind.decode('latin-1')} is wrong")
        if kind == b"IEND":
            return


def check_jpeg(file: BinaryIO) -> None:
    """Raises DamagedError where no end of the image follows its last scan, as where a download left zeros.

    libjpeg makes colours of zeros. What is behind the end, such as a preview or a film, does not matter.
    """
    file.seek(0)
    data = file.read()
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.end()
        if marker == _END_OF_IMAGE:
            return
        # A segment with its length, which counts its own two bytes. After that of a scan, compressed data follows.
        at += int.from_bytes(data[at : at + 2], "big")
    raise DamagedError("its last scan has no end")


def check_gif(file: BinaryIO) -> None:
    """Raises DamagedError for a file that ends before its trailer (GIF89a, section 27), or within an image."""
    file.seek(10)
    _skip_colours(file, file.read(3)[:1])
    while kind := file.read(1):
        if kind == b";":
            return
        if kind == b",":
            _skip_colours(file, file.read(9)[8:])
        elif kind != b"!":
            continue  # decoders go on after what is between two blocks
        file.read(1)  # the label of an extension, or the size of the first codes
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], 1)
    raise DamagedError("it ends before its trailer")


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    """A colour table of 3 bytes an entry, if the flags say that there is one."""
    if flags and flags[0] & 0x80:
        file.seek(3 << ((flags[0] & 7) + 1), 1)
