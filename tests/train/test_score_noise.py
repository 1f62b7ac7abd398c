"""Noise on the scores that a supervised run learns: as wide as the ratings of each image, where that is asked for."""

import numpy as np
import pytest
import yaml

from conftest import picture
from visualquality.errors import UserError
from visualquality.train import supervised
from visualquality.train.examples import read_examples
from visualquality.train.recipe import read_recipe
from visualquality.train.run import train

STDS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
RANGE = (20.0, 120.0)


@pytest.fixture
def recipe(tmp_path, model_folder):
    """A function: the noise, and the std of each image -> a recipe. MOS are from 20 to 120."""

    def make(noise, stds=STDS, **source):
        lines = ["image,mos,std,reasoning"]
        for i, std in enumerate(stds):
            picture(i).save(tmp_path / f"{i}.png")
            lines.append(f"{i}.png,{40 + 3 * i},{'' if std is None else 25 * std},image {i}")
        (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
        tree = {
            "method": "sft",
            "model": str(model_folder("nano")),
            "data": [{"manifest": str(tmp_path / "m.csv"), "mos_range": list(RANGE), **source}],
            "output": str(tmp_path / f"run-{noise}"),
            "sft": {"score_noise": noise},
            "freeze_vision": True,
            "optimizer": {"steps": 3, "images_per_device": 6},
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
        return read_recipe(tmp_path / "r.yaml")

    return make


def scores_learnt(recipe, monkeypatch) -> dict[str, list[float]]:
    """Of each image, by its reasoning: the scores of the responses in a run."""
    found: dict[str, list[float]] = {}
    real = supervised.target_text

    def recorded(score, reasoning, *, opened):
        found.setdefault(reasoning, []).append(score)
        return real(score, reasoning, opened=opened)

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "target_text", recorded)
        train(recipe)
    return found


def test_each_score_is_drawn_with_the_std_of_its_own_row(recipe, monkeypatch):
    drawn = scores_learnt(recipe("std"), monkeypatch)
    # The same draws in units of one: with noise 1 on every score.
    unit = scores_learnt(recipe(1.0), monkeypatch)
    assert drawn.keys() == unit.keys() == {f"image {i}" for i in range(len(STDS))}
    for i, std in enumerate(STDS):
        mos = 1 + 4 * (20 + 3 * i) / 100
        noise = np.array(unit[f"image {i}"]) - mos
        assert len(noise) >= 3
        assert len(set(noise)) >= 3  # anew at each visit
        np.testing.assert_allclose(np.array(drawn[f"image {i}"]) - mos, std * noise, atol=1e-9)


def test_the_range_of_the_scale_scales_the_std_with_the_mos(recipe):
    examples = read_examples(recipe("std"))
    assert [e.std for e in examples] == pytest.approx(
        STDS
    )  # in the file they are 25 times as large
    assert examples[2].mos == pytest.approx(1 + 4 * 26 / 100)


def test_a_row_without_std_is_refused_in_one_sentence(recipe):
    with pytest.raises(UserError) as refused:
        read_examples(recipe("std", (0.1, None, 0.2, None)))
    message = str(refused.value)
    assert "1.png" in message
    assert "2 such" in message
    assert "score_noise" in message
    assert "column std" in message
    assert "\n" not in message
    # With a number, no row needs one.
    assert len(read_examples(recipe(0.3, (None, None)))) == 2


@pytest.mark.parametrize("wrong", ["some", -0.1])
def test_noise_is_a_number_from_0_on_or_std(recipe, wrong):
    with pytest.raises(UserError, match=r"sft\.score_noise"):
        recipe(wrong)
