import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import FAMILIES
from visualquality.models.families import placeholder_ids
from visualquality.models.generate import (
    decode,
    draw,
    eos_token_ids,
    prefill,
    sample_completions,
)
from visualquality.models.load import load
from visualquality.models.prompt import collate, encode_prompt
from visualquality.seeds import uniform_streams


def sample(vlm, prompts, keys, k, length=12, temperature=1.0, eos=None, uniforms=None, **sampling):
    return sample_completions(
        prefill(vlm.model, collate(prompts, vlm.processor.tokenizer.pad_token_id)),
        uniforms=uniform_streams(0, keys, k, length) if uniforms is None else uniforms,
        temperature=temperature,
        eos_token_ids=eos or eos_token_ids(vlm.model, vlm.processor),
        **sampling,
    )


@pytest.fixture(params=FAMILIES)
def vlm(request, model_folder):
    return load(str(model_folder(request.param)), device="cpu")


def test_greedy_is_what_hugging_face_generates(vlm, pictures):
    """Unequal prompts, padded, and each family's own positions."""
    prompts = [encode_prompt(vlm.processor, [image], "Rate the picture.") for image in pictures[:3]]
    batch = collate(prompts, vlm.processor.tokenizer.pad_token_id)
    assert len({len(p) for p in prompts}) > 1
    ours = sample(vlm, prompts, ["a", "b", "c"], 1, temperature=0.0)
    theirs = vlm.model.generate(
        **batch.inputs(),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
        suppress_tokens=placeholder_ids(vlm.model.config),
    )[:, batch.length :]
    for (completion,), row in zip(ours, theirs.tolist(), strict=True):
        assert list(completion.ids) == row[: len(completion.ids)]


def test_positions_are_those_of_hugging_face(vlm, pictures):
    """At the first steps after the prompt; a shift by one would hardly change what a random model says."""
    prompts = [encode_prompt(vlm.processor, [image], "Rate the picture.") for image in pictures[:3]]
    batch = collate(prompts, vlm.processor.tokenizer.pad_token_id)
    seen = []
    hook = vlm.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    sample(vlm, prompts, ["a", "b", "c"], 2, length=4, eos=[0])
    ours, seen[:] = list(seen), []
    vlm.model.generate(
        **batch.inputs(), max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=0
    )
    hook.remove()
    real = batch.mask.bool()
    for step, (mine, theirs) in enumerate(zip(ours, seen, strict=True)):
        theirs = theirs[-3:] if theirs.ndim == 3 else theirs  # Qwen's first row counts text
        if step == 0:  # padding has no position that matters
            assert torch.equal(mine[..., real], theirs[..., real])
        else:
            assert torch.equal(mine, theirs.expand_as(mine))


def test_a_response_does_not_depend_on_its_batch_or_on_k(vlm, pictures):
    prompts = [encode_prompt(vlm.processor, [image], "Rate the picture.") for image in pictures]
    keys = ["a", "b", "c", "d"]
    together = sample(vlm, prompts, keys, 3)
    alone = sample(vlm, prompts[2:3], keys[2:3], 5)
    assert [c.ids for c in together[2]] == [c.ids for c in alone[0][:3]]
    assert len({c.ids for group in together for c in group}) > 6  # they are samples, not copies


def test_responses_end_at_their_own_end_and_say_when_cut_off(model_folder, pictures):
    vlm = load(str(model_folder("nano")), device="cpu")
    prompts = [encode_prompt(vlm.processor, [image], "Rate the picture.") for image in pictures]
    ends = [2, *range(4, 90)]  # so many ends that responses stop at different times
    groups = sample(vlm, prompts, ["a", "b", "c", "d"], 4, length=16, eos=ends)
    lengths = {len(c.ids) for group in groups for c in group}
    assert len(lengths) > 3
    for completion in (c for group in groups for c in group):
        assert completion.truncated == (completion.ids[-1] not in ends)
        assert not set(completion.ids[:-1]) & set(ends)
        assert not completion.truncated or len(completion.ids) == 16
    free = sample(vlm, prompts, ["a", "b", "c", "d"], 4, length=16, eos=[2])
    for early, late in zip(
        (c for g in groups for c in g), (c for g in free for c in g), strict=True
    ):
        assert (
            late.ids[: len(early.ids)] == early.ids
        )  # dropping finished rows does not disturb the others
    assert isinstance(decode(vlm.processor, groups[0][0]), str)


def test_placeholders_of_images_are_never_drawn(model_folder, pictures):
    vlm = load(str(model_folder("qwen2_5_vl")), device="cpu")
    with torch.no_grad():
        vlm.model.lm_head.weight[placeholder_ids(vlm.model.config)] *= 50
    prompts = [encode_prompt(vlm.processor, [image], "Rate.") for image in pictures]
    drawn = {t for group in sample(vlm, prompts, list("abcd"), 6) for c in group for t in c.ids}
    assert not drawn & set(placeholder_ids(vlm.model.config))


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.7, "top_k": 9, "top_p": 0.6, "repetition_penalty": 1.3},
        {"temperature": 3.0, "top_k": 4},
        {"temperature": 1.5, "top_p": 0.3},
        {"temperature": 0.9, "repetition_penalty": 0.6},
    ],
)
def test_sampling_is_that_of_hugging_face(model_folder, pictures, sampling):
    """Its `generate` draws a response; random numbers in the middle of its tokens' shares must draw the same."""
    vlm = load(str(model_folder("qwen2_5_vl")), device="cpu")
    prompt = encode_prompt(vlm.processor, [pictures[0]], "Rate the picture.")
    batch = collate([prompt], vlm.processor.tokenizer.pad_token_id)
    torch.manual_seed(3)
    theirs = vlm.model.generate(
        **batch.inputs(),
        do_sample=True,
        max_new_tokens=24,
        eos_token_id=10**6,  # none
        pad_token_id=0,
        suppress_tokens=placeholder_ids(vlm.model.config),
        output_scores=True,
        return_dict_in_generate=True,
        # Without a top_k of ours it must not take its own default.
        **{"top_k": 0, **sampling},
    )
    ids = theirs.sequences[0, batch.length :]
    uniforms = []
    for token, scores in zip(ids.tolist(), theirs.scores, strict=True):
        shares = scores[0].double().softmax(-1)
        uniforms.append((shares[:token].sum() + shares[token] / 2).item())
    drawn = np.array(uniforms)[None, None]
    ((ours,),) = sample(vlm, [prompt], "a", 1, uniforms=drawn, eos=[10**6], **sampling)
    assert list(ours.ids) == ids.tolist()
    # And each of the settings matters here.
    for name in sampling.keys() - {"temperature"}:
        rest = {key: value for key, value in sampling.items() if key != name}
        ((other,),) = sample(vlm, [prompt], "a", 1, uniforms=drawn, eos=[10**6], **rest)
        assert other.ids != ours.ids


def test_a_repetition_penalty_does_not_see_padding_nor_other_responses(vlm, pictures):
    prompts = [encode_prompt(vlm.processor, [image], "Rate the picture.") for image in pictures[:3]]
    options = {"temperature": 0.8, "repetition_penalty": 1.4}
    together = sample(vlm, prompts, "abc", 3, **options)
    for prompt, key, group in zip(prompts, "abc", together, strict=True):
        assert sample(vlm, [prompt], [key], 3, **options) == [group]
        assert sample(vlm, [prompt], [key], 1, **options) == [group[:1]]


def test_draw_follows_the_distribution():
    logits = torch.tensor([[0.2, 1.5, -1.0, 0.0]])
    uniform = torch.from_numpy(np.linspace(0, 1, 200_000, endpoint=False))
    token = draw(logits.expand(200_000, -1), uniform, 0.7)
    shares = torch.bincount(token, minlength=4) / 200_000
    torch.testing.assert_close(shares, (logits[0] / 0.7).softmax(0), atol=1e-4, rtol=0)
    for limits, kept in (({"top_k": 2}, [1, 0]), ({"top_p": 0.7}, [1]), ({"top_p": 0.8}, [1, 0])):
        token = draw(logits.expand(200_000, -1), uniform, 0.7, **limits)
        wanted = torch.zeros(4)
        wanted[kept] = (logits[0, kept] / 0.7).softmax(0)
        shares = torch.bincount(token, minlength=4) / 200_000
        torch.testing.assert_close(shares, wanted, atol=1e-4, rtol=0)
    impossible = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    assert draw(impossible, torch.tensor([0.0], dtype=torch.float64), 1.0).tolist() == [1]


def test_streams_depend_on_seed_key_and_number_alone():
    code = "from visualquality.seeds import uniform_streams as r; print(r(3, ['x', 'y'], 2, 2)[1, 1].tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = uniform_streams(3, ["x", "y"], 2, 2)
    assert other.stdout.strip() == str(here[1, 1].tolist())
    np.testing.assert_array_equal(uniform_streams(3, ["y"], 5, 2)[0, :2], here[1])
    rows = [uniform_streams(s, [key], 2, 3) for s in (0, 1) for key in ("x", "y")]
    assert len({row.tobytes() for block in rows for row in block[0]}) == 8
