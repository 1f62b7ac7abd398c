import json
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import FAMILIES
from visualquality.errors import UserError
from visualquality.models.families import FAMILIES as FAMILIES_OF_MODELS
from visualquality.models.load import TRAINED_WITH, load
from visualquality.models.prompt import encode_prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_looks_at_the_image(family, model_folder, pictures):
    vlm = load(str(model_folder(family)), device="cpu")
    assert vlm.processor.tokenizer.padding_side == "left"
    assert vlm.model.dtype == torch.float32
    assert not vlm.model.training
    tall, wide = (encode_prompt(vlm.processor, [image], "Rate.") for image in pictures[:2])
    assert tall.tokens["input_ids"].ndim == 1
    assert tall.images["image_grid_thw"].tolist() != wide.images["image_grid_thw"].tolist()


def test_of_nano_alone_drawn_answers_are_read_by_expectation(model_folder):
    assert load("nano", device="cpu").reading == "expected"
    others = ("nano-base", str(model_folder("nano")), str(model_folder("qwen2_5_vl")))
    assert [load(name, device="cpu").reading for name in others] == ["strict"] * 3


def test_ratings_name_the_version_of_embedded_weights_alone(model_folder):
    """A folder's name says enough; embedded weights change under one name."""
    base = load("nano-base", device="cpu")
    assert base.title == "nano-base"
    base.model.config.version = "7"
    assert base.title == "nano-base 7"
    other = load(str(model_folder("nano")), device="cpu")
    other.model.config.version = "7"
    assert other.title == other.name


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_can_be_bounded(family, model_folder, pictures):
    bounded = load(str(model_folder(family)), device="cpu", max_pixels=56 * 56)
    free = load(str(model_folder(family)), device="cpu")
    image = pictures[0].resize((112, 84))
    lengths = [
        len(encode_prompt(v.processor, [image], "Rate.").images["pixel_values"])
        for v in (bounded, free)
    ]
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("name", ["nanoo", "./nowhere", "/no/such/folder"])
def test_unknown_names_are_told_what_there_is(name):
    with pytest.raises(UserError, match="nano, nano-base, a folder"):
        load(name)


def test_a_hub_name_that_cannot_be_fetched_is_one_sentence():
    with pytest.raises(UserError, match="someone/some-model"):
        load("someone/some-model")


def test_a_folder_without_a_vision_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=str(tmp_path)):
        load(str(tmp_path))


def test_an_adapter_is_merged_into_the_base_it_names(model_folder, tmp_path):
    base = load(str(model_folder("nano")), device="cpu")
    before = base.digest
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    adapted = get_peft_model(base.model, lora)
    adapted.peft_config["default"].base_model_name_or_path = str(model_folder("nano"))
    adapted.save_pretrained(tmp_path)
    merged = load(str(tmp_path), device="cpu")
    assert merged.digest != before
    again = adapted.merge_and_unload()
    for (name, ours), theirs in zip(
        merged.model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_an_adapter_of_a_nano_that_saw_less_is_refused(model_folder, tmp_path):
    base = load(str(model_folder("nano")), device="cpu")
    base.processor.image_processor.extended = False
    adapted = get_peft_model(
        base.model, LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj")
    )
    adapted.peft_config["default"].base_model_name_or_path = str(model_folder("nano"))
    adapted.save_pretrained(tmp_path)
    base.processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"trained on an earlier version of .*: train it again"):
        load(str(tmp_path), device="cpu")


def test_an_adapter_of_other_weights_of_nano_is_refused(tmp_path):
    base = load("nano-base", device="cpu")
    digest = base.digest
    adapted = get_peft_model(
        base.model, LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj")
    )
    adapted.peft_config["default"].base_model_name_or_path = "nano-base"
    adapted.save_pretrained(tmp_path)
    base.processor.save_pretrained(tmp_path)
    for trained_on, refused in ((digest, False), (digest[::-1], True)):
        (tmp_path / TRAINED_WITH).write_text(json.dumps({"prompt": "paper", "base": trained_on}))
        with (
            pytest.raises(UserError, match="trained on an earlier version of nano-base")
            if refused
            else nullcontext()
        ):
            load(str(tmp_path), device="cpu")


def test_digest_tells_weights_apart(model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    digest = vlm.digest
    other = load(str(model_folder("nano")), device="cpu")
    assert other.digest == digest
    other = load(str(model_folder("nano")), device="cpu")
    with torch.no_grad():
        other.model.model.vision.stages[0].up.bias[0] += 1e-3
    assert other.digest != digest


@pytest.mark.parametrize(
    ("family", "known_as"),
    [
        ("qwen2_vl", "Qwen2VLProcessor"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor"),
        ("qwen3_vl", "Qwen3VLProcessor"),
    ],
)
def test_a_saved_processor_is_what_other_software_looks_for(
    family, known_as, model_folder, pictures, tmp_path
):
    processor = load(str(model_folder(family)), device="cpu", max_pixels=56 * 56).processor
    processor.save_pretrained(tmp_path)
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text())["processor_class"] == known_as
    again = FAMILIES_OF_MODELS[family].load_processor(str(tmp_path), "")
    before, after = (encode_prompt(p, [pictures[0]], "Rate.") for p in (processor, again))
    for one, other in ((before.tokens, after.tokens), (before.images, after.images)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
