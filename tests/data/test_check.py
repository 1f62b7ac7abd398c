"""Each finding of `check` is there when it should be, and not when it should not."""

import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from conftest import picture
from visualquality.data import check as module
from visualquality.data.check import NEAR_BITS, Check, check
from visualquality.data.images import open_image
from visualquality.data.manifest import Manifest, Row

SIZE = (192, 128)


def row(
    path: Path, split: str | None = None, *, reference: str | None = None, dataset: str = "set"
) -> Row:
    return Row(path, float(len(path.name)), dataset, reference=reference, split=split)


def found(*rows: Row, **more: Row) -> Check:
    """Of one manifest, "m"; `more` are manifests of one row."""
    manifests = {"m": Manifest(rows)} if rows else {}
    return check(manifests | {name: Manifest((own,)) for name, own in more.items()})


def overlaps(checked: Check) -> list[tuple[str, bool, list[str]]]:
    return [
        (o.kind, o.leak, sorted(Path(m.image).name for m in o.members)) for o in checked.overlaps
    ]


@pytest.fixture
def saved(tmp_path) -> Callable[..., Path]:
    def save(name: str, image: Image.Image, **options) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def ramp(first: int, last: int) -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(first, last, 96, dtype=np.uint8), (64, 1))).convert(
        "RGB"
    )


def test_unlike_images_are_clean_and_summed_up(saved):
    rows = [
        row(saved(f"{seed}.png", picture(seed, (100 + seed, 80))), "train" if seed else None)
        for seed in range(5)
    ]
    blanks = [Image.new("RGB", SIZE, colour) for colour in ("black", "white", "red", (3, 3, 3))]
    blanks += [ramp(0, 255), ramp(255, 0), ramp(100, 150)]  # which have one hash, or nearly
    rows += [
        row(saved(f"blank {i}.bmp", image), "test", reference="I01")
        for i, image in enumerate(blanks)
    ]
    checked = found(*rows)
    assert checked.clean
    assert checked.overlaps == checked.broken == ()
    (summary,) = checked.datasets
    assert (summary.manifest, summary.dataset, summary.images, summary.references) == (
        "m",
        "set",
        12,
        1,
    )
    assert summary.splits == {"train": 4, "test": 7, "": 1}
    assert summary.kinds == {"BMP RGB": 7, "PNG RGB": 5}
    assert summary.mos == (5.0, 5.0, 11.0, 11.0, 11.0)
    assert summary.width == (96, 102.5, 192)
    assert summary.height == (64, 80, 128)
    assert summary.megapixels == pytest.approx((0.006144, 0.0082, 0.024576), rel=0.01)


COPIES: dict[str, tuple[str, Callable[[Image.Image], Image.Image], dict]] = {
    "lossless": ("exact", lambda image: image, {"format": "WEBP", "lossless": True}),
    "recompressed": ("near", lambda image: image, {"format": "JPEG", "quality": 60}),
    "smaller": ("near", lambda image: image.resize((150, 100)), {"format": "PNG"}),
    "brighter": (
        "near",
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        {"format": "PNG"},
    ),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(
    ("splits", "leak"),
    [(("train", "test"), True), (("val", "val"), False), (("train", None), False)],
)
def test_a_copy_is_found_and_leaks_between_splits(saved, copy, splits, leak):
    kind, change, options = COPIES[copy]
    original = picture(7, SIZE)
    other = row(saved("other.png", picture(8, SIZE)), "test")
    a, b = saved("a.png", original), saved("b", change(original), **options)
    assert overlaps(found(row(a, splits[0]), other, row(b, splits[1]))) == [
        (kind, leak, ["a.png", "b"])
    ]
    assert overlaps(found(other, one=row(a, "train"), two=row(b, "train"))) == [
        (kind, True, ["a.png", "b"])
    ]


def test_versions_of_one_reference_are_findings_only_across_splits_or_if_equal(saved):
    original = picture(3, SIZE)
    versions = [original.filter(ImageFilter.GaussianBlur(level)) for level in (0.5, 1, 1.5)]
    paths = [saved(f"{level}.png", version) for level, version in enumerate(versions)]
    names = [path.name for path in paths]
    assert overlaps(found(*(row(path, "train", reference="I01") for path in paths))) == []
    torn = [
        row(path, split, reference="I01")
        for path, split in zip(paths, ["train", "val", "train"], strict=True)
    ]
    assert overlaps(found(*torn)) == [("reference", True, names)]
    assert overlaps(found(one=torn[0], two=torn[2])) == [("reference", True, ["0.png", "2.png"])]
    assert overlaps(found(*(row(path, "train") for path in paths))) == [("near", False, names)]
    # A name that two data sets share is not one reference.
    elsewhere = [row(path, "train", reference="I01", dataset=path.name) for path in paths]
    assert overlaps(found(*elsewhere)) == [("near", False, names)]
    unlike = [
        row(saved(f"unlike {i}.png", picture(i, SIZE)), reference="I01", dataset=f"{i}")
        for i in range(2)
    ]
    assert overlaps(found(one=unlike[0], two=unlike[1])) == []
    again = saved("again.bmp", versions[0])
    for reference in ("I01", "I02", None):
        equal = found(torn[0], row(again, "train", reference=reference))
        assert overlaps(equal) == [("exact", False, ["0.png", "again.bmp"])]


def test_blank_images_are_alike_only_where_their_colours_are(saved):
    greys = {"a": (128,) * 3, "b": (129,) * 3, "c": (140,) * 3, "d": (140, 140, 128)}
    rows = [row(saved(f"{name}.png", Image.new("RGB", SIZE, grey))) for name, grey in greys.items()]
    rows.append(row(saved("e.png", Image.new("RGB", (50, 50), greys["c"]))))
    rows.append(row(saved("f.png", Image.new("RGB", SIZE, greys["d"]))))
    assert overlaps(found(*rows)) == [
        ("exact", False, ["d.png", "f.png"]),
        ("near", False, ["a.png", "b.png"]),
        ("near", False, ["c.png", "e.png"]),
    ]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> list[Row]:
    """Every finding, in one manifest."""
    folder, rows = tmp_path_factory.mktemp("mixture"), []
    for seed, split in itertools.product(range(4), ("train", "test")):
        image = picture(seed, SIZE).filter(ImageFilter.GaussianBlur(seed * (split == "test")))
        path = folder / f"{seed} {split}.png"
        image.save(path)
        rows.append(
            Row(
                path,
                float(seed),
                "ab"[seed % 2],
                split=split,
                reference="I01" if seed == 3 else None,
            )
        )
    for name, text in (("cut.png", rows[0].image.read_bytes()[:200]), ("page.png", b"<html>")):
        (folder / name).write_bytes(text)
        rows.append(Row(folder / name, 1.0, "a"))
    return rows


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.randoms(use_true_random=False), block=st.sampled_from([1, 3, 256]))
def test_neither_the_order_of_rows_nor_the_blocks_matter(mixture, order, block):
    rows = order.sample(mixture, len(mixture))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        checked = found(*rows)
    assert checked == found(*mixture)
    assert sorted(overlaps(checked)) == [
        ("exact", True, ["0 test.png", "0 train.png"]),
        ("near", True, ["1 test.png", "1 train.png"]),
        ("near", True, ["2 test.png", "2 train.png"]),
        ("reference", True, ["3 test.png", "3 train.png"]),
    ]
    assert [(Path(b.image).name, b.problem.count(b.image)) for b in checked.broken] == [
        ("cut.png", 1),
        ("page.png", 1),
    ]
    assert [(s.dataset, s.images, sum(s.kinds.values())) for s in checked.datasets] == [
        ("a", 6, 4),
        ("b", 4, 4),
    ]
    written = json.loads(json.dumps(checked.to_dict()))
    assert not written["clean"]
    assert [o["leak"] for o in written["overlaps"]] == [True] * 4
    assert written["overlaps"][0]["members"][0]["split"] == "test"


def test_near_groups_are_those_of_a_naive_loop(saved):
    """Hashes at every distance around the limit, by imagehash's own difference and a walk over pairs."""
    first, second = picture(0, SIZE), picture(1, SIZE)
    images = {f"{step:02}.png": Image.blend(first, second, step / 23) for step in range(24)}
    hashes = {}
    for name, image in images.items():
        grey = image.convert("L").resize((64, 64), Image.Resampling.LANCZOS)
        hashes[name] = imagehash.phash(grey, hash_size=16)
    groups = {name: {name} for name in images}
    for a, b in itertools.combinations(images, 2):
        if hashes[a] - hashes[b] <= NEAR_BITS:
            merged = groups[a] | groups[b]
            groups |= dict.fromkeys(merged, merged)
    expected = sorted({tuple(sorted(group)) for group in groups.values() if len(group) > 1})
    checked = found(*(row(saved(name, image)) for name, image in images.items()))
    assert sorted(tuple(names) for _, _, names in overlaps(checked)) == expected
    assert 1 <= len(expected) < 12  # neither everything nor nothing
    for overlap in checked.overlaps:
        names = [Path(member.image).name for member in overlap.members]
        apart = [hashes[a] - hashes[b] for a, b in itertools.combinations(names, 2)]
        assert overlap.bits == max(bits for bits in apart if bits <= NEAR_BITS)


def test_a_file_of_two_manifests_is_opened_once_and_leaks(saved, monkeypatch):
    path, opened = saved("a.png", picture(1, SIZE)), []
    monkeypatch.setattr(module, "open_image", lambda path: opened.append(path) or open_image(path))
    checked = found(one=row(path, "train"), two=row(path, "train"))
    assert opened == [path]
    assert overlaps(checked) == [("exact", True, ["a.png", "a.png"])]
    assert [summary.manifest for summary in checked.datasets] == ["one", "two"]


def png_16_bit_colour() -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"\0" + struct.pack(">3H", 9, 99, 999))),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(d)) + tag + d + struct.pack(">I", zlib.crc32(tag + d))
        for tag, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_kinds_are_as_stored(saved, tmp_path):
    grey_16 = Image.fromarray(np.full((2, 2), 30_000, np.uint16))
    images = {
        "L": picture(0),
        "CMYK": picture(1),
        "RGBA": picture(2),
        "1": picture(3),
        "P": picture(4),
    }
    rows = [row(saved(f"{mode}.tif", image.convert(mode))) for mode, image in images.items()]
    rows += [row(saved("deep.png", grey_16)), row(saved("a.png", picture(5), format="JPEG"))]
    (tmp_path / "colour.png").write_bytes(png_16_bit_colour())
    (summary,) = found(*rows, row(tmp_path / "colour.png")).datasets
    stored = [*(f"TIFF {mode}" for mode in images), "PNG I;16", "PNG RGB;16", "JPEG RGB"]
    assert summary.kinds == dict.fromkeys(sorted(stored), 1)


def test_sizes_are_of_upright_images_and_none_if_all_are_broken(saved, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (turned,) = found(row(saved("a.jpg", picture(0, (60, 40)), exif=exif))).datasets
    assert (turned.width, turned.height) == ((40,) * 3, (60,) * 3)
    (gone,) = found(row(tmp_path / "gone.png")).datasets
    assert (gone.width, gone.height, gone.megapixels, gone.kinds, gone.images) == (
        None,
        None,
        None,
        {},
        1,
    )


def test_interrupting_does_not_open_the_rest(saved, monkeypatch):
    rows = [row(saved(f"{i}.png", picture(i))) for i in range(60)]
    opened = []

    def stopping(path):
        opened.append(path)
        if len(opened) == 5:
            raise KeyboardInterrupt
        return open_image(path)

    monkeypatch.setattr(module, "open_image", stopping)
    random.Random(0).shuffle(rows)
    with pytest.raises(KeyboardInterrupt):
        check({"m": Manifest(tuple(rows))})
    assert len(opened) < 60
