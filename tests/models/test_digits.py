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
    before_number,
    expected_scores,
    score_distribution,
    score_distribution_with_gradient,
)
from visualquality.models.generate import (
    Completion,
    decode,
    eos_token_ids,
    prefill,
    sample_completions,
)
from visualquality.models.load import load
from visualquality.models.prompt import collate, encode_prompt, prompt_positions
from visualquality.response import read
from visualquality.seeds import uniform_streams


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


def test_behind_words_it_is_what_enumeration_gives(vlm, pictures):
    """Unequal prompts with words of unequal length behind them, in any order, and some more than once."""
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight *= 3
    tree, tokenizer = tree_of(vlm), vlm.processor.tokenizer
    prompts = [encode_prompt(vlm.processor, [image], "Rate it.") for image in pictures[:2]]
    assert len(prompts[0]) != len(prompts[1])
    texts = (
        "<think>The image is blurry, and noisy.</think><answer>",
        "Sharp<answer>\n",
        "<answer>",
    )
    words = [tuple(tokenizer(text).input_ids) for text in texts]
    assert len({len(ids) for ids in words}) == 3
    written = [(1, words[0]), (0, words[1]), (1, words[2]), (1, words[0]), (0, words[0])]
    prefilled = prefill(vlm.model, collate(prompts, tokenizer.pad_token_id))
    found = expected_scores(prefilled, written, tree, batch=3)
    assert found[0] == found[3]
    assert len(set(found)) == 4
    for (row, ids), (mean, variance) in list(zip(written, found, strict=True))[:3]:
        wanted = enumerated(vlm, prompts[row].followed_by(ids))
        expectation = sum(v * p for v, p in wanted.items())
        spread = sum((v - expectation) ** 2 * p for v, p in wanted.items())
        assert (mean, variance) == pytest.approx((expectation, spread), abs=1e-4)
    # The prompts are as they were: several samplings can start from them.
    assert expected_scores(prefilled, written, tree, batch=1) == [
        pytest.approx(each, abs=1e-5) for each in found
    ]
    assert expected_scores(prefilled, [], tree, batch=3) == []


def test_an_expected_rating_of_nano_is_what_enumeration_gives():
    """What nano itself draws, token by token without a cache, and its numbers with reading strict."""
    image = picture(3, (96, 64))
    scorer = Scorer("nano", samples=2, seed=2)
    rating = scorer(image)
    prepared = scorer.reader(image)
    (prompt,) = prepared.prompts
    (group,) = sample_completions(
        prefill(scorer.vlm.model, collate([prompt], 0)),
        uniforms=uniform_streams(2, [prepared.digest], 2, 512),
        temperature=scorer.temperature,
        eos_token_ids=scorer.eos,
    )
    means, variances = [], []
    for completion in group:
        wanted = enumerated(
            scorer.vlm, prompt.followed_by(before_number(scorer.vlm.processor, completion))
        )
        means.append(sum(v * p for v, p in wanted.items()))
        variances.append(sum((v - means[-1]) ** 2 * p for v, p in wanted.items()))
    assert rating.samples == pytest.approx(means, abs=1e-4)
    assert rating.std**2 == pytest.approx(np.var(means, ddof=1) + np.mean(variances), abs=1e-4)
    drawn = Scorer(scorer.vlm, samples=2, seed=2, reading="strict")(image)
    numbers = [read(decode(scorer.vlm.processor, one)).score for one in group]
    assert list(drawn.samples) == numbers != list(rating.samples)
    assert drawn.std == pytest.approx(np.std(numbers, ddof=1))


@pytest.mark.parametrize(
    "text",
    [
        "<think>Sharp.</think><answer>3.45</answer>",
        "<think>Sharp.</think>\n<answer>\n 3.45 </answer>",
        "<answer> 3.45</answer>",
        "<answer>3.45</answer>, I mean <answer>3.45</answer>!",
        "<think>Not <answer or 4.2 <think></think><answer>3.45</answer> so 3.45 it is",
    ],
)
@pytest.mark.parametrize("family", ["nano", "qwen2_5_vl", "embedded"])
def test_the_words_end_where_the_number_begins(text, family, model_folder):
    name = "nano" if family == "embedded" else str(model_folder(family))
    processor = load(name, device="cpu").processor
    ids = tuple(processor.tokenizer(text, add_special_tokens=False).input_ids)
    # A special token that strayed into an answer is not part of its text.
    ids = (*ids, processor.tokenizer.eos_token_id)
    assert read(decode(processor, Completion(ids, False))).score == 3.45
    before = before_number(processor, Completion(ids, False))
    assert before == ids[: len(before)]
    words = decode(processor, Completion(before, True))
    assert text.startswith(words)
    opening, rest = words.rpartition("<answer>")[2], text[len(words) :]
    assert opening.strip() == ""
    assert rest.strip().startswith("3.45")
    assert rest.count("<answer>") == 0
    # No later place will do.
    longer = decode(processor, Completion(ids[: len(before) + 1], True))
    assert longer.rpartition("<answer>")[2].strip() != ""


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


def test_a_tokenizer_that_joins_tag_and_digit_is_refused_where_drawn_answers_are_read(model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    assert tree_of(vlm).joined is None
    vlm.processor.tokenizer.add_tokens([">4"])
    with pytest.raises(UserError, match=r"has the token '>4'.*use reading strict"):
        Scorer(vlm, reading="expected")
    for options in ({}, {"mode": "expect"}):
        assert Scorer(vlm, **options).settings().get("reading") is None


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
    again = Scorer("nano", mode="expect", seed=5).rate(images)
    assert [r.score for r in again] == [r.score for r in ratings]
    assert expected.settings()["seed"] is None
    stds = sorted(r.std for r in ratings)
    doubt = (stds[0] + stds[1]) / 2
    mixed = list(
        Scorer(expected.vlm, mode="auto", samples=2, doubt=doubt, reading="strict").rate(images)
    )
    reasoned = Scorer(expected.vlm, samples=2, reading="strict")
    for image, plain, rating in zip(images, ratings, mixed, strict=True):
        if plain.std == stds[0]:
            assert (rating.mode, rating.score) == ("expect", plain.score)
        else:
            assert rating.mode == "reason"
            assert rating.samples == reasoned(image).samples
    for options in ({"mode": "expect"}, {"mode": "auto"}, {"reading": "expected"}):
        with pytest.raises(UserError, match=r"JSON.*mode reason and reading strict"):
            Scorer(expected.vlm, prompt="q-insight", **options)
    # Its answers are in JSON, so nano's own way of reading is not taken.
    assert Scorer(expected.vlm, prompt="q-insight").reading == "strict"
