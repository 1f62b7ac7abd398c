import itertools

import pytest
import torch
from torch import nn
from torch.nn.attention import flex_attention as flex

from allocations import peak_bytes
from visualquality.train.attention import (
    copied_attention,
    row_blocks,
    row_mask,
    shared_prefix_attention,
)

BATCH, HEADS, GROUPS, SIZE = 2, 4, 2, 8
SHAPES = [(9, 5, 3), (1, 3, 2), (20, 1, 4)]  # prompt, response, K


def inputs(prompt, length, responses, dtype=torch.float32):
    """query, key, value with a gradient, and which tokens of the prompts are not padding."""
    torch.manual_seed(0)
    side = prompt + responses * length
    qkv = [
        torch.randn(BATCH, heads, side, SIZE, dtype=dtype, requires_grad=True)
        for heads in (HEADS, GROUPS, GROUPS)
    ]
    real = torch.ones(BATCH, prompt, dtype=torch.long)
    real[0, : prompt // 3] = 0
    return qkv, real


def dense(query, key, value, real, responses, length):
    """The truth: all scores of the row, and a mask that is filled token by token."""
    prompt = real.shape[1]
    side = query.shape[2]
    part = [0] * prompt + [k + 1 for k in range(responses) for _ in range(length)]
    allowed = torch.zeros(BATCH, side, side, dtype=torch.bool)
    for b, q, k in itertools.product(range(BATCH), range(side), range(side)):
        is_real = k >= prompt or bool(real[b, k])
        allowed[b, q, k] = q == k or (k < q and is_real and part[k] in (0, part[q]))
    key, value = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * SIZE**-0.5
    shares = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    return (shares @ value).transpose(1, 2)


def with_gradients(output, qkv, real):
    """The output of what is not padding (0 elsewhere), and the gradients of a loss on it."""
    kept = torch.ones(output.shape[:2])
    kept[:, : real.shape[1]] = real
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output = output * kept[..., None, None]
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), qkv)]


def attend(qkv, real, responses, length, **more):
    mask = row_mask(real, length, qkv[0].dtype)
    found, _ = shared_prefix_attention(nn.Module(), *qkv, mask, packed_responses=responses, **more)
    return found


@pytest.mark.parametrize(("prompt", "length", "responses"), SHAPES)
def test_joined_is_dense_with_its_gradients(prompt, length, responses):
    qkv, real = inputs(prompt, length, responses)
    ours = with_gradients(attend(qkv, real, responses, length), qkv, real)
    truth = with_gradients(dense(*qkv, real, responses, length), qkv, real)
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("prompt", "length", "responses"), SHAPES)
def test_copied_is_dense_with_its_gradients(prompt, length, responses):
    qkv, real = inputs(prompt, length, responses)
    heads = [x.repeat_interleave(HEADS // x.shape[1], 1) for x in qkv]
    mask = row_mask(real, length, torch.float32)
    found = copied_attention(*heads, mask, responses, None).transpose(1, 2)
    ours = with_gradients(found, qkv, real)
    truth = with_gradients(dense(*qkv, real, responses, length), qkv, real)
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("prompt", "length", "responses"), SHAPES)
def test_blocks_of_flex_are_dense_with_their_gradients(prompt, length, responses, monkeypatch):
    """As far as a CPU goes: PyTorch's own slow form of it, whose gradient it offers on CUDA alone."""
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    qkv, real = inputs(prompt, length, responses)
    blocks = row_blocks(real, responses, length)
    ours = attend(qkv, real, responses, length, packed_blocks=blocks)
    ours = with_gradients(ours, qkv, real)
    truth = with_gradients(dense(*qkv, real, responses, length), qkv, real)
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-5, rtol=0)


def test_joined_in_bfloat16():
    qkv, real = inputs(9, 5, 3, torch.bfloat16)
    found = attend(qkv, real, 3, 5)
    assert found.dtype == torch.bfloat16
    exact = dense(*(x.float() for x in qkv), real, 3, 5)
    torch.testing.assert_close(found[1].float(), exact[1], atol=0.03, rtol=0)


def test_memory_of_keys_and_values_is_no_multiple_of_k():
    """With responses of one token the copies of the prompt are nearly all that copying takes."""
    prompt, length = 2000, 1

    def peaks(responses):
        qkv, real = inputs(prompt, length, responses)
        heads = [x.detach().repeat_interleave(HEADS // x.shape[1], 1) for x in qkv]
        heads = [x.requires_grad_() for x in heads]
        mask = row_mask(real, length, torch.float32)
        copied = peak_bytes(
            lambda: copied_attention(*heads, mask, responses, None).sum().backward()
        )
        joined = peak_bytes(lambda: attend(heads, real, responses, length).sum().backward())
        return copied, joined - mask.numel() * 4

    (few_copied, few_joined), (many_copied, many_joined) = peaks(2), peaks(16)
    copies = 14 * 2 * BATCH * HEADS * prompt * SIZE * 4  # of keys and values, of 14 more responses
    assert many_copied - few_copied > copies
    assert many_joined - few_joined < copies / 20
