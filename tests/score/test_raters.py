"""From the name of a model to what rates images, and the ratings of classics."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from visualquality import Scorer, UserError
from visualquality.classics.brisque import Brisque
from visualquality.classics.niqe import Niqe
from visualquality.models.releases import RELEASES
from visualquality.score import raters
from visualquality.score.raters import ImageFunctionRater, make_rater
from visualquality.score.rating import Rater
from visualquality.score.resume import score_all
from visualquality.score.settings import score_settings


def rater_of(name: str, **options) -> Rater:
    return make_rater(name, score_settings(**options))


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
    assert rater.options.batch == 3
    with pytest.raises(UserError, match="no model 'nique'"):
        rater_of("nique")


@pytest.mark.parametrize(
    "option",
    [
        {"prompt": "paper"},
        {"max_pixels": 10_000},
        {"temperature": 0.5},
        {"reading": "strict"},
        {"max_new_tokens": 9},
        {"url": "http://localhost:8000/v1"},
        {"reference": True},
        {"engine": "vllm"},
        {"mode": "expect"},
        {"mode": "reason"},  # the default, but somebody asked for it
        {"samples": 6},
        {"top_k": 50},
        {"add_vision_id": True},
        {"preset": "authors"},
        {"dtype": "float32"},
    ],
)
@pytest.mark.parametrize("name", ["niqe", "brisque", "pyiqa:unique"])
def test_classic_methods_take_no_option_of_a_model(name, option):
    with pytest.raises(UserError, match=f"{name} takes no {next(iter(option))}"):
        rater_of(name, **option)


def test_classic_methods_take_the_options_that_promise_nothing_else():
    nothing = {"reference": False, "temperature": None, "add_vision_id": False}
    given = {"batch": 2, "device": "cpu", "seed": 7, **nothing}
    assert rater_of("niqe", **given).settings() == rater_of("niqe").settings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "expect", "samples": 6}, "samples has no effect in mode expect"),
        ({"mode": "expect", "reading": "strict"}, "reading has no effect in mode expect"),
        ({"mode": "expect", "temperature": 0}, "temperature has no effect in mode expect"),
        ({"mode": "expect", "top_k": 0}, "top_k has no effect in mode expect"),
        ({"mode": "expect", "top_p": 0.9}, "top_p has no effect in mode expect"),
        ({"mode": "expect", "repetition_penalty": 1.1}, "repetition_penalty has no effect"),
        ({"mode": "expect", "max_new_tokens": 9}, "max_new_tokens has no effect in mode expect"),
        ({"mode": "expect", "preset": "authors"}, "preset has no effect in mode expect"),
        ({"mode": "auto", "preset": "authors"}, "preset authors .* modes reason and direct"),
        ({"doubt": 0.5}, "doubt has no effect without mode auto"),
        ({"tolerance": 0.2, "samples": 4}, "tolerance has no effect without samples auto"),
        ({"temperature": 0, "top_k": 5, "top_p": 0.5}, "top_k and top_p: .* temperature 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": 105}, "repetition_penalty is 105"),
        ({"temperature": 101}, "temperature is 101"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"preset": "mine"}, "preset is 'mine'"),
    ],
)
def test_what_would_change_nothing_or_is_out_of_range_is_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        score_settings(**options)


def test_a_preset_fills_what_was_not_given():
    asked = score_settings(preset="authors", temperature=0.5, add_vision_id=False, samples=3)
    chosen = asked.for_model("models/VisualQuality-R1-7B")
    assert (chosen.temperature, chosen.add_vision_id, chosen.samples) == (0.5, False, 3)
    assert (chosen.top_k, chosen.repetition_penalty, chosen.max_new_tokens) == (50, 1.05, 2048)
    insight = score_settings(preset="authors").for_model("ByteDance/Q-Insight")
    assert (insight.temperature, insight.top_k, insight.top_p) == (1, 50, 0.95)
    assert (insight.samples, insight.max_new_tokens, insight.reading) == (1, 1024, "authors")
    plain = score_settings(temperature=0.5)
    assert plain.for_model("models/VisualQuality-R1-7B") is plain
    for name in ("nano", "Qwen/Qwen2.5-VL-7B-Instruct", "runs/mine/final"):
        with pytest.raises(UserError, match=f"no preset authors for {name}"):
            asked.for_model(name)
        with pytest.raises(UserError, match=f"no preset authors for {name}"):
            make_rater(name, asked)


def test_every_preset_is_valid_settings():
    for release in RELEASES:
        score_settings(**(release.authors or {}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://localhost:8000/v1"}, "--url .* --engine openai"),
        ({"engine": "vllm", "url": "http://localhost:8000/v1"}, "--url .* --engine openai"),
        ({"engine": "vllm", "mode": "expect"}, "engine vllm .* mode reason or direct"),
        ({"engine": "openai", "url": "http://h/v1", "mode": "auto"}, "engine openai .* mode"),
        ({"engine": "openai", "url": "http://h/v1", "samples": "auto"}, "a number of samples"),
        ({"engine": "vllm", "reading": "expected"}, "engine vllm .* use reading strict"),
        (
            {"engine": "openai", "url": "http://h/v1", "reading": "expected"},
            "engine openai .* use reading strict",
        ),
        ({"engine": "openai"}, "engine openai needs --url"),
        ({"engine": "openai", "url": "http://[::1/v1"}, "must be like http://localhost:8000/v1"),
        ({"engine": "openai", "url": "http://h/v1", "dtype": "float16"}, "a server chooses it"),
    ],
)
def test_engines_refuse_what_they_cannot_do(options, words):
    with pytest.raises(UserError, match=words):
        rater_of("nano", **options)


def test_a_server_gets_the_options_that_concern_it():
    options = {"mode": "direct", "samples": 3, "seed": 4, "max_pixels": 500, "batch": 2}
    options["reading"] = "strict"  # what engines do in any case
    rater = rater_of("m", engine="openai", url="http://u:p@localhost:1/v1", **options)
    settings = rater.settings()
    assert (settings["engine"], settings["url"]) == ("openai", "http://localhost:1/v1")
    for name in ("mode", "samples", "seed", "max_pixels"):
        assert settings[name] == options[name]
    assert settings["temperature"] == 1.0
    assert settings["max_new_tokens"] == 24


def test_how_files_are_read_is_an_option_of_every_rater(tmp_path, model_folder):
    pixels = (np.indices((128, 128)).sum(0) * 16).astype(np.uint16)  # 12 bits in 16
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    right = np.rint(pixels * (255 / 4095)).astype(np.uint8)
    for model in ("niqe", "brisque", str(model_folder("nano"))):
        found = {}
        one = {} if model in ("niqe", "brisque") else {"samples": 1}
        for bits in (None, 12):
            rater = rater_of(model, assume_bits=bits, **one)
            found[bits], plain = rater.rate([str(tmp_path / "deep.tif"), right])
            assert (rater.settings().get("assume_bits"), plain.warnings) == (bits, ())
        assert "--assume-bits 12" in found[None].warnings[0]
        assert found[12].warnings == ()
        assert found[12].score == pytest.approx(plain.score, abs=1e-4)
        (small,) = rater_of(model, max_image_pixels=100, **one).rate([str(tmp_path / "deep.tif")])
        assert "128 × 128 pixels, more than the 100 allowed" in small.problem
        assert "--max-image-pixels" in small.problem


def test_large_photos_are_rated_one_at_a_time(tmp_path, monkeypatch):
    """Eight threads would need the memory of eight."""

    class Slow:
        name, running, most = "slow", 0, 0

        def settings(self) -> dict[str, Any]:
            return {"model": "slow"}

        def __call__(self, image: Image.Image) -> float:
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.05)
            self.running -= 1
            return 0.0

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    paths = [str(tmp_path / "a.png")] * 6
    for limit, most in ((399, 1), (400, 3)):
        monkeypatch.setattr(raters, "LARGE", limit)
        slow = Slow()
        assert len(list(ImageFunctionRater(slow, workers=3).rate(paths))) == 6
        assert slow.most == most


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
            np.random.default_rng(k).integers(0, 256, (97, 99, 3), dtype=np.uint8)
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
