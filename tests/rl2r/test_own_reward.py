"""A reward of one's own is a function and an entry in `REWARDS`; nothing else is touched."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from rich.console import Console

from visualquality import rl2r
from visualquality.errors import UserError
from visualquality.evaluate.run_page import report_run
from visualquality.train.plan import plan
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train


@pytest.fixture
def recipe_file(tmp_path, model_folder, ranking_set):
    """A function: name of a reward -> a recipe of one step on a small model."""

    def write(reward: str):
        tree = {
            "method": "rl2r",
            "model": str(model_folder("nano")),
            "data": [{"manifest": str(ranking_set)}],
            "output": str(tmp_path / "run"),
            "optimizer": {"steps": 1, "images_per_device": 4},
            "rl2r": {"responses": 3, "max_new_tokens": 8, "reward": reward, "format_weight": 0},
            "max_pixels": 56 * 56,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def test_a_function_and_an_entry_train(recipe_file, monkeypatch):
    batches = []

    def mine(scores, mos, datasets=None):
        """How late the response comes.

        The second line is for readers of the code.
        """
        batches.append((tuple(scores.shape), tuple(mos.shape)))
        late = torch.arange(scores.shape[1], dtype=scores.dtype) / 4
        return late.expand_as(scores)

    monkeypatch.setitem(rl2r.REWARDS, "mine", mine)
    recipe = read_recipe(recipe_file("mine"))
    train(recipe)
    assert batches == [((4, 3), (4,))]
    (sample,) = map(json.loads, (recipe.output / "samples.jsonl").read_text().splitlines())
    assert sample["rewards"] == [[0, 0.25, 0.5]] * 4
    metrics = list(map(json.loads, (recipe.output / "metrics.jsonl").read_text().splitlines()))
    assert [line["reward/mine"] for line in metrics] == [0.25]
    page = recipe.output / "report.html"
    report_run(recipe.output, page, console=Console(quiet=True))
    assert "mine: How late the response comes." in page.read_text()
    # Whoever looks at the run need not have the reward.
    monkeypatch.delitem(rl2r.REWARDS, "mine")
    report_run(recipe.output, page, console=Console(quiet=True))


def test_an_unknown_name_is_answered_with_the_choices(recipe_file):
    recipe = read_recipe(recipe_file("mine"))
    with pytest.raises(UserError) as raised:
        train(recipe)
    assert not recipe.output.exists()
    message = str(raised.value)
    with pytest.raises(UserError, match="'mine'"):
        plan(recipe, [])
    assert "rl2r.reward" in message
    assert "'mine'" in message
    assert "fidelity, binary, probability_average, fixed_variance, absolute" in message
    assert "\n" not in message
    with pytest.raises(ValueError, match=r"'mine'.*fidelity, binary"):
        rl2r.reward(torch.ones(2, 2), torch.ones(2), None, "mine")


def test_every_reward_has_the_one_signature_and_says_what_it_is():
    scores = torch.tensor([[4.0, 2.0, float("nan")], [2.0, 3.0, 1.0]])
    assert list(rl2r.REWARDS) == [
        "fidelity",
        "binary",
        "probability_average",
        "fixed_variance",
        "absolute",
        "exponential",
        "rank_and_score",
    ]
    for name, function in rl2r.REWARDS.items():
        got = function(scores, torch.tensor([3.0, 2.0]), torch.tensor([0, 0]))
        assert got.shape == scores.shape, name
        assert got[0, 2] == 0, name
        assert torch.equal(got, rl2r.reward(scores, torch.tensor([3.0, 2.0]), variant=name))
        assert rl2r.description(name), name
    assert rl2r.description("format")
    assert rl2r.description("unknown") == ""


def test_the_total_is_ranking_and_format_less_length():
    scores = torch.tensor([[3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
    mos = torch.tensor([2.0, 1.0])
    well_formed = torch.tensor([[True, False], [True, True]])
    tokens = torch.tensor([[50, 100], [0, 25]])
    settings = SimpleNamespace(
        reward="binary", format_weight=0.5, length_weight=0.2, max_new_tokens=100
    )
    total, ranking = rl2r.total_reward(scores, mos, None, well_formed, tokens, settings)
    assert ranking.tolist() == [[1, 1], [1, 1]]
    # 1 + 0.5 − 0.2 · 0.5, 1 + 0 − 0.2, 1 + 0.5 − 0, 1 + 0.5 − 0.2 · 0.25
    assert total.flatten().tolist() == pytest.approx([1.4, 0.8, 1.5, 1.45])
