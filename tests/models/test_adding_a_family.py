"""A model family of one's own is one entry in `FAMILIES`. Without it the family still works, but is not packed.

The family is made up: a small Qwen2.5-VL under another name, so that nothing in the package can know it.
"""

import json
import logging
import shutil

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from conftest import picture
from small_runs import lines, small_recipe
from visualquality import Scorer, rl2r
from visualquality.models.families import (
    FAMILIES,
    OTHER,
    Family,
    ImageOnlyQwenVLProcessor,
    family_of,
)
from visualquality.models.load import load
from visualquality.train import packed
from visualquality.train.recipe import RL2R
from visualquality.train.run import train

SMALLEST = 28 * 28  # pixels that are one token of this model


class OwnConfig(Qwen2_5_VLConfig):
    model_type = "own_vl"


class OwnModel(Qwen2_5_VLForConditionalGeneration):
    config_class = OwnConfig


class OwnProcessor(ImageOnlyQwenVLProcessor):
    # Saves itself under its own name, not under that of Qwen's.
    save_pretrained = Qwen2_5_VLProcessor.save_pretrained


def limit_pixels(processor, max_pixels):
    processor.image_processor.size = {"shortest_edge": SMALLEST, "longest_edge": max_pixels}


# All that a new family takes.
OWN = Family(
    load_processor=lambda name, subfolder: OwnProcessor.from_pretrained(name, subfolder=subfolder),
    limit_pixels=limit_pixels,
    vision_tower=lambda model: model.model.visual,
    packable=True,
)


@pytest.fixture
def folder(model_folder, tmp_path):
    """A folder with weights of the family, whose classes transformers knows while the test runs."""
    AutoConfig.register("own_vl", OwnConfig)
    AutoModelForImageTextToText.register(OwnConfig, OwnModel)
    AutoProcessor.register(OwnConfig, OwnProcessor)
    target = tmp_path / "own"
    shutil.copytree(model_folder("qwen2_5_vl"), target)
    # transformers renames the weights of a Qwen2.5-VL when it reads and writes them, so they are written anew.
    qwen = load(str(target), device="cpu").model
    own = OwnModel(OwnConfig(**qwen.config.to_dict() | {"model_type": "own_vl"}))
    own.load_state_dict(qwen.state_dict())
    own.generation_config = qwen.generation_config
    own.save_pretrained(target)
    for name in ("processor_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        change(target / name, processor_class="OwnProcessor")
    yield target
    for mapping, key in (
        (CONFIG_MAPPING, "own_vl"),
        (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, OwnConfig),
        (PROCESSOR_MAPPING, OwnConfig),
    ):
        del mapping._extra_content[key]


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def run_one_step(folder, tmp_path, ranking_set, monkeypatch):
    """A function: name of a run -> the folder of the trained model, and its metrics, after one step of RL2R."""
    # A random model earns no reward. Without an advantage there would be no gradient to compare.
    ranks = torch.linspace(-1, 1, 3)
    monkeypatch.setattr(rl2r, "advantage", lambda rewards: ranks.expand(len(rewards), -1))

    def run(name):
        changes = {
            "optimizer": {"steps": 1},
            "rl2r": {"kl_weight": RL2R().kl_weight},
            "freeze_vision": True,
            "max_pixels": 4 * SMALLEST,
        }
        recipe = small_recipe(tmp_path, folder, ranking_set, name, **changes)
        final = train(recipe)
        (metrics,) = lines(recipe.output / "metrics.jsonl")
        return final, metrics

    return run


def test_one_entry_scores(folder, monkeypatch):
    monkeypatch.setitem(FAMILIES, "own_vl", OWN)
    scorer = Scorer(str(folder), mode="expect", max_pixels=4 * SMALLEST, device="cpu")
    assert type(scorer.vlm.model) is OwnModel
    rating = scorer(picture(0, (200, 150)))
    assert 1 <= rating.score <= 5
    # The bound on pixels is that of the entry: at most four tokens stand for the image.
    (prompt,) = scorer.reader(picture(0, (200, 150))).prompts
    tokens = prompt.tokens["input_ids"] == scorer.vlm.model.config.image_token_id
    assert 1 <= tokens.sum() <= 4
    drawn = Scorer(scorer.vlm, samples=2, max_new_tokens=8)(picture(0))
    assert len(drawn.samples) == 2


def test_one_entry_trains_with_packed_responses(run_one_step, folder, monkeypatch, caplog):
    monkeypatch.setitem(FAMILIES, "own_vl", OWN)
    monkeypatch.setattr(packed, "repeated_log_probabilities", None)  # calling it would fail
    with caplog.at_level(logging.WARNING, packed.__name__):
        final, metrics = run_one_step("packed")
    assert metrics["grad_norm"] > 0
    assert not [record for record in caplog.records if record.name == packed.__name__]
    before, after = (load(str(path), device="cpu").model.state_dict() for path in (folder, final))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [
        name for name in changed if ".visual." in name
    ]  # `vision_tower` found what to freeze


def test_without_the_entry_responses_have_rows_of_their_own(
    run_one_step, folder, monkeypatch, caplog
):
    packed._warn_once.cache_clear()
    assert family_of(AutoConfig.from_pretrained(folder)) is OTHER
    with caplog.at_level(logging.WARNING, packed.__name__):
        _, plain = run_one_step("plain")
    (line,) = [record.getMessage() for record in caplog.records if record.name == packed.__name__]
    assert "OwnModel" in line
    assert "own_vl" in line
    # The same step: the layout changes what it costs, not what is learnt.
    monkeypatch.setitem(FAMILIES, "own_vl", OWN)
    _, ours = run_one_step("packed")
    assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert ours["kl"] == pytest.approx(plain["kl"], abs=1e-6)
