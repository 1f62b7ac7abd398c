"""Validation along a run: what it measures, which weights it keeps, and that it changes nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from small_runs import (
    assert_same_weights,
    reward_on_a_letter,
    small_recipe,
    untimed,
    weights,
)
from visualquality import coefficients
from visualquality.errors import UserError
from visualquality.models.load import load
from visualquality.process import quiet_libraries
from visualquality.train.examples import Example
from visualquality.train.run import train
from visualquality.train.validation import METRICS, Validator, agreement, to_beat
from visualquality.train.weights import (
    Kept,
    best_of,
    drop_weights,
    go_back,
    is_kept,
    kept_weights,
    point_to_best,
    write_measured,
)

quiet_libraries()


def rated(*mos: float, dataset: str = "lab") -> list[Example]:
    return [Example(Path(f"{i}.png"), str(i), value, dataset) for i, value in enumerate(mos)]


@pytest.mark.parametrize("metric", METRICS)
def test_agreement_is_that_of_evaluate_within_each_data_set_and_averaged(metric):
    rng = np.random.default_rng(0)
    lab, wild = rated(*rng.uniform(1, 5, 9)), rated(*rng.uniform(0, 100, 7), dataset="wild")
    scores = rng.uniform(1, 5, 16).round(1).tolist()
    found = agreement(metric, scores, [*lab, *wild])
    function = getattr(coefficients, metric)
    of_lab = function(scores[:9], [e.mos for e in lab])
    of_wild = function(scores[9:], [e.mos for e in wild])
    assert found == pytest.approx(
        {
            "eval_scored": 1.0,
            f"eval_{metric}": (of_lab + of_wild) / 2,
            f"eval_{metric}/lab": of_lab,
            f"eval_{metric}/wild": of_wild,
        }
    )
    # Images without a score are left out of the coefficient, and counted.
    assert agreement(metric, [*scores[:9], None], rated(*(e.mos for e in lab), 3.0)) == (
        pytest.approx({"eval_scored": 0.9, f"eval_{metric}": of_lab})
    )


@pytest.mark.parametrize("scores", [[3.0, 3.0, 3.0], [1.0, 2.0, None], [None] * 3])
def test_what_is_not_defined_is_no_number(scores):
    found = agreement("srcc", scores, rated(1, 2, 3))
    assert set(found) == {"eval_scored"}
    assert to_beat("srcc", found) is None


def test_weights_that_score_few_images_are_not_the_best():
    scores = [1.0, 2.0, 3.0, *[None] * 97]
    found = agreement("srcc", scores, rated(*range(100)))
    assert found["eval_srcc"] == pytest.approx(1)
    assert to_beat("srcc", found) is None
    assert to_beat("srcc", agreement("srcc", list(range(100)), rated(*range(100)))) == 1  # exactly


def test_the_best_and_what_else_is_asked_for_stay(tmp_path):
    def write(step: int, value: float | None) -> None:
        folder = tmp_path / f"weights-{step}"
        folder.mkdir()
        (folder / "model").write_text(f"weights of step {step}")
        write_measured(folder, Kept(step, "srcc", value), {"eval_scored": 1.0})

    def steps() -> list[int]:
        return [each.step for each in kept_weights(tmp_path)]

    values = {2: 0.3, 4: None, 6: 0.7, 8: 0.7, 10: 0.5}
    for step, value in values.items():
        write(step, value)
    assert steps() == [2, 4, 6, 8, 10]
    assert best_of(kept_weights(tmp_path)) == Kept(6, "srcc", 0.7)
    point_to_best(tmp_path)
    assert (tmp_path / "best" / "model").read_text() == "weights of step 6"
    drop_weights(tmp_path, "all")
    assert steps() == [2, 4, 6, 8, 10]
    drop_weights(tmp_path, "last 1")
    assert steps() == [6, 10]
    drop_weights(tmp_path, "best")
    assert steps() == [6]
    write(2, 0.3)
    go_back(tmp_path, 4)  # the run goes on from step 4
    assert steps() == [2]
    assert (tmp_path / "best" / "model").read_text() == "weights of step 2"
    go_back(tmp_path, 0)
    assert not (tmp_path / "best").exists()
    assert [
        is_kept(Kept(4, "srcc", v), [Kept(2, "srcc", 0.3)], "best") for v in (0.2, None, 0.4)
    ] == [
        False,
        False,
        True,
    ]
    assert is_kept(Kept(4, "srcc", 0.2), [Kept(2, "srcc", 0.3)], "last 2")


@pytest.fixture
def recipe(tmp_path, model_folder, ranking_set, monkeypatch):
    """A function: overrides -> a recipe of four steps. Of each data set four rows train, three validate, one tests."""
    reward_on_a_letter(monkeypatch)
    table = ["image,mos,dataset,reasoning,split"]
    for row in ranking_set.read_text().splitlines()[1:]:
        number = int(row.split(",")[0][-5])
        split = "test" if number == 7 else "val" if number % 2 else "train"
        table.append(f"{ranking_set.parent}/{row},{split}")
    (tmp_path / "split.csv").write_text("\n".join(table) + "\n")
    source = {"manifest": str(tmp_path / "split.csv"), "split": "train", "mos_range": [0, 100]}
    validate = {"manifest": str(tmp_path / "split.csv"), "every": 2}

    def make(name: str = "run", **changes):
        if changes.get("validate") is not None:
            changes["validate"] = {**validate, **changes["validate"]}
        changes = {"data": [source], "validate": validate, **changes}
        family = changes.pop("family", "nano")
        return small_recipe(tmp_path, model_folder(family), ranking_set, name, **changes)

    return make


def validations(output: Path) -> list[dict]:
    return [line for line in untimed(output / "metrics.jsonl") if "eval_scored" in line]


def assert_the_same_but_for_validations(plain: Path, chosen) -> None:
    assert_same_weights(plain / "final", chosen.output / "final")
    steps = [m for m in untimed(chosen.output / "metrics.jsonl") if "eval_scored" not in m]
    assert steps == untimed(plain / "metrics.jsonl")


@pytest.mark.parametrize("method", ["sft", "expect"])
def test_other_methods_are_validated_too_and_train_as_without(recipe, method):
    changes = {"method": method, "optimizer": {"steps": 2}}
    plain = train(recipe("plain", **changes, validate=None))
    chosen = recipe("validated", **changes, validate={"every": 1})
    train(chosen)
    assert_the_same_but_for_validations(plain.parent, chosen)
    assert [(v["step"], v["eval_scored"]) for v in validations(chosen.output)] == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    # Other weights give other scores.
    assert len({v.get("eval_srcc/lab") for v in validations(chosen.output)}) > 1


def test_a_run_with_validation_is_the_run_without_it_and_resumes(recipe):
    plain = train(recipe("plain", lora={"rank": 2}, validate=None))
    chosen = recipe("validated", lora={"rank": 2}, report_to=["tensorboard"])
    train(chosen)
    assert_the_same_but_for_validations(plain.parent, chosen)
    assert list(chosen.output.rglob("events.out.tfevents.*"))
    found = validations(chosen.output)
    assert [v["step"] for v in found] == [0, 2, 4]
    # The best of the trained weights stay, and load; `final` is the last.
    values = {v["step"]: v["eval_srcc"] for v in found[1:]}
    best = max(values, key=values.__getitem__)
    kept = kept_weights(chosen.output)
    assert kept == [Kept(best, "srcc", values[best])]
    assert load(str(chosen.output / "best"), device="cpu").prompt == chosen.prompt
    assert_same_weights(chosen.output / "best", chosen.output / f"weights-{best}")
    before = weights(chosen.output / "best")
    # As if the run had been killed after the checkpoint of step 2.
    shutil.rmtree(chosen.output / "checkpoint-4")
    shutil.rmtree(chosen.output / "final")
    train(chosen, resume=True)
    assert_the_same_but_for_validations(plain.parent, chosen)
    assert validations(chosen.output) == found
    assert kept_weights(chosen.output) == kept
    after = weights(chosen.output / "best")
    assert all(after[name].equal(before[name]) for name in before)


def test_all_weights_are_kept_where_asked_and_an_error_in_a_validation_is_made_good(
    recipe, monkeypatch
):
    chosen = recipe("all", validate={"keep": "all", "metric": "plcc"}, optimizer={"steps": 5})
    real = Validator.scores

    def fails_at_step_4(self, accelerator):
        if (chosen.output / "weights-2").exists():
            raise OSError("the disk went away")
        return real(self, accelerator)

    monkeypatch.setattr(Validator, "scores", fails_at_step_4)
    with pytest.raises(OSError, match="went away"):
        train(chosen)
    assert [v["step"] for v in validations(chosen.output)] == [0, 2]
    monkeypatch.setattr(Validator, "scores", real)
    # It goes on from step 4, whose validation is still to be done.
    train(chosen, resume=True)
    found = validations(chosen.output)
    assert [v["step"] for v in found] == [0, 2, 4, 5]
    kept = kept_weights(chosen.output)
    assert kept == [Kept(v["step"], "plcc", v.get("eval_plcc")) for v in found[1:]]


def test_no_test_image_and_no_trained_image_is_looked_at(recipe, tmp_path):
    table = str(tmp_path / "split.csv")
    with pytest.raises(UserError, match=r"validate: .*split\.csv has 2 rows of the split test"):
        train(recipe(validate={"split": None}))
    with pytest.raises(UserError, match=r"validate\.split"):
        recipe(validate={"split": "test"})
    with pytest.raises(UserError, match=r"lab1\.png is trained on, too \(6 such images\)"):
        train(recipe(data=[{"manifest": table, "mos_range": [0, 100]}]))
    with pytest.raises(UserError, match=r"validate\.keep"):
        recipe(validate={"keep": "last 0"})
    with pytest.raises(UserError, match="gives no report"):
        train(recipe(report_to=["wandbb"]))
