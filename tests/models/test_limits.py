"""What a processor refuses by size is known without its weights, and is what it refuses in training."""

import json
import shutil

import pytest
from PIL import Image

from visualquality.errors import UserError
from visualquality.models.families import OTHER
from visualquality.models.limits import size_refusal
from visualquality.models.load import load
from visualquality.models.prompt import encode_prompt

SIZES = [(1, 1), (27, 500), (1000, 5), (1005, 5), (5, 1005), (1, 201), (84, 56)]


@pytest.mark.parametrize("family", ["nano", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_size_is_refused_where_the_processor_refuses_an_image_of_it(model_folder, family):
    refusal = size_refusal(str(model_folder(family)), max_pixels=56 * 56)
    processor = load(str(model_folder(family)), device="cpu", max_pixels=56 * 56).processor
    refused = []
    for size in SIZES:
        try:
            encode_prompt(processor, [Image.new("RGB", size)], "Rate.")
        except ValueError:
            refused.append(size)
    assert [size for size in SIZES if refusal(*size)] == refused
    # Qwen's have a limit of 200 to 1; nano takes everything.
    assert refused == ([] if family == "nano" else [(1005, 5), (5, 1005), (1, 201)])
    if refused:
        assert "1005 × 5" in refusal(1005, 5)
        assert "200" in refusal(1005, 5)


def test_a_family_that_is_not_listed_is_asked_with_an_image(model_folder):
    processor = load(str(model_folder("qwen2_vl")), device="cpu").processor
    OTHER.check_size(processor, 84, 56)
    with pytest.raises(ValueError, match="200"):
        OTHER.check_size(processor, 1005, 5)


def test_weights_are_not_needed_and_an_adapter_has_its_own_processor(model_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model_folder("qwen2_5_vl"), base)
    (base / "model.safetensors").unlink()
    assert size_refusal(str(base))(1005, 5)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for own in (False, True):
        record = {"base_model_name_or_path": str(base)}
        (adapter / "adapter_config.json").write_text(json.dumps(record))
        assert size_refusal(str(adapter))(1005, 5)
        if not own:
            for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
                shutil.copy(base / name, adapter / name)


@pytest.mark.parametrize("name", ["nano", "nano-base"])
def test_the_embedded_models_take_every_size(name):
    assert size_refusal(name)(100_000, 1) is None


def test_a_model_without_a_processor_is_named(tmp_path):
    with pytest.raises(UserError, match="none"):
        size_refusal(str(tmp_path / "none"))
