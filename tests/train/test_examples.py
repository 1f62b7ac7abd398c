"""What a frozen vision tower gives is kept as long as it is wanted, and no longer."""

import gc
import weakref

import torch

from conftest import picture
from visualquality.models.load import load
from visualquality.train.examples import FeatureCache, PromptEncoder


def paths_of(folder, count):
    paths = []
    for index in range(count):
        paths.append(folder / f"{index}.png")
        picture(index, (64, 64)).save(paths[-1])
    return paths


def test_a_cache_ends_with_those_who_hold_it(model_folder, tmp_path):
    vlm = load(str(model_folder("nano")), device="cpu")
    encode = PromptEncoder(vlm, FeatureCache())
    (prompt,) = encode([((path,), "Rate.") for path in paths_of(tmp_path, 1)])
    kept = weakref.ref(prompt.images["vision_features"])
    assert kept() is not None
    del encode, prompt
    gc.collect()
    assert kept() is None


def test_a_full_cache_computes_anew_and_gives_the_same(model_folder, tmp_path):
    vlm = load(str(model_folder("nano")), device="cpu")
    wanted = [((path,), "Rate.") for path in paths_of(tmp_path, 4)]
    roomy, full = FeatureCache(), FeatureCache(max_bytes=1)
    whole, part = PromptEncoder(vlm, roomy)(wanted), PromptEncoder(vlm, full)(wanted)
    assert len(roomy.features) == 4
    assert len(full.features) == 1  # what made it full; no more is added
    for one, other in zip(whole, part, strict=True):
        assert torch.equal(one.images["vision_features"], other.images["vision_features"])


def test_another_tower_empties_the_cache(model_folder, tmp_path):
    wanted = [((path,), "Rate.") for path in paths_of(tmp_path, 2)]
    cache = FeatureCache()
    first = load(str(model_folder("nano")), device="cpu")
    (before, _) = PromptEncoder(first, cache)(wanted)
    again = PromptEncoder(load(str(model_folder("nano")), device="cpu"), cache)
    assert again(wanted)[0].images["vision_features"] is before.images["vision_features"]
    changed = load(str(model_folder("nano")), device="cpu")
    with torch.no_grad():
        changed.model.model.vision.tower.stem.bias += 0.1
    (after, _) = PromptEncoder(changed, cache)(wanted)
    assert not torch.equal(after.images["vision_features"], before.images["vision_features"])
    assert len(cache.features) == 2
