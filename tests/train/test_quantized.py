"""LoRA on a base in 4 bits, and scoring with it. Skipped without bitsandbytes, which runs on a CPU too."""

import shutil

import pytest
import torch

from small_runs import assert_same_weights, lines, reward_on_a_letter, small_recipe, weights
from visualquality import Scorer
from visualquality.models.load import load
from visualquality.train.run import train

pytest.importorskip("bitsandbytes", reason="pip install 'visualquality[4bit]'")


@pytest.fixture
def recipe(tmp_path, model_folder, ranking_set, monkeypatch):
    reward_on_a_letter(monkeypatch)

    def make(name, model=None, **changes):
        changes = {"lora": {"rank": 2}, "quantization": "4bit", **changes}
        changes["data"] = [{"manifest": str(ranking_set), "mos_range": [0, 100]}]
        trained = model or model_folder("qwen2_5_vl")
        return small_recipe(tmp_path, trained, ranking_set, name, **changes)

    return make


def test_only_the_language_model_is_in_4_bits_and_it_scores_nearly_the_same(model_folder, pictures):
    name = str(model_folder("qwen2_5_vl"))
    scorer = Scorer(name, mode="expect", device="cpu", quantization="4bit")
    core = scorer.vlm.model
    small = {n for n, part in core.named_modules() if type(part).__name__ == "Linear4bit"}
    assert small
    assert all(".language_model.layers." in n for n in small)
    found, wanted = (s(pictures[0]) for s in (scorer, Scorer(name, mode="expect", device="cpu")))
    assert found.score != wanted.score
    assert found.score == pytest.approx(wanted.score, abs=0.2)
    assert scorer.settings()["quantization"] == "4bit"
    # The identity of weights is the same before they are used and after, and in another process.
    again = load(name, device="cpu", quantization="4bit").digest
    assert scorer.vlm.digest == again != load(name, device="cpu").digest


@pytest.mark.parametrize("method", ["rl2r", "sft", "expect"])
def test_two_stages_on_a_base_in_4_bits(recipe, method, pictures):
    first = train(recipe("first", method=method))
    again = recipe("second", first, method=method)
    second = train(again)
    before, after = weights(first), weights(second)
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    if method == "rl2r":
        assert lines(again.output / "metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-6)
    for quantization in ("4bit", None):
        scorer = Scorer(str(second), mode="expect", device="cpu", quantization=quantization)
        assert 1 <= scorer(pictures[0]).score <= 5


def test_a_small_update_is_not_lost(recipe):
    """bfloat16, which TRL keeps such adapters in, has steps of 1/256 of a weight."""
    final = train(recipe("run", optimizer={"learning_rate": 1e-6}))
    drawn = {name: value for name, value in weights(final).items() if "lora_A" in name}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in drawn.values())


def test_resumed_is_uninterrupted_to_the_bit_in_4_bits(recipe):
    straight = train(recipe("straight"))
    stopped = recipe("stopped")
    train(stopped)
    shutil.rmtree(stopped.output / "checkpoint-4")
    shutil.rmtree(stopped.output / "final")
    assert_same_weights(straight, train(stopped, resume=True))
