"""From a name to what rates images.

pyiqa is replaced by a stand-in: it is an optional package, and its weights come from the network.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from conftest import picture
from visualquality import Scorer, UserError
from visualquality.classics.brisque import Brisque
from visualquality.classics.niqe import Niqe
from visualquality.score.batch import score_all
from visualquality.score.raters import ImageFunctionRater, make_rater
from visualquality.score.rating import Rater
from visualquality.score.settings import ScoreSettings, score_settings


def rater_of(name: str, **options) -> Rater:
    return make_rater(name, score_settings(**options))


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


@pytest.mark.parametrize(("name", "kind"), [("niqe", Niqe), ("brisque", Brisque)])
def test_our_own_methods_by_name(name, kind):
    rater = rater_of(name)
    assert isinstance(rater, ImageFunctionRater)
    assert isinstance(rater.classic, kind)
    assert rater.settings() == kind.load().settings()


def test_our_own_methods_with_parameters_of_ones_own(tmp_path):
    fitted = Niqe(np.zeros(36), np.eye(36))
    fitted.save(tmp_path / "mine.npz")
    mine = rater_of(f"niqe:{tmp_path}/mine.npz")
    assert mine.settings() == fitted.settings() != Niqe.load().settings()
    with pytest.raises(UserError, match=r"absent.npz"):
        rater_of(f"brisque:{tmp_path}/absent.npz")


def test_any_other_name_is_a_model_with_its_options(model_folder):
    rater = rater_of(
        str(model_folder("nano")),
        mode="direct",
        samples=2,
        seed=5,
        prompt="released",
        device="cpu",
        batch=3,
    )
    assert isinstance(rater, Scorer)
    settings = rater.settings()
    assert [settings[k] for k in ("mode", "samples", "seed", "prompt")] == [
        "direct",
        2,
        5,
        "released",
    ]
    assert rater.batch == 3
    with pytest.raises(UserError, match="no model 'nique'"):
        rater_of("nique")


@pytest.mark.parametrize(
    "option",
    [
        {"prompt": "paper"},
        {"max_pixels": 10_000},
        {"url": "http://localhost:8000/v1"},
        {"reference": True},
        {"engine": "vllm"},
    ],
)
@pytest.mark.parametrize("name", ["niqe", "brisque", "pyiqa:unique"])
def test_classic_methods_take_no_option_of_a_model(name, option):
    with pytest.raises(UserError, match=f"{name} takes no {next(iter(option))}"):
        rater_of(name, **option)


def test_classic_methods_take_every_option_at_its_default_and_those_that_never_concern_them():
    given = ScoreSettings().model_dump() | {"mode": "expect", "samples": "auto", "seed": 7}
    assert rater_of("niqe", **given).settings() == rater_of("niqe").settings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://localhost:8000/v1"}, "--url .* --engine openai"),
        ({"engine": "vllm", "url": "http://localhost:8000/v1"}, "--url .* --engine openai"),
        ({"engine": "vllm", "mode": "expect"}, "engine vllm .* mode reason or direct"),
        ({"engine": "openai", "url": "http://h/v1", "mode": "auto"}, "engine openai .* mode"),
        ({"engine": "openai", "url": "http://h/v1", "samples": "auto"}, "a number of samples"),
        ({"engine": "openai"}, "engine openai needs --url"),
    ],
)
def test_engines_refuse_what_they_cannot_do(options, words):
    with pytest.raises(UserError, match=words):
        rater_of("nano", **options)


def test_a_server_gets_the_options_that_concern_it():
    options = {"mode": "direct", "samples": 3, "seed": 4, "max_pixels": 500, "batch": 2}
    rater = rater_of("m", engine="openai", url="http://u:p@localhost:1/v1", **options)
    settings = rater.settings()
    assert (settings["engine"], settings["url"]) == ("openai", "http://localhost:1/v1")
    for name in ("mode", "samples", "seed", "max_pixels"):
        assert settings[name] == options[name]
    assert settings["temperature"] == 1.0
    assert settings["max_new_tokens"] == 24


def test_images_are_read_only_a_few_ahead() -> None:
    class Grey:
        name = "grey"

        def settings(self) -> dict[str, Any]:
            return {"model": "grey"}

        def __call__(self, image: Image.Image) -> float:
            return float(np.asarray(image)[0, 0, 0])

    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(len(taken))
            yield np.full((2, 2), taken[-1], np.uint8)

    ratings = ImageFunctionRater(Grey(), workers=2).rate(endless())
    assert [next(ratings).score for _ in range(10)] == list(range(10))
    assert len(taken) <= 14
    ratings.close()  # type: ignore[attr-defined]


def test_ratings_keep_their_order_and_name_what_cannot_be_read(tmp_path: Path) -> None:
    niqe = Niqe.load()
    names = [str(tmp_path / f"{k}.png") for k in range(7)]
    for k, name in enumerate(names):
        Image.fromarray(
            np.random.default_rng(k).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        ).save(name)
    Path(names[3]).write_bytes(b"no image")
    journal = tmp_path / "scores.jsonl"
    alone = [next(ImageFunctionRater(niqe).rate([name])).score for name in names]
    rater = ImageFunctionRater(niqe, workers=3)
    ratings = list(score_all(rater, names, journal=journal, console=Console(quiet=True)))
    assert [r.image for r in ratings] == names
    assert [r.score for r in ratings] == alone
    assert ratings[3].score is None
    assert names[3] in str(ratings[3].problem)
    assert ratings[0].samples == (ratings[0].score,)
    assert (ratings[0].model, ratings[0].mode, ratings[0].seed) == ("niqe", "direct", 0)
    assert json.loads(journal.read_text().splitlines()[0])["header"] == niqe.settings()


@pytest.mark.usefixtures("pyiqa")
def test_higher_is_better_whatever_the_metric_says(tmp_path):
    image = picture(0, (40, 30))
    image.save(tmp_path / "a.png")
    brightness = pytest.approx(np.asarray(image).mean() / 255, abs=1e-5)
    (up,), (down,) = (
        rater_of(name).rate([tmp_path / "a.png"]) for name in ("pyiqa:unique", "pyiqa:niqe")
    )
    assert up.score == brightness
    assert -down.score == brightness
    assert up.image == str(tmp_path / "a.png")
    assert up.model == "pyiqa:unique"


@pytest.mark.usefixtures("pyiqa")
def test_an_image_that_the_metric_cannot_rate_is_a_problem_and_the_others_go_on(tmp_path):
    images = [
        picture(0),
        picture(0, (5, 5)),
        Image.new("RGB", (20, 20)),
        tmp_path / "absent.png",
        picture(0),
    ]
    ratings = list(rater_of("pyiqa:unique").rate(images))
    assert [rating.score is None for rating in ratings] == [False, True, True, True, False]
    assert ratings[0].score == ratings[4].score
    for rating, words in zip(
        ratings[1:4], ["the image is too small", "nan", "absent.png does not exist"], strict=True
    ):
        assert words in rating.problem


@pytest.mark.usefixtures("pyiqa")
def test_settings_tell_metrics_apart_and_what_pyiqa_prints_is_no_result(capsys):
    unique, niqe = rater_of("pyiqa:unique").settings(), rater_of("pyiqa:niqe").settings()
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
        rater_of(name)


def test_without_pyiqa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UserError, match=r"visualquality\[pyiqa\]"):
        rater_of("pyiqa:unique")


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch, tmp_path):
    (tmp_path / "pyiqa.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    with pytest.raises(
        UserError, match=r"torchvision::nms does not exist.*torchvision made for torch"
    ):
        rater_of("pyiqa:unique")
