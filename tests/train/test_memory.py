from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from small_runs import small_recipe
from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.train.memory import memory, model_size
from visualquality.train.recipe import read_recipe

GIB = 2**30


@pytest.fixture
def recipe(model_folder, ranking_set, tmp_path):
    """A function: changes of a recipe -> the recipe, of a small random Qwen2.5-VL or the `model` in them."""

    def make(**changes):
        return small_recipe(tmp_path, model_folder("qwen2_5_vl"), ranking_set, **changes)

    return make


@pytest.mark.parametrize(
    ("name", "parameters"),
    # 8.3 and 3.75 billion, as the model cards have them, to the last one by the configurations.
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("TianheWu/VisualQuality-R1-7B", 8_292_166_656),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
    ],
)
def test_known_models_have_their_size_without_a_network(name, parameters, recipe):
    size = model_size(recipe(model=name))
    assert size.parameters == parameters
    assert size.source == "by its published configuration"


@pytest.mark.parametrize("name", ["somebody/Some-VL-7B", "somebody/qwen-4B"])
def test_a_size_is_never_read_from_a_name(name, recipe):
    with pytest.raises(UserError, match="its folder"):
        model_size(recipe(model=name))


def test_parameters_are_counted(recipe, model_folder):
    model = load(str(model_folder("qwen2_5_vl")), device="cpu").model
    size = model_size(recipe())
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.tower == sum(p.numel() for p in model.model.visual.parameters())
    targets = r".*language_model.*\.(q|down)_proj"
    size = model_size(recipe(lora={"rank": 3, "targets": targets}))
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=targets))
    assert size.adapter == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_what_is_not_trained_has_no_states(recipe):
    whole, frozen, lora = (
        recipe(),
        recipe(freeze_vision=True),
        recipe(lora={"rank": 3}),
    )
    size = model_size(lora)
    found = memory(frozen, size, cuda=False)
    assert found.moments == 8 * (size.parameters - size.tower)
    assert memory(whole, size, cuda=False).activations > found.activations
    found = memory(lora, size, cuda=False)
    assert found.moments == 8 * size.adapter
    assert found.ref_model == 0
    assert memory(whole, size, cuda=False).ref_model == 4 * size.parameters


def test_phases_do_not_add_up(recipe):
    alone = memory(recipe(), model_size(recipe()), cuda=False)
    assert alone.update == max(alone.gradients, alone.activations)
    waiting = recipe(optimizer={"accumulation": 2})
    found = memory(waiting, model_size(waiting), cuda=False)
    assert found.update == found.gradients + found.activations
    assert found.peak == found.weights + found.ref_model + found.moments + found.update


def test_the_papers_run_fits_its_gpus_only_sharded():
    paper = read_recipe(Path(__file__).parents[2] / "recipes/paper-kadid10k.yaml")
    size = model_size(paper)
    assert memory(paper, size, cuda=True).peak > 80 * GIB
    sharded = memory(paper, size, cuda=True, sharded=True)
    assert sharded.peak < 80 * GIB
    # Of bfloat16 weights, and of float32 weights with AdamW's two moments, a sixteenth is on each.
    assert sharded.weights == 2 * size.parameters // 16
    assert sharded.moments == 12 * size.parameters // 16
    # The whole of the weights is gathered to draw responses.
    assert sharded.rollout > 2 * size.parameters


def test_checkpointing_and_the_number_of_tokens_count(recipe):
    size = model_size(recipe())
    plain = memory(recipe(), size, cuda=False).activations
    assert memory(recipe(gradient_checkpointing=True), size, cuda=False).activations < plain
    longer = recipe(rl2r={"max_new_tokens": 200})
    assert memory(longer, size, cuda=False).activations > 2 * plain
