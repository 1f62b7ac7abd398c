"""How a model is kept and computed. The tests of 4-bit weights themselves are in tests/train/test_quantized.py."""

import importlib.util

import pytest
from typer.testing import CliRunner

from small_runs import small_recipe
from visualquality import Scorer
from visualquality.cli import app
from visualquality.errors import UserError
from visualquality.models import options
from visualquality.models.families import FAMILIES, OTHER
from visualquality.models.load import load
from visualquality.models.options import WeightOptions
from visualquality.train.checkpoints import claim
from visualquality.train.packed import allow_packing, why_not_packed
from visualquality.train.run import train


def test_without_bitsandbytes_the_extra_is_named(model_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'visualquality\[4bit\]'"):
        Scorer(str(model_folder("qwen2_5_vl")), quantization="4bit", device="cpu")


def test_what_nano_is_not_kept_in_is_refused(model_folder):
    for name in ("nano", str(model_folder("nano"))):
        with pytest.raises(UserError, match="kept in float32: leave quantization out"):
            load(name, device="cpu", quantization="4bit")
        with pytest.raises(UserError, match="which flash attention does not take"):
            load(name, device="cpu", attention="flash_attention_2")


def test_without_flash_attention_one_sentence_says_so(model_folder):
    with pytest.raises(UserError, match="needs an NVIDIA GPU and flash-attn"):
        load(str(model_folder("qwen2_5_vl")), device="cpu", attention="flash_attention_2")


def test_attention_is_sdpa_unless_another_is_asked_for(model_folder):
    for family in ("qwen2_5_vl", "nano"):
        found = {}
        for attention in ("sdpa", "eager"):
            model = load(str(model_folder(family)), device="cpu", attention=attention).model
            allow_packing(model)
            text = model.config.get_text_config()._attn_implementation
            found[attention] = (model.config._attn_implementation, text, why_not_packed(model))
        assert found["sdpa"] == ("sdpa", "visualquality_packed", None)
        assert found["eager"][:2] == ("eager", "eager")
        assert found["eager"][2] is not None


def test_flash_attention_is_for_what_sees_pixels_where_responses_are_packed(
    model_folder, monkeypatch
):
    """With the implementation "eager" in place of flash attention, which is not installed here."""
    flash = WeightOptions("auto", attention="flash_attention_2")
    assert flash.keywords(OTHER)["attn_implementation"] == "flash_attention_2"
    known = flash.keywords(FAMILIES["qwen2_5_vl"])
    kinds = known["attn_implementation"]
    assert kinds["vision_config"] == "flash_attention_2"
    played = {name: kind.replace("flash_attention_2", "eager") for name, kind in kinds.items()}
    monkeypatch.setattr(
        options.WeightOptions, "keywords", lambda *_: {**known, "attn_implementation": played}
    )
    model = load(str(model_folder("qwen2_5_vl")), device="cpu").model
    allow_packing(model)
    assert model.model.visual.config._attn_implementation == "eager"
    assert why_not_packed(model) is None


def test_weights_in_4_bits_are_not_trained(tmp_path, model_folder, ranking_set):
    with pytest.raises(UserError, match="weights in 4 bits cannot be trained: add lora"):
        small_recipe(tmp_path, model_folder("qwen2_5_vl"), ranking_set, quantization="4bit")
    lora = {"lora": {"rank": 2}, "quantization": "4bit"}
    both = small_recipe(tmp_path, model_folder("qwen2_5_vl"), ranking_set, **lora)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(UserError, match="quantization with DeepSpeed is not supported"):
            train(both)


def test_a_run_without_these_fields_is_resumed(tmp_path, model_folder, ranking_set):
    recipe = small_recipe(tmp_path, model_folder("qwen2_5_vl"), ranking_set)
    claim(recipe, resume=False)
    record = recipe.output / "recipe.yaml"
    lines = record.read_text().splitlines(keepends=True)
    fields = ("quantization:", "attention:")
    kept = [line for line in lines if not line.startswith(fields)]
    assert len(kept) == len(lines) - 2
    record.write_text("".join(kept))
    assert claim(recipe, resume=True) is None
    with pytest.raises(UserError, match="other settings"):
        claim(recipe.model_copy(update={"attention": "eager"}), resume=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "niqe"], "takes no quantization"),
        (["--model", "x", "--engine", "openai", "--url", "http://localhost:1/v1"], "leave it out"),
        (["--model", "x", "--engine", "vllm"], "leave it out"),
    ],
)
def test_quantization_is_refused_where_it_would_change_nothing(arguments, reason, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    result = CliRunner().invoke(app, ["score", str(picture), "--quantization", "4bit", *arguments])
    assert result.exit_code == 2
    assert reason in result.output
