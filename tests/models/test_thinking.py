"""Models whose chat template opens the thinking itself, so that their responses have no opening tag."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from conftest import picture
from visualquality.io import read_jsonl
from visualquality.models.load import load
from visualquality.models.prompt import prompt_opening
from visualquality.score import scorer as scoring
from visualquality.score.scorer import Scorer
from visualquality.train import trainer
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train
from visualquality.train.supervised import target_text
from visualquality.train.trainer import RL2RTrainer


@pytest.fixture(scope="module")
def thinking(model_folder, tmp_path_factory):
    """A small nano with the end of Qwen3-VL-Thinking's template."""
    folder = tmp_path_factory.mktemp("thinking") / "model"
    shutil.copytree(model_folder("nano"), folder)
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    start = "<|im_start|>assistant\n"
    assert text.count(start) == 1
    template.write_text(text.replace(start, start + "<think>\n"), encoding="utf-8")
    return folder


def test_the_template_tells_whether_the_prompt_opens_the_thinking(thinking, model_folder):
    assert prompt_opening(load(str(thinking), device="cpu").processor) == "<think>"
    for family in ("nano", "qwen2_5_vl"):
        assert prompt_opening(load(str(model_folder(family)), device="cpu").processor) == ""


@pytest.mark.parametrize(
    ("text", "reasoning", "score"),
    [
        ("Soft.\n</think>\n\n<answer>3.00</answer>", "Soft.", 3),
        ("Soft and", "Soft and", None),  # cut off in the midst of the thinking
    ],
)
def test_a_scorer_reads_the_response_with_its_opening_tag(
    thinking, monkeypatch, text, reasoning, score
):
    scorer = Scorer(str(thinking), mode="reason", samples=1, device="cpu", max_new_tokens=4)
    monkeypatch.setattr(scoring, "decode", lambda *_: text)
    read = scorer._response(SimpleNamespace(truncated=score is None))
    assert (read.reasoning, read.score) == (reasoning, score)


def test_the_expected_score_is_asked_for_behind_the_thinking(thinking, model_folder):
    for model, opening in ((thinking, "</think><answer>"), (model_folder("nano"), "<answer>")):
        scorer = Scorer(str(model), mode="expect", device="cpu")
        (question,) = scorer.reader.questions
        assert scorer.vlm.processor.tokenizer.decode(question.opening) == opening
        assert 1 <= scorer(picture(0)).score <= 5


@pytest.mark.parametrize(("opening", "earned"), [("<think>", True), ("", False)])
def test_the_format_reward_is_earned_where_the_prompt_opened_the_thinking(
    monkeypatch, opening, earned
):
    monkeypatch.setattr(trainer, "decode", lambda *_: "Soft.</think><answer>3.00</answer>")
    run = SimpleNamespace(
        opening=opening,
        vlm=SimpleNamespace(processor=None),
        recipe=SimpleNamespace(reasoning=True),
        settings=SimpleNamespace(reading="strict"),
    )
    answers = RL2RTrainer._read(run, None, [SimpleNamespace(ids=(1, 2))])
    assert answers.well_formed == [earned]
    assert answers.scores == [3]


def test_training_takes_the_opening_from_the_model(thinking, ranking_set, tmp_path):
    tree = {
        "method": "rl2r",
        "model": str(thinking),
        "data": [{"manifest": str(ranking_set)}],
        "output": str(tmp_path / "run"),
        "optimizer": {"steps": 1, "images_per_device": 2},
        "rl2r": {"responses": 2, "max_new_tokens": 8},
        "max_pixels": 56 * 56,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    train(read_recipe(tmp_path / "run.yaml"))
    texts = [line.record["texts"] for line in read_jsonl(tmp_path / "run" / "samples.jsonl")]
    assert texts
    assert all(text.startswith("<think>") for step in texts for text in step)


def test_supervised_targets_close_what_the_prompt_opened():
    assert target_text(3, "Sharp.", opened=True) == "Sharp.</think><answer>3.00</answer>"
    assert target_text(3, None, opened=True) == "</think><answer>3.00</answer>"


def test_pictures_are_scored_by_such_a_model(thinking):
    scorer = Scorer(str(thinking), mode="expect", device="cpu")
    assert 1 <= scorer(picture(0)).score <= 5
