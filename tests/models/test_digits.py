"""The distribution over scores against plain enumeration: each way to write a score goes through the model alone."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FAMILIES, picture
from small_models import byte_bpe
from visualquality import Scorer, UserError
from visualquality.models.digits import (
    CLOSING,
    DigitTree,
    ScoreDistribution,
    score_distribution,
    score_distribution_with_gradient,
)
from visualquality.models.generate import eos_token_ids, prefill
from visualquality.models.load import load
from visualquality.models.prompt import collate, encode_prompt, prompt_positions


@pytest.fixture(params=FAMILIES)
def vlm(request, model_folder):
    return load(str(model_folder(request.param)), device="cpu")


def tree_of(vlm):
    return DigitTree(vlm.processor.tokenizer, eos_token_ids(vlm.model, vlm.processor))


def prompts_of(vlm, pictures, tree):
    return [
        encode_prompt(vlm.processor, [image], "Rate it.").followed_by(tree.opening)
        for image in pictures
    ]


@torch.no_grad()
def enumerated(vlm, prompt) -> dict[float, float]:
    """Depth first, one whole forward a beginning of a score; nothing of the tree is used."""
    tokenizer = vlm.processor.tokenizer
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    digits = {i: t for i, t in enumerate(vocabulary) if re.fullmatch(r"[0-9.]+", t)}
    ends = set(eos_token_ids(vlm.model, vlm.processor))
    ends |= {i for i, t in enumerate(vocabulary) if t and CLOSING.startswith(t)}
    found: dict[float, float] = {}

    def is_beginning(text: str) -> bool:
        return any(f"{cents / 100:.2f}".startswith(text) for cents in range(100, 501))

    def visit(prompt, text, probability):
        batch = collate([prompt], 0)
        positions = prompt_positions(vlm.model, batch)
        output = vlm.model(**batch.inputs(), position_ids=positions.prompt)
        logits = output.logits[0, -1].double()
        following = {i: text + t for i, t in digits.items() if is_beginning(text + t)}
        if re.fullmatch(r"\d(\.\d+)?", text):
            following |= dict.fromkeys(ends)
        shares = logits[list(following)].softmax(0).tolist()
        for (token, longer), share in zip(following.items(), shares, strict=True):
            if longer is None or len(longer) == 4:
                value = float(longer or text)
                found[value] = found.get(value, 0.0) + probability * share
            else:
                visit(prompt.followed_by([token]), longer, probability * share)

    visit(prompt, "", 1.0)
    return found


def merged(found: ScoreDistribution, row: int) -> dict[float, float]:
    """Score -> probability; a score may be written in several ways."""
    probabilities: dict[float, float] = {}
    pairs = zip(found.values.tolist(), found.log_probabilities[row].exp().tolist(), strict=True)
    for value, probability in pairs:
        probabilities[value] = probabilities.get(value, 0.0) + probability
    return probabilities


def test_it_is_what_enumeration_gives(vlm, pictures):
    """Unequal prompts in one batch, and each family's positions."""
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight *= 3  # a random model is otherwise nearly uniform
    tree = tree_of(vlm)
    prompts = prompts_of(vlm, pictures[:2], tree)
    assert len({len(p) for p in prompts}) == 2
    both = score_distribution(prefill(vlm.model, collate(prompts, 0)), tree)
    for row, prompt in enumerate(prompts):
        wanted, found = enumerated(vlm, prompt), merged(both, row)
        assert len(wanted) == 401  # 1.00, 1.01, ... 5.00
        assert found.keys() == wanted.keys()
        for value, probability in wanted.items():
            assert found[value] == pytest.approx(probability, rel=5e-4, abs=1e-8)
        assert math.fsum(found.values()) == pytest.approx(1, abs=1e-9)
        mean = sum(v * p for v, p in wanted.items())
        assert both.mean()[row].item() == pytest.approx(mean, abs=1e-5)


def test_training_sees_what_scoring_reads(vlm, pictures):
    """Behind the prompt's cache, and in one row with a gradient."""
    tree = tree_of(vlm)
    batch = collate(prompts_of(vlm, pictures[:3], tree), vlm.processor.tokenizer.pad_token_id)
    read = score_distribution(prefill(vlm.model, batch), tree)
    trained = score_distribution_with_gradient(vlm.model, vlm.model, batch, tree)
    torch.testing.assert_close(trained.log_probabilities, read.log_probabilities, atol=1e-4, rtol=0)
    torch.testing.assert_close(trained.mean(), read.mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(trained.variance(), read.variance(), atol=1e-5, rtol=0)
    assert not read.log_probabilities.requires_grad
    trained.mean().sum().backward()
    gradient = vlm.model.get_input_embeddings().weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_merged_digits_are_read_as_single_ones_are():
    tokenizer = byte_bpe(["<|pad|>", "<|im_end|>"], size=2000)
    tree = DigitTree(tokenizer, [1])
    texts = [""]
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        texts.append(texts[parent] + tokenizer.decode([token]))
    following = {tokenizer.decode([token]) for ids in tree.next_tokens for token in ids}
    assert any(re.fullmatch(r"[0-9.]{2,}", text) for text in following)  # such as "45"
    assert all(1 <= float(text) <= 5 for text in texts[1:])
    assert {"1", "2", "3", "4", "5", "3.", "5.", "4.2", "5.0"} <= set(texts)
    assert not {"0", "6", "5.1", "3.45"} & set(texts)
    # An ancestor is a beginning of the text.
    sees = tree.visible(torch.device("cpu"))
    for node in range(len(tree)):
        seen = sees[node].nonzero()[:, 0].tolist()
        assert all(texts[node + 1].startswith(texts[other + 1]) for other in seen)
        assert len(seen) == tree.depths[node]


def test_a_tokenizer_without_digits_is_refused():
    class Wordy:
        def __len__(self):
            return 3

        def convert_ids_to_tokens(self, ids):
            return ["good", "bad", "1"]

        def __call__(self, text, add_special_tokens):
            return type("", (), {"input_ids": [0]})

    with pytest.raises(UserError, match="digits 1 to 5"):
        DigitTree(Wordy(), [0])


@given(
    st.lists(
        st.tuples(st.integers(100, 500), st.floats(0.01, 1)),
        min_size=1,
        max_size=20,
        unique_by=lambda x: x[0],
    )
)
@settings(deadline=None, max_examples=50)
def test_mean_and_variance_are_those_of_the_distribution(pairs):
    values = np.array([v / 100 for v, _ in pairs])
    weights = np.array([p for _, p in pairs])
    weights /= weights.sum()
    found = ScoreDistribution(
        torch.from_numpy(values),
        torch.from_numpy(np.log(weights))[None],
        torch.zeros(len(pairs), dtype=torch.bool),
    )
    mean = np.average(values, weights=weights)
    assert found.mean().item() == pytest.approx(mean)
    variance = np.average((values - mean) ** 2, weights=weights)
    assert found.variance().item() == pytest.approx(variance, abs=1e-9)
    assert values.min() - 1e-9 <= found.mean().item() <= values.max() + 1e-9


def test_ratings_of_the_modes_that_expect():
    images = [picture(i, size) for i, size in enumerate([(96, 64), (64, 160), (64, 64)])]
    expected = Scorer("nano", mode="expect", batch=2)
    ratings = list(expected.rate(images))
    for rating in ratings:
        assert 1 <= rating.score <= 5
        assert rating.std >= 0
        assert (rating.mode, rating.samples) == ("expect", ())
    again = Scorer("nano", mode="expect", seed=5, samples=1).rate(images)
    assert [r.score for r in again] == [r.score for r in ratings]
    assert expected.settings()["seed"] is None
    stds = sorted(r.std for r in ratings)
    doubt = (stds[0] + stds[1]) / 2
    mixed = list(Scorer(expected.vlm, mode="auto", samples=2, doubt=doubt).rate(images))
    reasoned = Scorer(expected.vlm, samples=2)
    for image, plain, rating in zip(images, ratings, mixed, strict=True):
        if plain.std == stds[0]:
            assert (rating.mode, rating.score) == ("expect", plain.score)
        else:
            assert rating.mode == "reason"
            assert rating.samples == reasoned(image).samples
    with pytest.raises(UserError, match="JSON"):
        Scorer(expected.vlm, mode="expect", prompt="q-insight")
