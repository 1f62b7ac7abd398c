"""Damaged files are a problem and never a score, sound ones of another kind are told apart, and nothing is printed."""

import io
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from odd_images import cropped_avif, tiff
from visualquality.data.formats import boxes
from visualquality.data.formats.libtiff import errors_of_libtiff
from visualquality.data.images import image_faults, open_image, read_image
from visualquality.errors import UserError

KINDS = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("AVIF", {}), ("BMP", {}), ("GIF", {}), ("PPM", {}), ("JPEG2000", {}), ("TIFF", {}),
    *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma")),
]  # fmt: skip


def photo(width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    photo().save(file, kind, **options)
    return file.getvalue()


def fault(tmp_path, data: bytes) -> str | None:
    path = tmp_path / "image"
    path.write_bytes(data)
    try:
        open_image(path)
    except UserError as error:
        return str(error) if "\n" not in str(error) else "several lines"
    return None


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_a_file_that_is_cut_off_anywhere_is_damaged(tmp_path, kind, options):
    data = encoded(kind, **options)
    assert fault(tmp_path, data) is None
    cuts = [int(len(data) * share) for share in (0.1, 0.5, 0.9, 0.99)]
    for cut in (*cuts, len(data) - 8, len(data) - 2, len(data) - 1):
        assert "truncated or damaged" in str(fault(tmp_path, data[:cut])), cut


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
def test_a_file_whose_end_is_zeros_is_damaged(tmp_path, kind):
    data = encoded(kind)
    for share in (0.5, 0.9):
        kept = int(len(data) * share)
        assert "damaged" in str(fault(tmp_path, data[:kept] + bytes(len(data) - kept)))
    # Zeros behind a whole file are no harm.
    assert kind == "AVIF" or fault(tmp_path, data + bytes(5000)) is None


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_a_critical_chunk_is_damaged(tmp_path, chunk):
    file = io.BytesIO()
    photo().quantize(16).save(file, "PNG")
    data = bytearray(file.getvalue())
    at = data.rindex(chunk)
    data[at + 4 + struct.unpack_from(">I", data, at - 4)[0]] ^= 0x55
    assert f"checksum in b'{chunk.decode()}'" in str(fault(tmp_path, bytes(data))) or (
        f"the checksum of its chunk {chunk.decode()} is wrong" in str(fault(tmp_path, bytes(data)))
    )


def test_pixels_of_a_png_in_several_chunks_are_checked_in_each(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(
        file, "PNG"
    )
    data = bytearray(file.getvalue())
    assert data.count(b"IDAT") > 1
    data[data.rindex(b"IDAT") + 40] ^= 1
    assert "chunk IDAT is wrong" in str(fault(tmp_path, bytes(data)))


def test_bytes_behind_the_end_of_a_jpeg_do_not_matter(tmp_path):
    assert fault(tmp_path, encoded("JPEG") + encoded("JPEG")[:500]) is None
    with_rows = encoded("JPEG", restart_marker_rows=1, comment=b"\xff\xd9 is an end")
    assert fault(tmp_path, with_rows) is None
    assert "no end" in str(fault(tmp_path, with_rows[: with_rows.rindex(b"\xff\xd9")] + bytes(99)))


def bits(*fields: tuple[int, int]) -> bytes:
    """(value, bits) one after the other, filled up with zeros."""
    text = "".join(f"{value:0{size}b}" for value, size in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def test_a_stream_without_its_last_layer_is_cut():
    # A sequence header (AV1, 5.5.1) of two operating points, the first of which has the spatial layers 0 and 1.
    header = bits((0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (1, 5), (0x301, 12), (0, 40))

    def unit(kind: int, payload: bytes, layer: int | None = None) -> bytes:
        extension = b"" if layer is None else bytes([layer << 3])
        start = bytes([kind << 3 | (layer is not None) << 2 | 2]) + extension
        return start + bytes([len(payload)]) + payload

    first, second = unit(6, b"pixels"), unit(6, b"more", layer=1)
    for stream, layer, cut in (
        (unit(1, header) + first + second, None, None),
        (unit(1, header) + first, None, "1 of 2 layers"),
        (unit(1, header) + first, 0, None),
        (unit(1, header) + first[:-2], None, "ends within a unit"),
        (unit(1, header) + unit(6, b"pix\0\0\0") + second[:1], None, "ends within a unit"),
        (unit(6, b"pix\0\0\0"), None, "ends in zeros"),
    ):
        found = boxes.why_cut(boxes.Boxes(streams=[(b"av01", stream)], layer=layer))
        assert (found is None) if cut is None else (cut in str(found))


def test_units_of_hevc_are_whole_and_end_in_no_zero():
    unit = (5).to_bytes(4, "big") + b"units"
    for stream, cut in ((unit * 2, None), (unit[:-1], "within"), (unit + bytes(8), "within")):
        found = boxes.why_cut(boxes.Boxes(streams=[(b"hvc1", stream)]))
        assert (found is None) if cut is None else (cut in str(found))
    zeros = (5).to_bytes(4, "big") + b"uni\0\0"
    assert "zeros" in str(boxes.why_cut(boxes.Boxes(streams=[(b"hev1", zeros)])))


def test_the_crop_box_of_avif_is_applied(tmp_path):
    path = tmp_path / "image.avif"
    for turn, upright in ((1, (24, 16)), (6, (16, 24))):
        exif = Image.Exif()
        exif[274] = turn
        data = encoded("AVIF", quality=100, exif=exif)
        path.write_bytes(data)
        whole = np.asarray(open_image(path))
        # 24 × 16 pixels, whose centre is 4 to the right of that of 64 × 48 and 2 above it.
        path.write_bytes(cropped_avif(data, (24, 1, 16, 1, 8, 2, -2, 1)))
        found, said = read_image(path)
        assert (found.size, said) == (upright, ())
        left, top = (64 - 24) // 2 + 4, (48 - 16) // 2 - 2
        stored = whole if turn == 1 else np.rot90(whole)
        part = stored[top : top + 16, left : left + 24]
        assert (np.asarray(found) == (part if turn == 1 else np.rot90(part, -1))).all()
        # A box of half pixels, and one that is partly outside, are none: the row says so.
        for odd in ((23, 1, 16, 1, 0, 1, 0, 1), (64, 1, 48, 1, 1, 1, 0, 1)):
            path.write_bytes(cropped_avif(data, odd))
            found, said = read_image(path)
            assert found.size == (64, 48) if turn == 1 else (48, 64)
            assert "crop box" in said[0]


def test_colours_that_avif_states_by_numbers_are_said(tmp_path):
    data = encoded("AVIF")
    at = data.index(b"colrnclx") + 8
    path = tmp_path / "image.avif"
    path.write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    assert read_image(path).warnings == (
        "its colours are stated as BT.2020 with PQ, and were read as sRGB",
    )


BITFIELDS = struct.pack("<2sIIIIiiHHIIiiII4I", b"BM", 70 + 4, 0, 70, 56, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0,
                        0x3FF00000, 0x000FFC00, 0x000003FF, 0) + bytes(4)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("BMP", BITFIELDS),
        ("TIFF", tiff(np.zeros((16, 16), np.int64), 8, more={259: (3, [50001])})),  # WebP inside
        ("TIFF", tiff(np.zeros((16, 16), np.int64), 8, more={259: (3, [7])})),  # JPEG inside
        ("TIFF", tiff(np.zeros((16, 16, 2), np.int64), 12, photometric=8)),  # L*a*b* of 12 bits
    ],
    ids=["bit fields", "WebP in TIFF", "JPEG in TIFF", "mode"],
)
def test_a_sound_file_of_another_kind_is_not_called_damaged(tmp_path, name, data):
    found = str(fault(tmp_path, data))
    assert f"this kind of {name} is not supported" in found
    assert "convert it to PNG" in found


def test_a_raw_photo_is_not_its_preview(tmp_path):
    small = np.zeros((16, 16), np.int64)
    for more in ({50706: (1, [1])}, {254: (4, [1]), 330: (4, [8])}):
        data = tiff(small, 8, more={k: (3 if t == 1 else t, v) for k, (t, v) in more.items()})
        assert "is a raw photo" in str(fault(tmp_path, data))
    path = tmp_path / "photo.NEF"
    path.write_bytes(tiff(small, 8))
    with pytest.raises(UserError, match="raw photo"):
        open_image(path)
    assert "raw photo" in str(image_faults([path])[0])


@pytest.mark.parametrize(
    ("name", "kind"), [("a.dng", "a raw photo"), ("a.tga", "another kind"), ("a.mp4", "a film")]
)
def test_a_file_that_is_not_read_is_called_by_its_kind(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"something else" * 9)
    with pytest.raises(UserError, match=rf"{kind} \(\.{name[2:]}\), which is not read"):
        open_image(tmp_path / name)
    photo().save(tmp_path / "named.png")
    (tmp_path / "named.png").rename(tmp_path / name)  # the content counts
    assert open_image(tmp_path / name).size == (64, 48)


def fax(tmp_path):
    """A fax whose codes are none: libtiff complains on standard error, and Pillow goes on."""
    path = tmp_path / "fax.tif"
    Image.fromarray(np.indices((64, 64)).sum(0) % 7 > 3).save(path, compression="group4")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        (start,), (size,) = image.tag_v2[273], image.tag_v2[279]
    data[start + size // 3 : start + size // 2] = b"\xaa" * (size // 2 - size // 3)
    path.write_bytes(bytes(data))
    return path


def test_what_libtiff_says_is_the_problem_and_not_on_the_terminal(tmp_path):
    path = fax(tmp_path)
    threads = [threading.Thread(target=lambda: fault_of(path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "Fax4Decode" in fault_of(path)


def fault_of(path) -> str:
    with pytest.raises(UserError) as caught:
        open_image(path)
    return str(caught.value)


def test_messages_of_others_go_where_they_went(tmp_path):
    """Who reads a TIFF with Pillow beside us is told what they were told before."""
    program = (
        "import sys; from PIL import Image; from visualquality.data.images import open_image\n"
        "try: open_image(sys.argv[1])\n"
        "except Exception: print('ours', file=sys.stderr)\n"
        "sys.stderr.flush()\n"
        "Image.open(sys.argv[1]).load()\n"
    )
    command = [sys.executable, "-c", program, str(fax(tmp_path))]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert said.startswith("ours\nFax4Decode")
    with errors_of_libtiff() as outer, errors_of_libtiff() as inner:
        fault_of(fax(tmp_path))
    assert outer == inner == []


def test_a_deflated_strip_that_is_damaged_is_a_problem(tmp_path):
    data = bytearray(tiff(np.arange(4096).reshape(64, 64), 12, compression=8))
    data[200] ^= 255
    assert "damaged" in str(fault(tmp_path, bytes(data)))
