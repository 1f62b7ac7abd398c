"""Training with a reference: a second image in every prompt."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import ImageFilter

from conftest import picture
from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.score.scorer import Scorer
from visualquality.train.examples import FeatureCache, PromptEncoder, read_examples
from visualquality.train.plan import plan
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train


@pytest.fixture(scope="module")
def referenced_set(tmp_path_factory) -> Path:
    """Two references in a folder of their own, each with three blurred copies."""
    folder = tmp_path_factory.mktemp("referenced")
    lines = ["image,mos,reference,reasoning"]
    for scene in range(2):
        (folder / f"clean/{scene}").mkdir(parents=True)
        (folder / "blurred").mkdir(exist_ok=True)
        picture(scene).save(folder / f"clean/{scene}/photo.png")
        for level in (1, 2, 3):
            name = f"blurred/{scene}_{level}.png"
            picture(scene).filter(ImageFilter.GaussianBlur(level)).save(folder / name)
            lines.append(f"{name},{5 - level},clean/{scene}/photo.png,blur {level}")
    (folder / "set.csv").write_text("\n".join(lines) + "\n")
    return folder / "set.csv"


@pytest.fixture
def recipe(tmp_path, model_folder, referenced_set):
    def make(family: str = "nano", **changes):
        tree = {
            "model": str(model_folder(family)),
            "data": [{"manifest": str(referenced_set)}],
            "output": str(tmp_path / "run"),
            "reference": True,
            "optimizer": {"steps": 2, "images_per_device": 3, "learning_rate": 1e-3},
            "rl2r": {"responses": 2, "max_new_tokens": 8},
            "max_pixels": 56 * 56,
            **changes,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return read_recipe(tmp_path / "recipe.yaml")

    return make


@pytest.mark.parametrize("family", ["nano", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["rl2r", "sft", "expect"])
def test_every_method_trains_on_prompts_of_two_images(family, method, recipe, monkeypatch):
    asked = []
    real = PromptEncoder.__call__

    def spied(self, prompts):
        encoded = real(self, prompts)
        asked.extend(zip(prompts, encoded, strict=True))
        return encoded

    monkeypatch.setattr(PromptEncoder, "__call__", spied)
    chosen = recipe(family, method=method, expect={"rehearsal": 1.0}, freeze_vision=True)
    final = train(chosen)
    metrics = [
        json.loads(line) for line in (chosen.output / "metrics.jsonl").read_text().splitlines()
    ]
    assert [m["step"] for m in metrics] == [1, 2]
    assert all(m["loss"] == m["loss"] for m in metrics)
    with pytest.raises(UserError, match="trained with references"):
        Scorer(str(final), device="cpu")
    assert len(asked) >= 6
    for (paths, question), encoded in asked:
        reference, image = paths
        assert image.name.startswith(reference.parent.name)  # 0_1.png is of clean/0/photo.png
        assert "first image is the reference" in question
        assert len(encoded.images["image_grid_thw"]) == 2


def test_prompts_are_remembered_by_both_images(recipe, monkeypatch):
    examples = read_examples(recipe())
    vlm = load(str(recipe().model), device="cpu")
    encode = PromptEncoder(vlm, FeatureCache())
    (reference, image), question = examples[0].images, "Rate."
    with_it, with_other = encode(
        [((reference, image), question), ((examples[-1].reference, image), question)]
    )
    assert not torch.equal(with_it.images["vision_features"], with_other.images["vision_features"])
    (alone,) = encode([((image,), question)])
    own = alone.images["vision_features"]
    assert torch.equal(with_it.images["vision_features"][-len(own) :], own)
    # The tower is not called again, whatever the question.
    monkeypatch.setattr(vlm.model, "frozen_vision_features", None)
    (again,) = encode([((reference, image), "Rate it once more.")])
    assert again.images["vision_features"] is with_it.images["vision_features"]
    assert len(again) > len(with_it)


def test_rows_without_a_reference_are_named_before_any_work(recipe, referenced_set):
    lines = referenced_set.read_text().splitlines()
    faulty = referenced_set.with_name("faulty.csv")
    lines[2] = lines[2].replace("clean/0/photo.png", "")
    lines[4] = lines[4].replace("clean/1/photo.png", "clean/9/photo.png")
    faulty.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        train(recipe(data=[{"manifest": str(faulty)}]))
    first, second = str(caught.value).splitlines()[1:]
    assert "row 3, reference: is empty" in first
    assert "row 5, reference: no file 'clean/9/photo.png'" in second
    assert len(read_examples(recipe(data=[{"manifest": str(faulty)}], reference=False))) == 6


def test_the_plan_counts_two_images_a_prompt(recipe):
    costs = [
        plan(r, read_examples(r)).memory.activations for r in (recipe(reference=False), recipe())
    ]
    assert costs[1] > costs[0]
