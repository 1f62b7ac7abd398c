"""Walking folders for images, and finding reference images."""

import os
from pathlib import Path

import pytest

from visualquality.data.find import NOT_READ, SUFFIXES, find_images, find_references, search
from visualquality.errors import UserError


def test_find_images(tmp_path, monkeypatch):
    hidden = [".hidden.png", ".cache/y.png"]
    walked = ["a/deep (1)/x.WebP", "b/10.png", "b/2.JPG", "b (2).gif", "c/1.bmp", "z.tiff"]
    for name in [*hidden, *reversed(walked), "a/notes.txt", "odd.raw"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [tmp_path / name for name in walked]
    given = [tmp_path / "odd.raw", tmp_path / "b", tmp_path / "b/../z.tiff", tmp_path]
    order = [
        "odd.raw",
        "b/10.png",
        "b/2.JPG",
        "b/../z.tiff",
        "a/deep (1)/x.WebP",
        "b (2).gif",
        "c/1.bmp",
    ]
    assert find_images(given) == [tmp_path / name for name in order]
    monkeypatch.chdir(tmp_path)
    assert find_images([Path("b")]) == [Path("b/10.png"), Path("b/2.JPG")]
    with pytest.raises(UserError, match="gone does not exist"):
        find_images([tmp_path / "z.tiff", tmp_path / "gone"])
    (tmp_path / "none").mkdir()
    for nothing in ([], [tmp_path / "none"]):
        with pytest.raises(UserError, match="no image in"):
            find_images(nothing)


def test_what_is_not_read_is_counted_by_ending(tmp_path):
    for name in ["a.png", "a.dng", "deep/b.DNG", "c.psd", "d.tga", ".e.mov", "f.txt", "g.xmp", "h"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = search([tmp_path, tmp_path / "deep"])  # a file that is met twice counts once
    assert found.images == [tmp_path / "a.png"]
    assert found.skipped_line == "4 files were skipped: 2 .dng, 1 .psd, 1 .tga"
    # A file that is named is read: its content tells what it is.
    assert search([tmp_path / "c.psd", tmp_path / "a.png"]).skipped_line is None
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no image in .*\(4 files were skipped: 2 \.dng"):
        search([tmp_path])
    (tmp_path / "deep" / "b.DNG").rename(tmp_path / "deep" / "b.webp")
    assert search([tmp_path / "deep"]).skipped_line is None
    assert not SUFFIXES & {ending for endings in NOT_READ.values() for ending in endings.split()}


def test_a_folder_that_cannot_be_listed_is_not_skipped(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="locked cannot be listed"):
        find_images([tmp_path])


def test_references_are_found_by_their_stem(tmp_path):
    for name in ["refs/a.png", "refs/deep/b.tif", "refs/twice/c.png", "refs/c.jpg", "one.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    refs = tmp_path / "refs"
    images = [Path("b.jpg"), Path("x/a.jpg"), Path("y/a.png")]
    expected = [refs / "deep/b.tif", refs / "a.png", refs / "a.png"]
    assert find_references(images, refs) == expected
    assert find_references(images, tmp_path / "one.png") == [tmp_path / "one.png"] * 3
    with pytest.raises(UserError, match=r"d\.jpg has no reference: .* d in"):
        find_references([Path("d.jpg")], refs)
    with pytest.raises(UserError, match=r"c\.png has several references.*c\.jpg.*c\.png"):
        find_references([Path("c.png")], refs)
    with pytest.raises(UserError, match="gone does not exist"):
        find_references(images, tmp_path / "gone")
