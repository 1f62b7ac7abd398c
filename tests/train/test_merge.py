"""An adapter merged into its base: the same model, in a folder that needs neither."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from small_runs import weights
from visualquality import Scorer
from visualquality.cli import app
from visualquality.errors import UserError
from visualquality.models.adapter import with_adapter
from visualquality.models.folder import ADAPTER
from visualquality.models.load import TRAINED_WITH, load
from visualquality.models.prompt import collate, encode_prompt
from visualquality.score.calibration import FILE, fit_calibration, keep_calibration
from visualquality.train.merge import merge


def make_adapter(base: Path, folder: Path) -> Path:
    """An adapter that changes the numbers: its second factor does not start at zero."""
    vlm = load(str(base), device="cpu", dtype="saved")
    targets = r".*language_model.*\.(q|v|up|down)_proj"
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    adapted = get_peft_model(vlm.model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    (folder / TRAINED_WITH).write_text(json.dumps({"prompt": "released", "base": None}))
    return folder


@pytest.fixture(scope="module", params=["nano", "qwen2_5_vl"])
def base(request, model_folder) -> Path:
    return model_folder(request.param)


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    return make_adapter(base, tmp_path / "adapter")


def logits(model, vlm, picture) -> torch.Tensor:
    prompt = encode_prompt(vlm.processor, [picture], "Rate.")
    batch = collate([prompt], vlm.processor.tokenizer.pad_token_id)
    with torch.no_grad():
        return model.eval()(**batch.inputs(), use_cache=False).logits.float()


def test_a_merged_model_answers_as_its_adapter_does(base, adapter, pictures, tmp_path):
    merge(adapter, tmp_path / "merged")
    merged = load(str(tmp_path / "merged"), device="cpu")
    assert merged.prompt == "released"
    whole = load(str(base), device="cpu")
    before = logits(whole.model, merged, pictures[0])
    adapted = with_adapter(whole.model, adapter)
    wanted, found = (logits(m, merged, pictures[0]) for m in (adapted, merged.model))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (before - wanted).abs().max() > 0.1
    # The same weights as those that the adapter's folder is scored with.
    assert merged.digest == load(str(adapter), device="cpu").digest
    assert not (tmp_path / "merged" / ADAPTER).exists()


def test_the_number_format_is_that_of_the_base(model_folder, pictures, tmp_path):
    base = Path(shutil.copytree(model_folder("qwen2_5_vl"), tmp_path / "base"))
    vlm = load(str(base), device="cpu", dtype="bfloat16")
    vlm.model.save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "adapter")
    merge(adapter, tmp_path / "merged")
    assert {value.dtype for value in weights(tmp_path / "merged").values()} == {torch.bfloat16}
    merged = load(str(tmp_path / "merged"), device="cpu", dtype="bfloat16")
    adapted = with_adapter(vlm.model, adapter)
    wanted, found = (logits(m, merged, pictures[0]) for m in (adapted, merged.model))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_a_run_is_merged_by_the_command_and_nothing_is_overwritten(model_folder, tmp_path):
    make_adapter(model_folder("nano"), tmp_path / "run" / "final")
    command = ["merge", str(tmp_path / "run"), "-o", str(tmp_path / "merged")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    first = weights(tmp_path / "merged")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert first.keys() == weights(tmp_path / "merged").keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "run"]


def test_what_has_no_adapter_is_refused(model_folder, tmp_path):
    for source, reason in ((model_folder("nano"), "no LoRA adapter"), (tmp_path / "no", "no fold")):
        with pytest.raises(UserError, match=reason):
            merge(source, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_error_leaves_nothing_behind(adapter, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    vlm = load(str(adapter), device="cpu")
    monkeypatch.setattr(type(vlm.processor), "save_pretrained", full)
    with pytest.raises(UserError, match=r"cannot be written.*No space"):
        merge(adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_calibration_goes_along_where_it_is_for_these_weights(model_folder, tmp_path):
    adapter = make_adapter(model_folder("qwen2_5_vl"), tmp_path / "adapter")
    scorer = Scorer(str(adapter), mode="expect", device="cpu")
    mos = [1 + i / 25 for i in range(100)]
    made = {"coverage": 0.9, "dataset": "d", "mos_range": (1.0, 5.0)}
    names = [f"{i}.png" for i in range(100)]
    for settings in (scorer.settings(), scorer.settings() | {"weights": "others"}):
        fitted = fit_calibration(mos, [0.1] * 100, mos, names, settings=settings, **made)
        keep_calibration(adapter / FILE, fitted)
    (note,) = merge(adapter, tmp_path / "merged")
    assert "of the 2 calibrations" in note
    merged = Scorer(str(tmp_path / "merged"), mode="expect", device="cpu")
    assert merged.calibration is not None
    assert merged.calibration.settings["weights"] == merged.vlm.digest
