"""Files that are made to take all memory or hours, of every format that is read: each must end in one sentence, soon.

    python tests/torture/bombs.py --json benchmarks/results/bombs.json

writes what each did, in a process of its own: seconds, and memory above that of the empty process. The files are made
in a temporary folder and are gone afterwards. `BOMBS` is what tests use too.
"""

import argparse
import io
import json
import os
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 8 * 2**30
SECONDS = 120


def zeros(size: int) -> bytes:
    """So many zeros, deflated: a thousandth of it."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(bytes(size % 2**20)), packer.flush()])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes((1 + 3 * 64) * 64)) if pixels is None else pixels
    end = png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + end


def gif(screen: int, frame: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\2\2\x4c\1\0"
    return head + image + b";"


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(d)) + d for kind, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(tags: dict[int, tuple[int, int]], data: bytes) -> bytes:
    """A little-endian TIFF of one directory: tag -> (type, value); a value of -1 is where `data` begins."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag in sorted(tags):
        kind, value = tags[tag]
        entries += struct.pack("<HHII", tag, kind, 1, start if value == -1 else value)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def grey_tiff(width: int, height: int, compression: int, **more: int) -> dict[int, tuple[int, int]]:
    tags = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, compression)}
    return tags | {262: (3, 1), 277: (3, 1)} | {int(tag[1:]): (4, v) for tag, v in more.items()}


def bmp(width: int, height: int, data: bytes) -> bytes:
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + sizes + bytes(1024) + data


def saved(size: tuple[int, int], kind: str, **options: object) -> bytes:
    Image.new("RGB", size).save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def patched(data: bytes, after: bytes, offset: int, new: bytes) -> bytes:
    """`data` with `new` at `offset` behind the first place of `after`."""
    place = data.index(after) + offset
    return data[:place] + new + data[place + len(new) :]


def jpeg_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG, grey and flat, with one scan of DC and many of AC, of some hundred bytes each."""

    def table(kind: int, value: int) -> bytes:
        return b"\xff\xc4" + struct.pack(">HB", 20, kind) + b"\1" + bytes(15) + bytes([value])

    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    head = b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64 + frame + table(0, 0) + table(0x10, 0xE0)
    blocks = ((side + 7) // 8) ** 2
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes((blocks + 7) // 8)
    # A code of one bit, then 14 bits: a run of 32,767 blocks without a coefficient.
    bits = ("0" + "1" * 14) * (blocks // 32767 + 1)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + first + (b"\xff\xda\0\x08\1\1\0\1\x3f\0" + coded) * scans + b"\xff\xd9"


def jpeg_segments(marker: int, start: bytes, count: int) -> bytes:
    sound = saved((16, 16), "JPEG")
    body = start + bytes(60000)
    return (
        sound[:2]
        + (bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body) * count
        + sound[2:]
    )


def j2k(width: int, height: int, tile: int) -> bytes:
    sound = saved((64, 64), "JPEG2000", no_jp2=True)
    sizes = struct.pack(">8I", width, height, 0, 0, tile, tile, 0, 0)
    return patched(sound, b"\xff\x51", 6, sizes)


def icon(inner: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def avif(width: int, height: int) -> bytes:
    return patched(saved((64, 64), "AVIF"), b"ispe", 8, struct.pack(">II", width, height))


LARGE = 60_000  # a side beyond every limit
GIGABYTE = 2**30
# name -> the file, made when it is asked for: some take a second, or 100 MB.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png size": lambda: png(LARGE, LARGE),
    "png largest size": lambda: png(2**31 - 1, 2**31 - 1),
    "png zTXt of 1 GB": lambda: png(64, 64, png_chunk(b"zTXt", b"a\0\0" + zeros(GIGABYTE))),
    "png iTXt of 1 GB": lambda: png(64, 64, png_chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(GIGABYTE))),
    "png profile of 1 GB": lambda: png(64, 64, png_chunk(b"iCCP", b"a\0\0" + zeros(GIGABYTE))),
    "png 3000 texts of 1 MB": lambda: png(
        64, 64, *[png_chunk(b"zTXt", b"a%d\0\0" % i + zeros(2**20)) for i in range(3000)]
    ),
    "png pixels of 1 GB": lambda: png(64, 64, pixels=zeros(GIGABYTE)),
    "gif screen": lambda: gif(65535, 1),
    "gif frame": lambda: gif(10, 65535),
    "webp canvas": lambda: webp(
        (b"VP8X", b"\2\0\0\0" + b"\xff" * 6), (b"ANIM", bytes(6)), (b"ANMF", bytes(24))
    ),
    "webp 98 MP, flat": lambda: saved((16383, 6000), "WEBP", lossless=True),
    "avif size": lambda: avif(LARGE, LARGE),
    "avif 90 MP, flat": lambda: avif(10000, 9000),
    "tiff size": lambda: tiff(grey_tiff(100_000, 100_000, 1, t273=-1, t278=1, t279=9), bytes(9)),
    "tiff deflated tile of 1 GB": lambda: tiff(
        grey_tiff(100, 100, 8, t322=32000, t323=32000, t324=-1, t325=2**20), zeros(GIGABYTE)
    ),
    "tiff LZW tile of 2 GB": lambda: tiff(
        grey_tiff(100, 100, 5, t322=32000, t323=64000, t324=-1, t325=100), bytes(100)
    ),
    "tiff strip of 1 GB": lambda: tiff(
        grey_tiff(100, 100, 8, t273=-1, t278=2**32 - 1, t279=2**20), zeros(GIGABYTE)
    ),
    "tiff directory in a circle": lambda: tiff(
        grey_tiff(10, 10, 1, t273=-1, t278=10, t279=100, t34665=8, t40965=8), bytes(100)
    ),
    "bmp size": lambda: bmp(2**31 - 1, 2**31 - 1, b"\0\1"),
    "bmp RLE of 99 MP": lambda: bmp(10000, 9999, b"\0\2\xff\xff" * 100 + b"\0\1"),
    "ppm size": lambda: b"P6 100000 100000 255\n",
    "ppm comment of 50 MB": lambda: b"P6 #" + b"9" * 50_000_000 + b"\n1 1 255\n",
    "ppm digits of 5 MB": lambda: b"P6 " + b"9" * 5_000_000 + b" 1 255\n",
    "jpeg size": lambda: patched(saved((64, 64), "JPEG"), b"\xff\xc0", 5, b"\xff\xff\xff\xff"),
    "jpeg of 2000 scans": lambda: jpeg_scans(9992, 2000),
    "jpeg of 2000 EXIF segments": lambda: jpeg_segments(0xE1, b"Exif\0\0", 2000),
    "jpeg of 255 profile segments": lambda: jpeg_segments(0xE2, b"ICC_PROFILE\0\1\1", 255),
    "jpeg 2000 size": lambda: j2k(LARGE, LARGE, LARGE),
    "jpeg 2000 of 99 MP, flat": lambda: j2k(10000, 9999, 10000),
    "jpeg 2000 of 62,500 tiles": lambda: j2k(10000, 9999, 40),
    "jpeg 2000 of one huge tile": lambda: j2k(64, 64, 2**32 - 1),
    "ico with a large png": lambda: icon(png(LARGE, LARGE)),
    "icns with a large png": lambda: (
        b"icns"
        + struct.pack(">I4sI", 16 + len(png(LARGE, LARGE)), b"ic10", 8 + len(png(LARGE, LARGE)))
        + png(LARGE, LARGE)
    ),
    "psd size": lambda: (
        b"8BPS"
        + struct.pack(">H6xHIIHH", 1, 3, 30000, 30000, 8, 3)
        + bytes(12)
        + b"\0\1"
        + bytes(99)
    ),
}
# Small images with something in them that is skipped, read to its own size, or bounded: they may be opened.
MAY_OPEN = frozenset(
    {"png pixels of 1 GB", "tiff strip of 1 GB", "tiff directory in a circle"}
    | {"jpeg of 255 profile segments", "jpeg 2000 of one huge tile"}
)


def peak() -> int:
    """Largest memory of this process so far, in kB. Not `ru_maxrss`, which begins with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def open_one(path: Path) -> None:
    """In a process of its own: open one file and print what happened as JSON."""
    from visualquality.data.images import open_image
    from visualquality.errors import UserError

    open_image(Image.new("RGB", (8, 8)))  # what is imported on first use is not the bomb's
    before = peak()
    started = time.perf_counter()
    try:
        result = "opened as {} × {}".format(*open_image(path).size)
    except UserError as error:
        result = str(error).replace(str(path), "FILE")
    seconds = time.perf_counter() - started
    grown = peak() - before
    print(json.dumps({"seconds": round(seconds, 2), "mb": round(grown / 1024), "result": result}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        open_one(given.open)
        return 0
    rows, failed = [], 0
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for name, make in BOMBS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "bomb"
            file.write_bytes(make())
            row = {"bomb": name, "bytes": file.stat().st_size}
            command = [sys.executable, __file__, "--open", str(file)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=SECONDS, env=environment
                )
                row |= json.loads(done.stdout)
            except (subprocess.TimeoutExpired, ValueError) as error:
                row |= {"seconds": SECONDS, "mb": None, "result": f"failed: {error}"[:300]}
                failed += 1
        rows.append(row)
        print(f"{name:32} {row['seconds']:6.2f} s {row['mb']} MB  {row['result'][:90]}", flush=True)
    if given.json:
        figures = {
            "command": "python tests/torture/bombs.py",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
            "python": platform.python_version(),
            "rows": rows,
        }
        given.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
