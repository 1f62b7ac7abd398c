"""Training on small random models.

These are the contract tests of what is overridden in TRL: they fail when TRL changes underneath.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from small_runs import (
    assert_same_weights,
    lines,
    reward_on_a_letter,
    small_recipe,
    untimed,
    weights,
)
from visualquality import rl2r
from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.train.logs import cut_back
from visualquality.train.run import last_checkpoint, train

quiet_libraries()


@pytest.fixture
def recipe(tmp_path, model_folder, ranking_set):
    """A function: overrides -> a recipe of four steps on a small model; two data sets make an epoch of four batches."""

    def make(name: str = "run", family: str = "nano", **changes):
        return small_recipe(tmp_path, model_folder(family), ranking_set, name, **changes)

    return make


def changed_weights(start: Path, end: Path) -> set[str]:
    before, after = weights(start), weights(end)
    return {name for name in after if not torch.equal(before[name], after[name])}


def test_top_k_and_the_reading_of_the_authors_are_settings_of_a_run(recipe, monkeypatch):
    """With the single likeliest token all responses to an image are the same."""
    one_step = {"optimizer": {"steps": 1, "images_per_device": 4, "learning_rate": 1e-3}}
    wide, narrow = (
        recipe(name, rl2r={"top_k": top_k}, **one_step) for name, top_k in (("w", 0), ("n", 1))
    )
    for chosen, different in ((wide, 3), (narrow, 1)):
        train(chosen)
        assert len(set(lines(chosen.output / "samples.jsonl")[0]["texts"])) == different
    # What random weights write has no number.
    text = "<think>Soft.</think><answer>Rating: 3.5/5</answer>"
    monkeypatch.setattr("visualquality.train.trainer.decode", lambda processor, each: text)
    for reading, score, form in (("strict", None, 0), ("authors", 3.5, 1)):
        chosen = recipe(reading, rl2r={"reading": reading}, **one_step)
        train(chosen)
        assert lines(chosen.output / "samples.jsonl")[0]["scores"] == [[score] * 3] * 4
        assert lines(chosen.output / "metrics.jsonl")[0]["reward/format"] == form


def test_a_run_writes_what_it_says_and_changes_the_policy(recipe, model_folder, monkeypatch):
    reward_on_a_letter(monkeypatch)
    chosen = recipe(tensorboard=True)
    final = train(chosen)
    assert list(chosen.output.rglob("events.out.tfevents.*"))
    metrics, samples = (
        lines(chosen.output / "metrics.jsonl"),
        lines(chosen.output / "samples.jsonl"),
    )
    assert [m["step"] for m in metrics] == [s["step"] for s in samples] == [1, 2, 3, 4]
    for name in (
        "reward",
        "reward/fidelity",
        "kl",
        "score_std",
        "readable",
        "loss",
        "seconds/generate",
    ):
        assert all(name in m for m in metrics), name
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy starts as its reference
    assert metrics[-1]["learning_rate"] < metrics[0]["learning_rate"]
    assert changed_weights(model_folder("nano"), final)
    # The result loads like any model.
    assert load(str(final), device="cpu").digest != load(chosen.model, device="cpu").digest
    for sample in samples:
        assert len(sample["images"]) == len(sample["scores"]) == 4
        assert len({name[:3] for name in sample["images"]}) == 1  # one data set a batch
        assert len(sample["texts"]) == 3
    with pytest.raises(UserError, match="already holds a run"):
        train(chosen)


def test_training_raises_what_is_rewarded_and_leaves_the_reference(recipe, monkeypatch):
    reward_on_a_letter(monkeypatch)
    chosen = recipe(
        optimizer={"steps": 20, "images_per_device": 8, "learning_rate": 2e-2},
        rl2r={"responses": 6, "kl_weight": 0.01},
        freeze_vision=True,
        checkpoint_every=100,
    )
    train(chosen)
    metrics = lines(chosen.output / "metrics.jsonl")
    assert metrics[-1]["reward"] > 2 * metrics[0]["reward"] + 0.5
    assert metrics[-1]["kl"] > 0.01


def compared_groups(monkeypatch) -> list[list[int]]:
    """For each step from now on the number of the group of each image: images are compared within it."""
    seen = []
    real = rl2r.total_reward

    def spied(scores, mos, groups, *rest):
        assert len(scores) == len(mos) == len(groups)
        seen.append(groups.tolist())
        return real(scores, mos, groups, *rest)

    monkeypatch.setattr(rl2r, "total_reward", spied)
    return seen


def test_accumulation_compares_all_its_images(recipe, monkeypatch):
    groups = compared_groups(monkeypatch)
    train(recipe(optimizer={"steps": 2, "images_per_device": 2, "accumulation": 4}))
    assert groups == [[0] * 8] * 2


@pytest.mark.parametrize("method", ["sft", "expect"])
def test_accumulation_sees_every_image_and_takes_the_gradient_of_one_batch(
    method, recipe, ranking_set
):
    """Of one data set: the mean over a batch is that of its parts, for a loss that compares no images."""
    lab = ranking_set.with_name("lab.csv")
    lab.write_text(
        "\n".join(
            line for line in ranking_set.read_text().splitlines() if not line.startswith("wild")
        )
    )
    changes = {
        "method": method,
        "expect": {"objective": "regression"},
        "data": [{"manifest": str(lab)}],
    }
    rate = {"steps": 1, "learning_rate": 1e-3}
    whole = train(recipe("whole", **changes, optimizer={**rate, "images_per_device": 8}))
    chosen = recipe(
        "parts", **changes, optimizer={**rate, "images_per_device": 2, "accumulation": 4}
    )
    parts = train(chosen)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=2e-5, rtol=1e-3, msg=name)
    one, four = (lines(folder.parent / "metrics.jsonl")[0] for folder in (whole, parts))
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_images_can_be_compared_in_groups(recipe, monkeypatch):
    groups = compared_groups(monkeypatch)
    train(recipe(optimizer={"steps": 1, "images_per_device": 8}, rl2r={"compare_within": 4}))
    assert groups == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_groups_and_data_sets_both_bound_who_is_compared(recipe, monkeypatch):
    """A batch of both data sets: each group of four is of one, and no image is compared outside its group."""
    groups = compared_groups(monkeypatch)
    seen = []
    real = rl2r.REWARDS["fidelity"]

    def spied(scores, mos, datasets):
        seen.append(mos)
        return real(scores, mos, datasets)

    monkeypatch.setitem(rl2r.REWARDS, "fidelity", spied)
    chosen = recipe(
        optimizer={"steps": 2, "images_per_device": 8},
        rl2r={"compare_within": 4, "dataset_per": "group"},
    )
    train(chosen)
    assert groups == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    for mos in seen:  # of 1 to 5, and of 20 to 100
        assert {(mos[:4] > 10).sum().item(), (mos[4:] > 10).sum().item()} <= {0, 4}
    # Each data set of a step has a line, with the images of its groups.
    samples = lines(chosen.output / "samples.jsonl")
    for step in (1, 2):
        of_step = [sample for sample in samples if sample["step"] == step]
        assert sum(len(sample["images"]) for sample in of_step) == 8
        for sample in of_step:
            assert {name[:3] for name in sample["images"]} == {sample["dataset"][:3]}
            assert len(sample["rewards"]) == len(sample["scores"]) == len(sample["images"])


def test_a_longer_response_loses_its_share_of_the_length_weight(recipe, model_folder):
    """A random model has nothing that can be read, so that the length is all of the reward."""
    chosen = recipe(rl2r={"length_weight": 0.5, "max_new_tokens": 8}, optimizer={"steps": 1})
    train(chosen)
    (sample,) = lines(chosen.output / "samples.jsonl")
    assert len(sample["texts"]) == 3
    tokenizer = load(str(model_folder("nano")), device="cpu").processor.tokenizer
    for reward, text in zip(sample["rewards"][0], sample["texts"], strict=True):
        at_least = len(tokenizer(text)["input_ids"])
        assert -0.5 <= reward <= -0.5 / 8
        assert (
            reward <= -0.5 * min(at_least, 8) / 8 + 0.5 / 4
        )  # the text may be written with other tokens


def test_probes_are_asked_along_the_way_and_change_nothing(
    recipe, ranking_set, model_folder, monkeypatch
):
    reward_on_a_letter(monkeypatch)
    plain = train(recipe("plain"))
    assert changed_weights(model_folder("nano"), plain)
    chosen = recipe("probed", probes={"manifest": str(ranking_set)}, probe_every=2)
    assert_same_weights(plain, train(chosen))
    asked = lines(chosen.output / "probes.jsonl")
    assert [p["step"] for p in asked] == [0] * 16 + [2] * 16
    assert all(len(p["texts"]) == len(p["scores"][0]) == 3 for p in asked)
    assert all(p["scores"][0] == [text.count("e") for text in p["texts"]] for p in asked)
    shutil.rmtree(chosen.output / "checkpoint-4")
    shutil.rmtree(chosen.output / "final")
    train(chosen, resume=True)
    assert lines(chosen.output / "probes.jsonl") == asked


def test_accumulated_batches_give_the_gradient_of_one(recipe, model_folder, monkeypatch):
    reward_on_a_letter(monkeypatch)
    whole = train(recipe("whole", optimizer={"steps": 1, "images_per_device": 8}))
    parts = train(
        recipe("parts", optimizer={"steps": 1, "images_per_device": 2, "accumulation": 4})
    )
    assert changed_weights(model_folder("nano"), whole)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("family", "method", "lora"),
    [
        ("nano", "rl2r", False),
        ("nano", "rl2r", True),
        ("nano", "sft", False),
        ("qwen2_5_vl", "rl2r", False),
        ("qwen2_5_vl", "rl2r", True),
        ("qwen2_5_vl", "sft", False),
    ],
)
def test_resumed_is_uninterrupted_to_the_bit(
    recipe, ranking_set, family, method, lora, monkeypatch
):
    changes = {
        "family": family,
        "method": method,
        "sft": {"score_noise": 0.3, "every_prompt": True},
    }
    changes |= {"lora": {"rank": 2}} if lora else {}
    changes["optimizer"] = {"steps": 7}  # stopped in the second epoch, resumed across its rest
    changes["data"] = [{"manifest": str(ranking_set), "mos_range": [0, 100]}]
    if method == "rl2r":
        reward_on_a_letter(monkeypatch)
    straight = recipe("straight", **changes)
    uninterrupted = train(straight)
    stopped = recipe("stopped", **changes)
    train(stopped)
    # Take away what came after step 6, as if the run had been killed then.
    shutil.rmtree(stopped.output / "checkpoint-7")
    shutil.rmtree(stopped.output / "final")
    with (stopped.output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "torn')
    resumed = train(stopped, resume=True)
    assert_same_weights(uninterrupted, resumed)
    assert [m["step"] for m in lines(stopped.output / "metrics.jsonl")] == list(range(1, 8))
    for a, b in zip(
        lines(straight.output / "metrics.jsonl"),
        lines(stopped.output / "metrics.jsonl"),
        strict=True,
    ):
        assert a["loss"] == b["loss"]
    start = weights(Path(straight.model)) if not lora else weights(straight.output / "checkpoint-6")
    end = weights(resumed)
    assert any(name in end and not torch.equal(start[name], end[name]) for name in start)


def test_resume_asks_for_the_same_recipe_and_a_checkpoint(recipe, model_folder, monkeypatch):
    reward_on_a_letter(monkeypatch)
    with pytest.raises(UserError, match="nothing to resume"):
        train(recipe("none"), resume=True)
    mine = recipe("mine")
    train(mine)
    with pytest.raises(UserError, match="seed"):
        train(recipe("mine", seed=3), resume=True)
    first = weights(mine.output / "final")
    assert changed_weights(model_folder("nano"), mine.output / "final")
    for path in (*mine.output.glob("checkpoint-*"), mine.output / "final"):
        shutil.rmtree(path)  # killed before the first checkpoint: it starts again
    again = weights(train(mine, resume=True))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_logs_are_cut_back_and_the_last_checkpoint_is_found(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_back(log, 2)
    assert lines(log) == [{"step": 1}, {"step": 2}]
    words = "one\u2028two\x85three"
    log.write_text(
        "".join(
            json.dumps({"step": s, "words": words}, ensure_ascii=False) + "\n" for s in (1, 2, 3)
        )
    )
    cut_back(log, 2)
    assert [json.loads(line)["words"] for line in log.read_text().split("\n")[:-1]] == [words] * 2
    for step, complete in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


def on_two_processes(recipe) -> None:
    """Trains under torchrun with gloo."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    written, output = str(recipe.output.with_suffix(".yaml")), str(recipe.output)
    run = subprocess.run(
        [
            *(sys.executable, *launcher),
            *("-m", "visualquality", "train", written, "--output", output),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("settings", [{}, {"compare_within": 2, "dataset_per": "group"}], ids=str)
def test_two_processes_give_the_rewards_and_weights_of_one(recipe, settings, tmp_path, ranking_set):
    """The same images a batch, half on each process; in groups, both data sets in a batch."""
    validated = tmp_path / "validated.csv"
    rows = ["image,mos,dataset"]
    for name in ("lab0", "lab4", "lab7", "wild1", "wild3", "wild6"):
        shutil.copy(ranking_set.parent / f"{name}.png", tmp_path)
        rows.append(f"{name}.png,{9 - int(name[-1])},{name[:-1]}")
    validated.write_text("\n".join(rows) + "\n")
    # It answers readably.
    settings = {"max_new_tokens": 48, **settings}
    common = {"model": "nano-base", "freeze_vision": True, "rl2r": settings}
    if "dataset_per" in settings:
        # The processes share a validation, too: three images of each data set.
        common["validate"] = {"manifest": str(validated), "split": None, "every": 2}
    one = recipe("one", **common, optimizer={"steps": 2, "images_per_device": 4})
    two = recipe("two", **common, optimizer={"steps": 2, "images_per_device": 2}, devices=2)
    train(one)
    on_two_processes(two)
    samples = [lines(run.output / "samples.jsonl") for run in (one, two)]
    if "dataset_per" in settings:
        assert len({sample["dataset"] for sample in samples[0]}) == 2
        metrics = [untimed(run.output / "metrics.jsonl") for run in (one, two)]
        first, second = ([m for m in each if "eval_scored" in m] for each in metrics)
        assert [m["step"] for m in first] == [0, 2]
        assert first == second
    else:
        assert len(samples[0]) == 2
    for a, b in zip(*samples, strict=True):
        assert a["images"] == b["images"]
        assert a["scores"] == b["scores"]
        assert a["rewards"] == b["rewards"]
        assert a["texts"] == b["texts"]
    assert any(reward > 1 for row in a["rewards"] for reward in row)
    ends = weights(two.output / "final")
    for name, value in weights(one.output / "final").items():
        # Adam takes a step of 1e-3 whatever the size of a gradient, so that rounding shows where one is nearly 0: in a
        # weight of ten thousand, which ones depends on the processor. Other gradients would move most of them.
        apart = (ends[name] - value).abs()
        assert apart.mean() < 1e-6, name
        assert (apart > 1e-4).float().mean() < 1e-3, name


def test_two_epochs_see_every_image_in_another_order(recipe):
    chosen = recipe(optimizer={"steps": 8})
    train(chosen)
    batches = [sample["images"] for sample in lines(chosen.output / "samples.jsonl")]
    assert len(batches) == 8
    first, second = batches[:4], batches[4:]
    for epoch in (first, second):
        assert len({name for batch in epoch for name in batch}) == 16
    assert first != second


def test_a_blank_picture_does_not_spoil_the_weights(recipe, tmp_path, monkeypatch):
    """Where a map is constant, its standard deviation has no slope."""
    reward_on_a_letter(monkeypatch)
    names = []
    for i in range(4):
        Image.new("RGB", (64, 64), (i * 60,) * 3).save(tmp_path / f"{i}.png")
        names.append(f"{i}.png,{i + 1}")
    (tmp_path / "blank.csv").write_text("image,mos\n" + "\n".join(names) + "\n")
    final = weights(train(recipe(data=[{"manifest": str(tmp_path / "blank.csv")}])))
    assert all(value.isfinite().all() for value in final.values())


def test_lora_starts_from_the_policy_it_samples(recipe, monkeypatch):
    """A fresh adapter changes nothing, so that the first responses are those of the bare model, positions and all."""
    plain = recipe("plain", family="qwen2_5_vl", optimizer={"steps": 1})
    adapted = recipe("adapted", family="qwen2_5_vl", optimizer={"steps": 1}, lora={"rank": 2})
    train(plain)
    train(adapted)
    texts = [lines(r.output / "samples.jsonl")[0]["texts"] for r in (plain, adapted)]
    assert texts[0] == texts[1]


def test_a_trained_adapter_and_its_prompt_are_loaded(recipe, monkeypatch):
    reward_on_a_letter(monkeypatch)
    chosen = recipe(lora={"rank": 2}, prompt="released", optimizer={"learning_rate": 1e-2})
    loaded = load(str(train(chosen)), device="cpu")
    assert loaded.prompt == "released"
    assert loaded.processor.image_processor.max_pixels == 56 * 56
    assert loaded.digest != load(chosen.model, device="cpu").digest


def test_the_number_of_processes_is_the_recipes(recipe):
    with pytest.raises(UserError, match="for 16 processes and this is 1"):
        train(recipe(devices=16))


def test_what_nobody_has_run_is_refused(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP"):
        train(recipe())


def test_scores_to_learn_must_be_on_the_scale(recipe):
    with pytest.raises(UserError, match="give mos_range"):
        train(recipe(method="sft"))
    with pytest.raises(UserError, match="give mos_range"):
        train(recipe(rl2r={"reward": "absolute"}))


def test_a_frozen_tower_stays_and_the_rest_learns(recipe, model_folder, monkeypatch):
    reward_on_a_letter(monkeypatch)
    final = weights(train(recipe(freeze_vision=True)))
    start = weights(model_folder("nano"))
    changed = {name for name in start if not torch.equal(start[name], final[name])}
    assert not any("tower" in name for name in changed)
    assert any("stages" in name for name in changed)
    assert any("language_model" in name for name in changed)


def test_faults_in_the_data_are_told_before_any_work(recipe, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("image,mos\nnone.png,3\n")
    with pytest.raises(UserError, match=r"none\.png"):
        train(recipe(data=[{"manifest": str(bad)}]))


def test_a_run_without_a_readable_answer_says_so_once(recipe, caplog):
    train(recipe(optimizer={"steps": 7}))  # a random model answers nothing that could be read
    told = [r.getMessage() for r in caplog.records if "could be read" in r.getMessage()]
    assert len(told) == 1
    assert "method: sft" in told[0]
