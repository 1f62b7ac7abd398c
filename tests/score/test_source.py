"""Images with the reference that they are rated against."""

import base64
import io
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import skimage
from PIL import Image, ImageFilter

from conftest import FAMILIES, picture
from visualquality import Referenced, Scorer, UserError
from visualquality.data.images import image_digest, open_image
from visualquality.score.openai import OpenAIRater
from visualquality.score.settings import ScoreSettings
from visualquality.score.source import name_of, open_source
from visualquality.score.vllm import VllmRater

PAIR = Referenced(picture(0, (96, 64)), picture(1, (64, 96)))


def test_a_source_opens_in_the_order_of_the_prompt_and_its_digest_is_of_all_pixels(tmp_path):
    image, reference = tmp_path / "photo.png", tmp_path / "clean.png"
    picture(0).save(image)
    picture(1).save(reference)
    alone, own, said = open_source(image, reference=False)
    images, digest, _ = open_source(Referenced(image, reference), reference=True)
    assert said == ()
    assert [np.asarray(i).tolist() for i in images] == [
        np.asarray(picture(k)).tolist() for k in (1, 0)
    ]
    assert own == image_digest(alone[0])  # as ever: a score without a reference stays what it was
    digests = {
        open_source(Referenced(picture(a), picture(b)), reference=True)[1]
        for a in (0, 1)
        for b in (0, 1)
    }
    assert len(digests | {own}) == 5
    assert digest in digests
    assert name_of(Referenced(image, reference)) == str(image)


def test_a_warning_says_which_of_the_two_images_it_is_about(tmp_path):
    deep, plain = tmp_path / "deep.tif", picture(0)
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(deep)
    (own,) = open_source(Referenced(deep, plain), reference=True).warnings
    (others,) = open_source(Referenced(plain, deep), reference=True).warnings
    assert others == f"its reference image: {own}"
    assert open_source(Referenced(plain, deep), reference=True, assume_bits=12).warnings == ()
    with pytest.raises(UserError, match=r"deep\.tif has 4 × 4 pixels, more than the 15 allowed"):
        open_source(deep, reference=False, max_image_pixels=15)


@pytest.fixture(scope="module")
def scorer():
    return Scorer("nano", mode="expect", reference=True)


def test_a_score_is_repeatable_and_depends_on_both_images(scorer, tmp_path):
    photo = open_image(f"{skimage.__path__[0]}/data/astronaut.png").resize((192, 160))
    blurred = photo.filter(ImageFilter.GaussianBlur(2))
    blurred.save(tmp_path / "photo.png")
    photo.save(tmp_path / "clean.png")
    pair, saved = (
        Referenced(blurred, photo),
        Referenced(str(tmp_path / "photo.png"), str(tmp_path / "clean.png")),
    )
    other, swapped = Referenced(blurred, blurred), Referenced(photo, blurred)
    ratings = scorer([pair, saved, other, swapped])
    assert ratings[1].image == str(tmp_path / "photo.png")
    scores = [rating.score for rating in ratings]
    assert all(1 <= score <= 5 for score in scores)
    assert (
        scores[0]
        == pytest.approx(scores[1], abs=1e-3)
        == pytest.approx(scorer(pair).score, abs=1e-3)
    )
    first, _, *others = scores
    assert all(abs(first - score) > 0.01 for score in others)
    assert abs(others[0] - others[1]) > 0.01
    assert scorer.settings()["reference"] is True
    assert (
        "reference" not in Scorer(scorer.vlm, mode="expect").settings()
    )  # journals of before go on


def test_what_is_drawn_depends_on_both_images_and_not_on_the_batch(scorer):
    drawing = Scorer(scorer.vlm, samples=3, reference=True)
    others = [Referenced(picture(i, (64, 64)), picture(i, (96, 40))) for i in range(3, 6)]
    alone, together = drawing(PAIR), drawing([*others, PAIR])
    assert alone.samples == together[-1].samples
    assert len(alone.samples) == 3
    other = Referenced(PAIR.image, picture(2, (64, 96)))
    streams = [drawing.reader(source).digest for source in (PAIR, other)]
    assert streams[0] != streams[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_asked_with_two_images(family, model_folder):
    scorer = Scorer(str(model_folder(family)), mode="expect", reference=True)
    ratings = scorer([PAIR, Referenced(PAIR.reference, picture(2, (150, 40)))])
    assert all(1 <= rating.score <= 5 for rating in ratings)
    prompt = scorer.reader(PAIR).prompts[0]
    assert len(prompt.images["image_grid_thw"]) == 2
    said = scorer.vlm.processor.tokenizer.decode(prompt.tokens["input_ids"])
    assert said.index("first image is the reference") > said.rindex("<|image")


def test_a_missing_reference_is_a_problem_and_the_others_are_scored(scorer, tmp_path):
    ratings = scorer([PAIR, PAIR.image, Referenced(PAIR.image, tmp_path / "gone.png")])
    assert [rating.score is None for rating in ratings] == [False, True, True]
    assert "without a reference" in ratings[1].problem
    assert "gone.png" in ratings[2].problem
    assert "with a reference" in Scorer(scorer.vlm, mode="expect")(PAIR).problem


def test_the_prompt_of_other_weights_has_no_such_form(scorer):
    with pytest.raises(UserError, match="q-insight has no form with a reference"):
        Scorer(scorer.vlm, prompt="q-insight", reference=True)


def test_a_server_is_sent_the_reference_first():
    settings = ScoreSettings(url="http://localhost:1/v1", reference=True)
    rater = OpenAIRater("some/model", settings)
    source = json.dumps(rater.request(PAIR)[0])
    urls = [part.partition('"')[0] for part in source.split("data:image/png;base64,")[1:]]
    sent = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
    assert [image.size for image in sent] == [(64, 96), (96, 64)]
    assert "first image is the reference" in source
    assert rater.settings()["reference"] is True


def test_vllm_is_given_the_reference_first(monkeypatch):
    made = {}

    class LLM:
        def __init__(self, model, **options):
            made.update(options)
            self.model_config = SimpleNamespace(hf_config=SimpleNamespace())

        def chat(self, chats, params, use_tqdm):
            made["content"] = chats[0][-1]["content"]
            text = "<think>Sharp.</think><answer>4.00</answer>"
            return [
                SimpleNamespace(outputs=[SimpleNamespace(index=0, text=text, finish_reason="stop")])
            ]

    package, exceptions = ModuleType("vllm"), ModuleType("vllm.exceptions")
    package.LLM, package.SamplingParams = LLM, lambda **settings: settings
    exceptions.VLLMClientError = type("VLLMClientError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)
    (rating,) = VllmRater("some/model", ScoreSettings(samples=1, reference=True)).rate([PAIR])
    assert rating.score == 4.0
    assert made["limit_mm_per_prompt"]["image"] == 2
    assert [part.get("image_pil", Image.new("L", (1, 1))).size for part in made["content"]] == [
        (64, 96),
        (96, 64),
        (1, 1),
    ]
