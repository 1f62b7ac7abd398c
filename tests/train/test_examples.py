"""What is trained on: which rows of which manifests, and prompts that are encoded once where that is possible."""

import gc
import weakref

import pytest
import torch
import yaml

from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.train import examples
from visualquality.train.examples import FeatureCache, PromptEncoder, read_examples, read_probes
from visualquality.train.recipe import read_recipe


@pytest.fixture
def recipe(tmp_path, ranking_set):
    def make(**changes):
        tree = {"data": [{"manifest": str(ranking_set)}], "optimizer": {"steps": 1}, **changes}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return read_recipe(tmp_path / "recipe.yaml")

    return make


def test_examples_are_named_wherever_the_files_are(recipe, ranking_set):
    found = read_examples(recipe())
    assert [e.key for e in found[:2]] == ["lab/0/lab0.png", "lab/1/lab1.png"]
    assert found[9].path == ranking_set.parent / "wild1.png"
    assert (found[9].mos, found[9].dataset, found[9].reasoning) == (90, "wild", "blur 1")


def test_a_scale_is_taken_to_1_to_5(recipe, ranking_set):
    scaled = {"manifest": str(ranking_set), "mos_range": [0, 100]}
    found = read_examples(recipe(data=[scaled]))
    assert found[8].mos == 5  # it was 100
    assert read_probes(recipe(probes=scaled)) == found
    assert read_probes(recipe()) == []


def test_faulty_sources_are_named(recipe, ranking_set):
    source = {"manifest": str(ranking_set)}
    with pytest.raises(UserError, match=r"lab0\.png is in two manifests .* \(16 such"):
        read_examples(recipe(data=[source, source]))
    with pytest.raises(UserError, match=r"ranking\.csv names no splits: .*split_seed"):
        read_examples(recipe(data=[{**source, "split": "train"}]))
    parts = [
        read_examples(recipe(data=[{**source, "split": part, "split_seed": 0}]))
        for part in ("train", "val", "test")
    ]
    assert sorted(e.path for part in parts for e in part) == sorted(
        e.path for e in read_examples(recipe())
    )
    split = ranking_set.with_name("split.csv")
    split.write_text("image,mos,split\nlab0.png,1,train\n")
    with pytest.raises(UserError, match=r"split\.csv has no row of split 'val'"):
        read_examples(recipe(data=[{"manifest": str(split), "split": "val"}]))


def same(a, b) -> bool:
    pairs = [(a.tokens, b.tokens), (a.images, b.images)]
    return all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in pairs
    )


def test_a_cache_encodes_once_and_gives_the_same_prompts(
    recipe, ranking_set, model_folder, monkeypatch
):
    opened = []
    real = examples.open_image
    monkeypatch.setattr(examples, "open_image", lambda path: opened.append(path) or real(path))
    vlm = load(str(model_folder("nano")), device="cpu")
    paths = [ranking_set.parent / f"lab{i}.png" for i in (0, 1, 0)]
    wanted = [((path,), "Rate.") for path in paths]
    cache, full = FeatureCache(), FeatureCache(max_bytes=0)
    first = PromptEncoder(vlm, cache)(wanted)
    assert sorted(opened) == paths[:2]
    again = PromptEncoder(vlm, cache)(wanted[::-1])[::-1]
    assert sorted(opened) == paths[:2]
    # Without room everything is computed each time, to the same numbers.
    for prompts in (again, PromptEncoder(vlm, full)(wanted), PromptEncoder(vlm, full)(wanted)):
        assert all(same(a, b) for a, b in zip(first, prompts, strict=True))
    assert len(opened) == 6
    assert not full.prompts
    assert not same(first[0], first[1])
    assert cache.size == sum(
        tensor.nbytes
        for p in first[:2]
        for part in (p.tokens, p.images)
        for tensor in part.values()
    )


def test_features_that_two_questions_share_count_once(ranking_set, model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    cache, images = FeatureCache(), (ranking_set.parent / "lab0.png",)
    first, second = PromptEncoder(vlm, cache)([(images, "Rate."), (images, "Judge.")])
    held = {id(t): t for p in (first, second) for t in (*p.tokens.values(), *p.images.values())}
    assert first.images["vision_features"] is second.images["vision_features"]
    assert cache.size == sum(tensor.nbytes for tensor in held.values())


def test_another_tower_empties_the_cache(ranking_set, model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    cache = FeatureCache()
    wanted = [((ranking_set.parent / "lab0.png",), "Rate.")]
    (before,) = PromptEncoder(vlm, cache)(wanted)
    with torch.no_grad():
        for weight in vlm.model.model.vision.tower.parameters():
            weight.mul_(1.1)
    (after,) = PromptEncoder(vlm, cache)(wanted)
    assert not torch.equal(before.images["vision_features"], after.images["vision_features"])
    assert len(cache.prompts) == len(cache.features) == 1


def test_a_cache_ends_with_those_who_hold_it(ranking_set, model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    encode = PromptEncoder(vlm, FeatureCache())
    (prompt,) = encode([((ranking_set.parent / "lab0.png",), "Rate.")])
    kept = weakref.ref(prompt.images["vision_features"])
    assert kept() is not None
    del encode, prompt
    gc.collect()
    assert kept() is None


def test_without_a_cache_prompts_have_pixels(ranking_set, model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    (prompt,) = PromptEncoder(vlm)([((ranking_set.parent / "lab0.png",), "Rate.")])
    assert "pixel_values" in prompt.images
    assert "vision_features" not in prompt.images
