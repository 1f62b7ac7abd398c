"""The expected score against plain enumeration: every way to write a score, each sent through the model by itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FAMILIES, picture
from small_models import byte_bpe
from visualquality import Scorer, UserError
from visualquality.models.encode import collate, encode_prompt, prompt_positions
from visualquality.models.generate import eos_token_ids, prefill
from visualquality.models.load import load
from visualquality.score import expect
from visualquality.score.expect import Expectation, ScoreVocabulary, begun, expected_scores


@pytest.fixture(params=FAMILIES)
def vlm(request, model_folder):
    return load(str(model_folder(request.param)), device="cpu")


def prompts_of(vlm, pictures, vocabulary):
    return [
        begun(encode_prompt(vlm.processor, [image], "Rate it."), vocabulary.opening)
        for image in pictures
    ]


@torch.no_grad()
def enumerated(vlm, prompt, vocabulary) -> dict[float, float]:
    """Depth first, one whole forward a node."""
    found: dict[float, float] = {}

    def visit(ids, text, probability):
        one = dict(prompt)
        extra = len(ids) - len(prompt["input_ids"])
        for key, value in prompt.items():
            if value.shape == prompt["input_ids"].shape:
                one[key] = torch.cat([value, value.new_zeros(extra)])
        one["input_ids"] = ids
        batch = collate([one], 0)
        positions, _ = prompt_positions(vlm.model, batch)
        logits = vlm.model(**batch, position_ids=positions).logits[0, -1].double()
        tokens, texts = vocabulary.following(text)
        for token, longer, share in zip(
            tokens, texts, logits[tokens].softmax(0).tolist(), strict=True
        ):
            if longer is None or len(longer) == 4:
                value = float(text if longer is None else longer)
                found[value] = found.get(value, 0.0) + probability * share
            else:
                visit(torch.cat([ids, torch.tensor([token])]), longer, probability * share)

    visit(prompt["input_ids"], "", 1.0)
    return found


def test_it_is_what_enumeration_gives(vlm, pictures, monkeypatch):
    """Unequal prompts in one batch; each family's positions; no branch left out."""
    monkeypatch.setattr(expect, "NEGLIGIBLE", 0.0)
    vocabulary = ScoreVocabulary(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight *= 3  # a random model is otherwise nearly uniform
    prompts = prompts_of(vlm, pictures[:2], vocabulary)
    assert len({len(p["input_ids"]) for p in prompts}) == 2
    # Scores of the digits 2, 3, 5 and 0 are enough to enumerate.
    vocabulary._numbers = {
        token: text for token, text in vocabulary._numbers.items() if text[0] in "23.05"
    }
    both = expected_scores(prefill(vlm.model, collate(prompts, 0)), vocabulary)
    for prompt, found in zip(prompts, both, strict=True):
        wanted = enumerated(vlm, prompt, vocabulary)
        assert list(found.values) == sorted(wanted)
        np.testing.assert_allclose(
            found.probabilities, [wanted[v] for v in found.values], rtol=2e-4, atol=1e-7
        )
        assert math.fsum(found.probabilities) == pytest.approx(1, abs=1e-9)
        assert found.mean == pytest.approx(sum(v * p for v, p in wanted.items()), abs=1e-4)


def test_what_is_left_out_hardly_matters(vlm, pictures, monkeypatch):
    vocabulary = ScoreVocabulary(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))
    prefilled = prefill(vlm.model, collate(prompts_of(vlm, pictures[:2], vocabulary), 0))
    quick = expected_scores(prefilled, vocabulary)
    monkeypatch.setattr(expect, "NEGLIGIBLE", 0.0)
    whole = expected_scores(prefilled, vocabulary)
    for a, b in zip(quick, whole, strict=True):
        assert len(a.values) < len(b.values)
        assert a.mean == pytest.approx(
            b.mean, abs=0.05
        )  # a random model spreads over all scores: a trained one leaves out far less
        assert math.fsum(a.probabilities) == pytest.approx(1, abs=1e-9)


def test_merged_digits_are_read_as_single_ones_are():
    tokenizer = byte_bpe(["<|pad|>", "<|im_end|>"], size=2000)
    merged = ScoreVocabulary(tokenizer, [1])
    assert any(len(text) > 1 for text in merged._numbers.values())  # such as "45"
    for text, allowed in {
        "": {"1", "2", "3", "4", "5"},
        "3.": set("0123456789"),
        "5": {".", None},
        "5.": {"0"},
        "4.2": {*"0123456789", None},
    }.items():
        ids, texts = merged.following(text)
        added = {None if longer is None else longer.removeprefix(text) for longer in texts}
        assert allowed <= added
        for token, longer in zip(ids, texts, strict=True):
            if longer is not None:
                assert text + tokenizer.decode([token]) == longer
                assert 1 <= float(longer) <= 5
            else:
                assert token == 1 or expect.CLOSING.startswith(tokenizer.decode([token]))


def test_a_tokenizer_without_digits_is_refused(model_folder):
    class Wordy:
        def __len__(self):
            return 3

        def convert_ids_to_tokens(self, ids):
            return ["good", "bad", "1"]

        def __call__(self, text, add_special_tokens):
            return type("", (), {"input_ids": [0]})

    with pytest.raises(UserError, match="digits 1 to 5"):
        ScoreVocabulary(Wordy(), [0])


@given(
    st.lists(
        st.tuples(st.integers(100, 500), st.floats(0.01, 1)),
        min_size=1,
        max_size=20,
        unique_by=lambda x: x[0],
    )
)
@settings(deadline=None, max_examples=50)
def test_mean_and_std_are_those_of_the_distribution(pairs):
    pairs.sort()
    total = sum(p for _, p in pairs)
    e = Expectation(tuple(v / 100 for v, _ in pairs), tuple(p / total for _, p in pairs))
    values, weights = np.array(e.values), np.array(e.probabilities)
    assert e.mean == pytest.approx(np.average(values, weights=weights))
    assert e.std == pytest.approx(
        np.sqrt(np.average((values - e.mean) ** 2, weights=weights)), abs=1e-9
    )
    assert values[0] - 1e-9 <= e.mean <= values[-1] + 1e-9


def test_ratings_of_the_modes_that_expect():
    images = [picture(i, size) for i, size in enumerate([(96, 64), (64, 160), (64, 64)])]
    expected = Scorer("nano", mode="expect", batch=2)
    ratings = list(expected.rate(images))
    assert all(
        1 <= r.score <= 5 and r.std >= 0 and r.mode == "expect" and r.samples == () for r in ratings
    )
    assert [r.score for r in Scorer("nano", mode="expect", seed=5, samples=1).rate(images)] == [
        r.score for r in ratings
    ]
    assert expected.settings()["seed"] is None
    stds = sorted(r.std for r in ratings)
    mixed = list(
        Scorer(expected.vlm, mode="auto", samples=2, doubt=(stds[0] + stds[1]) / 2).rate(images)
    )
    reasoned = Scorer(expected.vlm, samples=2)
    for image, plain, rating in zip(images, ratings, mixed, strict=True):
        if plain.std == stds[0]:
            assert (rating.mode, rating.score) == ("expect", plain.score)
        else:
            assert rating.mode == "reason"
            assert rating.samples == reasoned(image).samples
    with pytest.raises(UserError, match="JSON"):
        Scorer(expected.vlm, mode="expect", prompt="q-insight")
