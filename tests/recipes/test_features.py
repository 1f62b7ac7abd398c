"""The statistics of images for the stages of build.py: computed once, and kept."""

import pytest
import torch
from rich.console import Console

from conftest import picture
from recipes.nano import features
from recipes.nano.features import Features
from visualquality.models.load import load

CONSOLE = Console(quiet=True)


@pytest.fixture
def paths(tmp_path):
    sizes = [(84, 56), (64, 64), (260, 120), (96, 40), (70, 70)]
    found = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for seed, (path, size) in enumerate(zip(found, sizes, strict=True)):
        picture(seed, size).save(path)
    return found


@pytest.fixture
def vlm(model_folder):
    return load(str(model_folder("nano")), device="cpu")


@pytest.fixture
def computed(vlm, monkeypatch):
    """How many images went through the tower since the last `clear`."""
    seen = []
    real = vlm.model.frozen_vision_features

    def counted(images):
        seen.append(len(images["image_grid_thw"]))
        return real(images)

    monkeypatch.setattr(vlm.model, "frozen_vision_features", counted)
    return seen


def test_each_image_is_computed_once_and_kept_in_files(vlm, computed, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 2)  # so that there are several files
    kept = tmp_path / "features"
    first = Features(kept, CONSOLE)
    parts = first.parts(vlm, paths[:3])
    assert sum(computed) == 3
    computed.clear()
    for one, other in zip(first.parts(vlm, paths[:3]), parts, strict=True):
        assert torch.equal(one, other)
    assert computed == []
    # Another object finds them, in another order too, and computes what is new.
    second = Features(kept, CONSOLE)
    order = [4, 2, 0, 3, 1]
    again = second.parts(vlm, [paths[i] for i in order])
    assert sum(computed) == 2
    for one, other in zip(again, parts, strict=True):
        assert torch.equal(one[[2, 4, 1]], other)
    computed.clear()
    files = {path: path.read_bytes() for path in kept.rglob("*.pt")}
    assert len(files) == 3
    for path in paths:
        path.unlink()  # the images are not needed any more
    Features(kept, CONSOLE).parts(vlm, paths)
    assert computed == []
    assert {path: path.read_bytes() for path in kept.rglob("*.pt")} == files


def test_they_are_what_the_model_sees(vlm, paths, tmp_path):
    parts = Features(tmp_path / "features", CONSOLE).parts(vlm, paths)
    widths = vlm.model.model.vision.widths
    assert [part.shape for part in parts] == [(len(paths), width) for width in widths]
    images = vlm.processor.image_processor([picture(2, (260, 120))])
    (alone,) = vlm.model.frozen_vision_features(dict(images))
    torch.testing.assert_close(
        torch.cat([part[2] for part in parts]), alone[: sum(widths)], atol=1e-5, rtol=1e-5
    )


def test_stages_that_train_find_them_in_memory(vlm, computed, paths, tmp_path):
    found = Features(tmp_path / "features", CONSOLE)
    found.parts(vlm, paths)
    computed.clear()
    found.encoder(vlm)([((path,), "Rate it.") for path in paths])
    assert computed == []


def test_what_an_interrupted_run_finished_is_found(vlm, computed, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 2)
    real, calls = Features._compute, []

    def stops(self, encode, part):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, encode, part)

    monkeypatch.setattr(Features, "_compute", stops)
    with pytest.raises(KeyboardInterrupt):
        Features(tmp_path / "features", CONSOLE).parts(vlm, paths)
    monkeypatch.setattr(Features, "_compute", real)
    computed.clear()
    Features(tmp_path / "features", CONSOLE).parts(vlm, paths)
    assert sum(computed) == 3


def test_another_tower_does_not_find_them(vlm, computed, paths, tmp_path):
    found = Features(tmp_path / "features", CONSOLE)
    found.parts(vlm, paths)
    computed.clear()
    with torch.no_grad():
        vlm.model.model.vision.tower.stem.weight += 1
    found.parts(vlm, paths)
    assert sum(computed) == len(paths)


def test_other_readers_find_them(vlm, computed, paths, tmp_path):
    found = Features(tmp_path / "features", CONSOLE)
    found.parts(vlm, paths)
    computed.clear()
    with torch.no_grad():
        vlm.model.model.vision.readers.tower.weights += 1
    found.parts(vlm, paths)
    found.encoder(vlm)([((path,), "Rate it.") for path in paths])
    assert computed == []
