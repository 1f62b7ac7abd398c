"""With a stand-in for the package vllm that has the names and signatures of vLLM 0.31, and tells requests apart."""

import sys
from dataclasses import dataclass
from itertools import count
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import picture
from visualquality import UserError
from visualquality.cli import app
from visualquality.evaluate.suite import read_suite
from visualquality.score.journal import read_journal
from visualquality.score.raters import make_rater
from visualquality.score.settings import score_settings
from visualquality.score.vllm import VllmRater


class VLLMClientError(Exception):
    pass


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that exist, with the defaults of vLLM but for those that must not be relied on."""

    n: int = 1
    presence_penalty: float = 9.0
    frequency_penalty: float = 9.0
    repetition_penalty: float = 9.0
    temperature: float = 9.0
    top_p: float = 0.0
    top_k: int = 9
    min_p: float = 0.9
    seed: int | None = None
    max_tokens: int | None = 16
    logit_bias: dict[int, float] | None = None

    def __post_init__(self):
        assert self.temperature or self.n == 1, "n must be 1 when using greedy sampling"


class LLM:
    made = None

    def __init__(
        self,
        model,
        *,
        dtype,
        max_model_len=None,
        enable_prefix_caching=None,
        limit_mm_per_prompt=None,
        **others,
    ):
        self.dtype = dtype
        self.options = {"max_model_len": max_model_len, **others}
        if model == "absent":
            raise OSError("no such model\nand much more")
        assert enable_prefix_caching
        self.model_config = SimpleNamespace(
            hf_config=SimpleNamespace(image_token_id=6, video_token_id=7)
        )
        self.calls = []
        LLM.made = self

    def chat(self, messages, sampling_params=None, use_tqdm=True, chat_template_kwargs=None):
        assert not use_tqdm
        self.template = chat_template_kwargs
        assert len(messages) == len(sampling_params)
        self.calls.append((messages, sampling_params))
        images = [chat[-1]["content"][0]["image_pil"] for chat in messages]
        if any(image.width > 500 for image in images):
            raise VLLMClientError("Failed on <image at 0x7F>") from ValueError(
                "the aspect ratio is above 200"
            )
        return [
            SimpleNamespace(outputs=[self.answer(image, k, p) for k in reversed(range(p.n))])
            for image, p in zip(images, sampling_params, strict=True)
        ]

    def answer(self, image, k, params):
        """The score says which image and sample it is; a width of 13 runs out of tokens."""
        text, reason = (
            f"<think>{k}</think><answer>{1 + k / 10 + image.width / 1000:.3f}</answer>",
            "stop",
        )
        if image.width == 13:
            text, reason = "<think>and so on", "length"
        return SimpleNamespace(index=k, text=text, finish_reason=reason)


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    package, exceptions = ModuleType("vllm"), ModuleType("vllm.exceptions")
    package.LLM, package.SamplingParams, exceptions.VLLMClientError = (
        LLM,
        SamplingParams,
        VLLMClientError,
    )
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)


def rater(model, **options):
    return VllmRater(model, score_settings(**options))


def test_ratings_are_in_order_and_samples_too(tmp_path):
    (tmp_path / "not.png").write_text("hello")
    images = [
        picture(0, (10, 8)),
        str(tmp_path / "not.png"),
        picture(1, (13, 8)),
        np.asarray(picture(2, (16, 8))),
    ]
    ratings = list(rater("some/model", samples=3, batch=3).rate(images))
    assert [r.image for r in ratings] == ["image", images[1], "image", "array"]
    assert ratings[0].samples == (1.01, 1.11, 1.21)
    assert (ratings[0].score, ratings[0].reasoning) == (1.11, "1")
    assert "not.png" in ratings[1].problem
    assert "cut_off" in ratings[2].problem
    assert ratings[3].score == 1.116
    assert [len(messages) for messages, _ in LLM.made.calls] == [2, 1]


def test_each_request_sets_every_sampling_field_and_bans_placeholders():
    direct = rater("some/model", mode="direct", samples=4, temperature=0.7)
    list(direct.rate([picture(0), picture(1)]))
    ((messages, (first, second)),) = LLM.made.calls
    neutral = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    penalties = {"presence_penalty": 0, "frequency_penalty": 0}
    own = {"n": 4, "temperature": 0.7, "max_tokens": 24, "logit_bias": {6: -100.0, 7: -100.0}}
    assert {k: v for k, v in vars(first).items() if k != "seed"} == {**neutral, **penalties, **own}
    assert first.seed != second.seed
    assert [part["type"] for part in messages[0][0]["content"]] == ["image_pil", "text"]
    assert "<think>" not in messages[0][0]["content"][1]["text"]
    assert direct.settings()["engine"] == "vllm"
    assert LLM.made.template is None


def test_the_preset_of_the_authors_reaches_the_engine_and_the_header():
    asked = rater("TianheWu/VisualQuality-R1-7B", preset="authors", top_k=7)
    (rating,) = asked.rate([picture(0)])
    ((_, (params,)),) = LLM.made.calls
    wanted = {
        "temperature": 0.1,
        "top_k": 7,  # an option goes before the preset
        "top_p": 1.0,
        "repetition_penalty": 1.05,
    }
    assert vars(params).items() >= {**wanted, "n": 1, "max_tokens": 2048}.items()
    assert LLM.made.template == {"add_vision_id": True}
    recorded = {**wanted, "preset": "authors", "reading": "authors", "add_vision_id": True}
    del recorded["top_p"]  # the default
    assert asked.settings().items() >= {**recorded, "samples": 1, "max_new_tokens": 2048}.items()
    assert len(rating.samples) == 1


def test_seeds_depend_on_the_seed_and_the_pixels_alone():
    def seed(image, **settings):
        list(rater("some/model", **settings).rate([picture(9), image]))
        return LLM.made.calls[0][1][1].seed

    base = seed(picture(0))
    assert 0 <= base < 2**31
    assert base == seed(np.asarray(picture(0)), samples=2) == seed(picture(0), batch=2)
    assert len({base, seed(picture(1)), seed(picture(0), seed=1)}) == 3


def test_at_temperature_zero_one_answer_stands_for_all():
    rating = next(rater("some/model", samples=3, temperature=0.0).rate([picture(0, (10, 8))]))
    assert rating.samples == (1.01,) * 3


def test_an_image_that_vllm_refuses_fails_alone():
    images = [picture(i, (600 if i in (2, 5) else 20 + i, 8)) for i in range(7)]
    ratings = list(rater("some/model", samples=1).rate(images))
    assert [r.score for r in ratings] == [1.02, 1.021, None, 1.023, 1.024, None, 1.026]
    assert "the aspect ratio" in ratings[2].problem
    assert next(rater("some/model", max_pixels=1000).rate([images[2]])).score


def test_an_endless_stream_is_read_two_batches_ahead():
    taken = []

    def endless():
        for i in count():
            assert i < 100, "the stream is read to its end"
            taken.append(i)
            yield Image.new("RGB", (8, 8))

    stream = rater("some/model", samples=1, batch=3).rate(endless())
    for rated in range(1, 10):
        next(stream)
        assert len(taken) - rated < 6
    stream.close()


def test_the_batch_is_64_unless_it_is_given():
    assert rater("some/model").batch == 64
    assert rater("some/model", batch=8).batch == 8


def test_the_number_format_is_the_engines_unless_it_is_given():
    plain, chosen = rater("some/model"), rater("some/model", dtype="float16")
    assert (plain._llm.dtype, chosen._llm.dtype) == ("auto", "float16")
    assert chosen.settings() == plain.settings() | {"dtype": "float16"}


def test_engine_options_reach_vllm_and_the_journal():
    chosen = {"gpu_memory_utilization": 0.3, "tensor_parallel_size": 2, "quantization": "fp8"}
    plain, told = rater("some/model"), rater("some/model", engine="vllm", engine_option=chosen)
    # The model's own length often does not fit: by default it is as long as the memory allows.
    assert plain._llm.options == {"max_model_len": -1}
    assert told._llm.options == {"max_model_len": -1, **chosen}
    assert told.settings() == plain.settings() | {"engine_option": chosen}
    short = rater("some/model", engine="vllm", engine_option=["max_model_len=4096"])
    assert short._llm.options == {"max_model_len": 4096}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["max_model_len=many"], r"engine_option max_model_len is 'many': .*valid integer"),
        (["gpu_memory_utilization=90"], r"gpu_memory_utilization is '90': .*less than or equal"),
        (["tensor_parallel_size=0"], r"tensor_parallel_size is '0'"),
        (["swap_space=4"], r"there is no swap_space: there are gpu_memory_utilization, "),
        (["dtype=float16"], r"--dtype"),
        (["max_model_len"], r"'max_model_len' is not of the form KEY=VALUE"),
        (["max_model_len="], r"'max_model_len=' is not of the form KEY=VALUE"),
        (["max_model_len=1", "max_model_len=2"], r"give each key once"),
        ([7], r"'7' is not of the form"),
        (7, r"engine_option is 7"),
    ],
)
def test_a_wrong_engine_option_is_one_sentence(words, said):
    with pytest.raises(UserError, match=said) as caught:
        score_settings(engine="vllm", engine_option=words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["here", "openai"])
def test_engine_options_are_for_vllm_alone(engine):
    with pytest.raises(UserError, match=r"^engine_option is for the engine vllm"):
        score_settings(engine=engine, engine_option={"max_model_len": 4096})


def test_a_row_of_a_suite_has_engine_options(tmp_path):
    (tmp_path / "suite.yaml").write_text(
        "title: t\ndatasets: [{name: d, manifest: d.csv}]\nmethods:\n"
        "- {name: m, model: some/model, engine: vllm, engine_option: {max_model_len: 4096}}\n"
    )
    (method,) = read_suite(tmp_path / "suite.yaml").methods
    assert make_rater(method.model, method.settings()).engine_option == {"max_model_len": 4096}


def test_the_command_line_takes_engine_options_one_by_one(tmp_path):
    picture(0, (10, 8)).save(tmp_path / "a.png")
    options = [
        "--engine-option",
        "gpu_memory_utilization=0.3",
        "--engine-option",
        "quantization=fp8",
    ]
    command = ["score", str(tmp_path / "a.png"), "--model", "some/model", "--engine", "vllm"]
    output = str(tmp_path / "scores.jsonl")
    done = CliRunner().invoke(app, [*command, *options, "-o", output])
    assert done.exit_code == 0, done.output
    chosen = {"gpu_memory_utilization": 0.3, "quantization": "fp8"}
    assert LLM.made.options == {"max_model_len": -1, **chosen}
    header, _ = read_journal(tmp_path / "scores.jsonl")
    assert header["engine_option"] == chosen


@pytest.mark.parametrize("option", [{"mode": "expect"}, {"mode": "auto"}, {"samples": "auto"}])
def test_what_an_engine_cannot_do_is_refused(option):
    with pytest.raises(UserError, match=r"engine vllm .*mode reason or direct.*number of samples"):
        rater("some/model", **option)


def test_errors_name_the_fix(monkeypatch):
    with pytest.raises(UserError, match=r"vLLM cannot load 'absent': no such model;"):
        rater("absent")
    with pytest.raises(UserError, match="batch"):
        rater("some/model", batch=0)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install"):
        rater("some/model")
