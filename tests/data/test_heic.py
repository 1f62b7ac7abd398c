"""HEIC is read where pi-heif is installed, and nothing needs it where there is no such file."""

import subprocess
import sys

import numpy as np
import pytest

from odd_images import HEIC
from visualquality.data.find import find_images
from visualquality.data.images import image_faults, open_image, read_image
from visualquality.errors import UserError


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.heic"
    path.write_bytes(HEIC)
    return path


def test_a_photo_is_read_with_its_crop_box(photo):
    pytest.importorskip("pi_heif")
    assert find_images([photo.parent]) == [photo]
    opened = read_image(photo)
    assert (opened.image.size, opened.warnings) == ((29, 100), ())
    pixels = np.asarray(opened.image).astype(int)
    assert np.ptp(pixels, axis=2).max() <= 2  # grey
    assert pixels[-1].mean() - pixels[0].mean() > 200  # a ramp from black to white
    photo.rename(photo.with_suffix(".jpg"))  # recognised by its content
    assert open_image(photo.with_suffix(".jpg")).size == (29, 100)


def test_a_photo_that_is_cut_off_is_damaged(photo):
    pytest.importorskip("pi_heif")
    for data in (HEIC[:700], HEIC[:-1], HEIC[:900] + bytes(len(HEIC) - 900)):
        photo.write_bytes(data)
        with pytest.raises(UserError, match="truncated or damaged"):
            open_image(photo)


def test_without_the_package_the_message_names_the_extra(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(UserError, match=r"photo\.heic: .* pip install 'visualquality\[heic\]'"):
        open_image(photo)
    assert "visualquality[heic]" in str(image_faults([photo])[0])


def test_the_package_is_not_imported_for_other_files(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.avif")
    program = (
        "import sys; from visualquality.data.images import open_image\n"
        "[open_image(path) for path in sys.argv[1:]]\n"
        "print('pi_heif' in sys.modules, 'PIL.ImageCms' in sys.modules)"
    )
    command = [sys.executable, "-c", program, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "False False\n", done.stderr
