"""The metrics of pyiqa, on a stand-in: it is an optional package, and its weights come from the network."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import picture
from visualquality import UserError
from visualquality.classics.pyiqa import PyiqaMetric
from visualquality.data.images import open_image
from visualquality.score.raters import make_rater
from visualquality.score.settings import ScoreSettings


class Metric:
    """Mean brightness, as a (1, 1) tensor; it crashes on a small image and gives NaN for a black one."""

    def __init__(self, lower_better: bool):
        self.lower_better = lower_better

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[:2] == (1, 3)
        assert pixels.dtype == torch.float32
        assert 0 <= pixels.min() <= pixels.max() <= 1
        if min(pixels.shape[2:]) < 8:
            raise AssertionError("the image is too small")
        return (pixels.mean() if pixels.any() else torch.tensor(float("nan"))).reshape(1, 1)


def create_metric(name, device=None):
    print("Loading pretrained model")
    faults = {
        "musiq": OSError("<urlopen error [Errno -2] Name or service not known>"),
        "qalign": ImportError("No module named 'bitsandbytes'"),
    }
    if name in faults:
        raise faults[name]
    return Metric(lower_better=name == "niqe")


@pytest.fixture
def pyiqa(monkeypatch):
    names = ["unique", "musiq", "qalign", "niqe"]
    stand_in = SimpleNamespace(
        __version__="0.1.16",
        create_metric=create_metric,
        list_models=lambda metric_mode: names * (metric_mode == "NR"),
    )
    monkeypatch.setitem(sys.modules, "pyiqa", stand_in)


@pytest.mark.usefixtures("pyiqa")
def test_higher_is_better_whatever_the_metric_says(tmp_path):
    image = picture(0, (40, 30))
    image.save(tmp_path / "a.png")
    brightness = pytest.approx(np.asarray(image).mean() / 255, abs=1e-5)
    opened = open_image(tmp_path / "a.png")
    assert PyiqaMetric("unique")(opened) == brightness
    assert -PyiqaMetric("niqe")(opened) == brightness
    (rating,) = make_rater("pyiqa:unique", ScoreSettings()).rate([tmp_path / "a.png"])
    assert rating.score == brightness
    assert rating.image == str(tmp_path / "a.png")
    assert rating.model == "pyiqa:unique"


@pytest.mark.usefixtures("pyiqa")
def test_an_image_that_the_metric_cannot_rate_is_a_problem_and_the_others_go_on(tmp_path):
    images = [
        picture(0),
        picture(0, (5, 5)),
        Image.new("RGB", (20, 20)),
        tmp_path / "absent.png",
        picture(0),
    ]
    ratings = list(make_rater("pyiqa:unique", ScoreSettings()).rate(images))
    assert [rating.score is None for rating in ratings] == [False, True, True, True, False]
    assert ratings[0].score == ratings[4].score
    for rating, words in zip(
        ratings[1:4], ["the image is too small", "nan", "absent.png does not exist"], strict=True
    ):
        assert words in rating.problem


@pytest.mark.usefixtures("pyiqa")
def test_settings_tell_metrics_apart_and_what_pyiqa_prints_is_no_result(capsys):
    unique, niqe = PyiqaMetric("unique").settings(), PyiqaMetric("niqe").settings()
    assert unique["model"] == "pyiqa:unique"
    assert unique["weights"] == "pyiqa 0.1.16"
    assert (unique["lower_better"], niqe["lower_better"]) == (False, True)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("pyiqa")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pyiqa:musiq", "weights of pyiqa:musiq could not be fetched .*Name or service not known"),
        (
            "pyiqa:qalign",
            "pyiqa:qalign cannot be set up here: ImportError: No module named 'bitsandbytes'",
        ),
        ("pyiqa:deqa", "pyiqa 0.1.16 has no no-reference metric 'deqa'"),
        ("pyiqa:", "no no-reference metric ''"),
    ],
)
def test_a_metric_that_cannot_be_had_is_one_sentence(name, words):
    with pytest.raises(UserError, match=words):
        make_rater(name, ScoreSettings())


def test_without_pyiqa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UserError, match=r"visualquality\[pyiqa\]"):
        PyiqaMetric("unique")


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch, tmp_path):
    (tmp_path / "pyiqa.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(
        UserError, match=r"torchvision::nms does not exist.*torchvision made for torch"
    ):
        PyiqaMetric("unique")
