"""What users see of odd files: what was skipped, what was read with a warning, and nothing of their metadata."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.data.images import open_image

run = CliRunner()
SECRET = "SECRETCAMERA9000"


def said(*arguments: object) -> tuple[int, str, str]:
    result = run.invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        picture(i, (128, 128)).save(photos / f"{i}.png")
    return photos


def test_skipped_files_are_counted_before_the_work_and_in_the_summary(folder, tmp_path):
    line = "4 files were skipped: 2 .dng, 1 .psd, 1 .tga"
    for name in ("a.dng", "b.dng", "c.psd", "d.tga"):
        (folder / name).touch()
    status, _, shown = said("score", folder, "--model", "niqe", "-o", tmp_path / "out.csv")
    assert status == 0
    first, *_, last = shown.splitlines()
    assert (first, last) == (line, line)
    assert f"2 of 2 images scored -> {tmp_path / 'out.csv'}".replace("\n", "") in shown.replace(
        "\n", ""
    )
    assert line in said("rank", folder, "--model", "niqe")[2]
    assert "skipped" not in said("score", folder / "0.png", "--model", "niqe")[2]


def test_a_warning_is_in_the_row_and_on_the_terminal(folder, tmp_path):
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 4096, (128, 128), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"deep{i}.tif")
    output = tmp_path / "out.jsonl"
    shown = said("score", folder, "--model", "brisque", "-o", output)[2]
    assert "deep0.tif and 2 more: none of its 16-bit values is above 4,095" in shown
    assert output.read_text().count("--assume-bits 12") == 3
    # The same journal is not continued with pixels that are read in another way.
    status, _, shown = said(
        "score", folder, "--model", "brisque", "-o", output, "--assume-bits", 12
    )
    assert (status, "was written with assume_bits none" in " ".join(shown.split())) == (2, True)
    for command in (["rank", folder], ["compare", folder / "deep0.tif", folder / "0.png"]):
        assert "--assume-bits 12" in said(*command, "--model", "brisque")[2]
        told = said(*command, "--model", "brisque", "--assume-bits", 12)
        assert (told[0], "assume" in told[2]) == (0, False)


def test_the_limit_of_pixels_is_an_option_where_images_are_scored(folder, tmp_path):
    (tmp_path / "set.csv").write_text("image,mos\nphotos/0.png,1\nphotos/1.png,2\n")
    commands = [
        ["score", folder],
        ["rank", folder],
        ["evaluate", "--data", tmp_path / "set.csv"],
        ["compare", folder / "0.png", folder / "1.png"],
    ]
    for command in commands:
        _, shown, errors = said(*command, "--model", "brisque", "--max-image-pixels", 16383)
        words = " ".join((shown + errors).split())
        assert "--max-image-pixels" in words.replace("│ ", "").replace("- ", "-"), words
        status, _, errors = said(*command, "--model", "brisque", "--max-image-pixels", 16384)
        assert (status, errors) == (0, "")
    status, _, errors = said("score", folder, "--max-image-pixels", 0)
    assert (status, "max_image_pixels is 0" in errors) == (2, True)


def test_metadata_of_photos_is_in_no_report_export_or_page(folder, tmp_path):
    """EXIF, GPS, XMP, comments and names of profiles: a page may be passed on."""
    exif = Image.Exif()
    exif[0x010F] = SECRET
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[29] = SECRET
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = picture(7, (128, 128))
    photo.save(folder / "a.jpg", exif=exif, xmp=xmp, comment=SECRET, icc_profile=srgb)
    photo.save(folder / "b.png", exif=exif, pnginfo=text, icc_profile=b"broken " + SECRET.encode())
    photo.save(folder / "c.webp", exif=exif, xmp=xmp)
    photo.save(folder / "d.tif", exif=exif)
    names = ["a.jpg", "b.png", "c.webp", "d.tif"]
    assert all(SECRET.encode() in (folder / name).read_bytes() for name in names)
    for name in names:
        with Image.open(folder / name) as lazy:
            assert open_image(lazy.convert("P")).info == {}
        opened = open_image(folder / name)
        assert (opened.info, set(opened.getexif()) - {274}) == ({}, set())  # 1, upright
    rows = [f"photos/{name},{i}" for i, name in enumerate(names)]
    (tmp_path / "set.csv").write_text("\n".join(["image,mos", *rows]) + "\n")

    made = tmp_path / "made"
    made.mkdir()
    for ending in ("csv", "parquet", "jsonl"):
        assert said("score", folder, "--model", "niqe", "-o", made / f"out.{ending}")[0] == 0
    results, page = made / "out.csv", made / "page.html"
    assert said("report", results, "-o", page)[0] == 0
    rated = made / "rated.html"
    assert said("report", results, "--data", tmp_path / "set.csv", "-o", rated)[0] == 0
    for sheet in ("sheet.png", "sheet.jpg"):
        assert said("data", "show", tmp_path / "set.csv", "-o", made / sheet)[0] == 0
    shown = said("score", folder, "--model", "niqe")
    assert SECRET not in shown[1] + shown[2]

    pictures = 0
    for path in made.iterdir():
        content = path.read_bytes()
        embedded = re.findall(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)", content)
        pictures += len(embedded)
        for data in [content, *map(base64.b64decode, embedded)]:
            assert SECRET.encode() not in data, path
            assert b"Exif\0\0" not in data, path
        for data in map(base64.b64decode, embedded):
            with Image.open(io.BytesIO(data)) as image:
                assert not image.getexif()
                assert not {"exif", "xmp", "icc_profile", "comment"} & image.info.keys()
    assert pictures > 0
