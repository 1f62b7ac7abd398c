"""Training in stages: a LoRA stage on the result of a LoRA stage, and full training from it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from small_runs import assert_same_weights, lines, reward_on_a_letter, small_recipe, weights
from visualquality import Scorer
from visualquality.errors import UserError
from visualquality.models.folder import ADAPTER, ADAPTER_WEIGHTS
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.train import trainer as trainer_module
from visualquality.train.memory import model_size
from visualquality.train.plan import plan
from visualquality.train.recipe import Recipe
from visualquality.train.run import train

quiet_libraries()


def lora_recipe(folder: Path, model: Path, manifest: Path, name: str, **changes) -> Recipe:
    """Two steps of LoRA."""
    changes = {
        "lora": {"rank": 2},
        "data": [{"manifest": str(manifest), "mos_range": [0, 100]}],
        "checkpoint_every": 1,
        **changes,
        "optimizer": {"steps": 2, "learning_rate": 1e-2, **changes.get("optimizer", {})},
    }
    return small_recipe(folder, model, manifest, name, **changes)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, model_folder, ranking_set):
    """A function: family -> the result of a LoRA stage."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            changes = {"method": "sft", "optimizer": {"steps": 4}}
            first = lora_recipe(place, model_folder(family), ranking_set, "first", **changes)
            made[family] = train(first)
        return made[family]

    return folder


@pytest.fixture
def first(trained_once, tmp_path) -> Path:
    """The result of a LoRA stage, to be changed at will."""
    return Path(shutil.copytree(trained_once("qwen2_5_vl"), tmp_path / "first"))


@pytest.fixture
def recipe(tmp_path, ranking_set, monkeypatch):
    """A function: name, model folder, overrides -> a recipe of two LoRA steps."""
    reward_on_a_letter(monkeypatch)

    def make(name: str, model: Path, **changes) -> Recipe:
        return lora_recipe(tmp_path, model, ranking_set, name, **changes)

    return make


@pytest.mark.parametrize("method", ["rl2r", "sft", "expect"])
def test_a_lora_stage_goes_on_with_the_adapter_before(recipe, first, method, pictures):
    second = train(recipe("second", first, method=method))
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()  # one adapter, of the same shape, on the same base
    assert any(not torch.equal(before[name], after[name]) for name in before)
    settings = [json.loads((folder / ADAPTER).read_text()) for folder in (first, second)]
    assert settings[0]["base_model_name_or_path"] == settings[1]["base_model_name_or_path"]
    assert not (second / "start").exists()
    # The result needs nothing of the first stage.
    shutil.rmtree(first)
    rating = Scorer(str(second), mode="expect", device="cpu")(pictures[0])
    assert 1 <= rating.score <= 5


def test_a_stage_starts_where_the_one_before_ended(recipe, first, model_folder, pictures):
    """At a learning rate of nearly 0 it is the same model, and other than the base."""
    second = train(recipe("second", first, optimizer={"learning_rate": 1e-30}))
    assert_same_weights(first, second)
    models = (first, model_folder("qwen2_5_vl"))
    scores = [Scorer(str(m), mode="expect", device="cpu")(pictures[0]).score for m in models]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("family", ["nano", "qwen2_5_vl"])
def test_the_reference_of_kl_is_the_start_of_the_stage(recipe, trained_once, family):
    """The KL of the first step is 0 although the policy is far from the base by then."""
    second = recipe("second", trained_once(family))
    train(second)
    kl = [line["kl"] for line in lines(second.output / "metrics.jsonl")]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 1e-5


def test_a_second_stage_is_resumed_to_the_bit(recipe, first):
    straight = recipe("straight", first, optimizer={"steps": 4})
    uninterrupted = train(straight)
    stopped = recipe("stopped", first, optimizer={"steps": 4})
    train(stopped)
    for name in ("checkpoint-3", "checkpoint-4", "final"):
        shutil.rmtree(stopped.output / name, ignore_errors=True)
    shutil.copytree(straight.output / "checkpoint-3", stopped.output / "checkpoint-3")
    assert_same_weights(uninterrupted, train(stopped, resume=True))
    logs = [lines(run.output / "metrics.jsonl") for run in (straight, stopped)]
    assert [line["kl"] for line in logs[0]] == [line["kl"] for line in logs[1]]
    assert logs[0][-1]["kl"] > 0


@pytest.mark.parametrize("method", ["rl2r", "sft"])
def test_full_training_from_an_adapter_starts_from_the_merged_weights(recipe, first, method):
    full = recipe("full", first, method=method, lora=None)
    final = train(full)
    assert (final / "config.json").is_file()
    assert not (final / ADAPTER).exists()
    merged = load(str(first), device="cpu").model.state_dict()
    after = load(str(final), device="cpu").model.state_dict()
    assert merged.keys() == after.keys()
    changed = {name for name in merged if not torch.equal(merged[name], after[name])}
    assert any("embed_tokens" in name for name in changed)  # which no adapter touches
    if method == "rl2r":
        assert lines(full.output / "metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-6)
    shutil.rmtree(full.output / "checkpoint-2")
    shutil.move(final, final.with_name("uninterrupted"))
    assert_same_weights(final.with_name("uninterrupted"), train(full, resume=True))


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"rank": 3}, r"lora\.rank 2 and not 3"),
        ({"rank": 2, "alpha": 4}, r"lora\.alpha 32 and not 4"),
        ({"rank": 2, "targets": r".*language_model.*\.q_proj"}, r"lora\.targets .* and not"),
    ],
)
def test_another_adapter_than_the_one_before_is_refused(recipe, first, lora, reason):
    second = recipe("second", first, lora=lora)
    for refuse in (lambda: train(second), lambda: plan(second, [])):
        with pytest.raises(UserError, match=f"an adapter with {reason}.*visualquality merge"):
            refuse()
    assert not second.output.exists()


def test_targets_that_other_software_wrote_as_a_list_are_compared_by_their_modules(recipe, first):
    """A list of names may mean the same modules as the recipe's expression."""
    path = first / ADAPTER
    settings = json.loads(path.read_text())
    places = {key.split(".lora_")[0].removeprefix("base_model.model.") for key in weights(first)}
    path.write_text(json.dumps({**settings, "target_modules": sorted(places)}))
    train(recipe("second", first, method="sft"))
    fewer = {"rank": 2, "targets": r".*language_model.*\.q_proj"}
    with pytest.raises(UserError, match=r"for other modules than lora\.targets"):
        train(recipe("third", first, method="sft", lora=fewer))


def test_weights_of_an_adapter_that_have_no_place_are_not_left_out(first):
    """Adapters of older software have other names of layers; PEFT would score with the base model alone."""
    file = first / ADAPTER_WEIGHTS
    whole = load_file(file)
    renamed = {key.replace(".language_model.", "."): value for key, value in whole.items()}
    for wrong in (renamed, dict(list(whole.items())[2:])):
        save_file(wrong, file)
        with pytest.raises(UserError, match="its weights do not fit its settings and its base"):
            load(str(first), device="cpu")


def test_the_plan_knows_the_size_of_an_adapters_base(first, model_folder, ranking_set, tmp_path):
    models = {"second": first, "new": model_folder("qwen2_5_vl")}
    recipes = [lora_recipe(tmp_path, model, ranking_set, name) for name, model in models.items()]
    assert model_size(recipes[0]) == model_size(recipes[1])


def test_an_adapter_on_an_adapter_is_refused(first, tmp_path):
    second = tmp_path / "chain"
    shutil.copytree(first, second)
    settings = json.loads((first / ADAPTER).read_text())
    (second / ADAPTER).write_text(json.dumps({**settings, "base_model_name_or_path": str(first)}))
    with pytest.raises(UserError, match=r"which is an adapter too: merge that one"):
        load(str(second), device="cpu")


def test_rollouts_switch_checkpointing_on_again_in_its_own_kind(recipe, model_folder, monkeypatch):
    """ZeRO-3 with LoRA needs the reentrant kind; TRL's default after generation is the other."""
    made = []
    real = trainer_module.RL2RTrainer.__init__

    def spied(self, *args, **kwargs):
        kwargs["args"].gradient_checkpointing_kwargs = {"use_reentrant": True}
        real(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(trainer_module.RL2RTrainer, "__init__", spied)
    train(recipe("run", model_folder("qwen2_5_vl"), gradient_checkpointing=True))
    (trained,) = made
    core = trained.accelerator.unwrap_model(trained.model)
    kinds = {
        part._gradient_checkpointing_func.keywords["use_reentrant"]
        for part in core.modules()
        if hasattr(part, "_gradient_checkpointing_func")
    }
    assert kinds == {True}
