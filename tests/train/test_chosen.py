import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from allocations import peak_bytes
from visualquality.models.load import load
from visualquality.models.prompt import collate, encode_prompt
from visualquality.train import packed
from visualquality.train.chosen import (
    CHUNK,
    head_gives_log_probabilities,
    log_probabilities_of,
)

HIDDEN, VOCABULARY = 16, 3000


def head_and_inputs(count, *, bias=False, dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias, dtype=dtype)
    hidden = (3 * torch.randn(2, count // 2, HIDDEN)).to(dtype).requires_grad_()
    tokens = torch.randint(0, VOCABULARY, (2, count // 2))
    weights = torch.randn(2, count // 2)
    return head, hidden, tokens, weights


def chunked(head, hidden, tokens, temperature=1.0):
    with head_gives_log_probabilities(head, tokens, temperature):
        return head(hidden)


def whole(head, hidden, tokens, temperature=1.0):
    logits = head(hidden).flatten(0, 1)
    return log_probabilities_of(logits, tokens.flatten(), temperature).view(tokens.shape)


def with_gradients(compute, head, hidden, tokens, weights, temperature=1.0):
    given = [hidden, *head.parameters()]
    log_p = compute(head, hidden, tokens, temperature)
    return log_p.detach(), torch.autograd.grad((log_p * weights).sum(), given)


def assert_same(ours, truth, tolerance):
    torch.testing.assert_close(ours[0], truth[0], atol=tolerance, rtol=0)
    for mine, true in zip(ours[1], truth[1], strict=True):
        assert mine.dtype == true.dtype
        assert true.norm() > 0
        assert (mine - true).norm() / true.norm() < tolerance


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("count", [2, CHUNK, 3 * CHUNK + 2])
def test_chunks_are_the_whole_with_its_gradients(count, temperature, bias):
    given = head_and_inputs(count, bias=bias)
    ours = with_gradients(chunked, *given, temperature)
    assert_same(ours, with_gradients(whole, *given, temperature), 1e-5)


def test_in_bfloat16_they_are_the_whole_up_to_its_rounding():
    given = head_and_inputs(2 * CHUNK + 100, dtype=torch.bfloat16)
    ours = with_gradients(chunked, *given)
    assert ours[0].dtype == torch.float32
    assert_same(ours, with_gradients(whole, *given), 0.01)


def test_under_autocast_they_are_the_whole_up_to_its_rounding():
    given = head_and_inputs(2 * CHUNK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, truth = (with_gradients(compute, *given) for compute in (chunked, whole))
    assert_same(ours, truth, 0.01)
    exact = with_gradients(chunked, *given)
    assert (ours[0] - exact[0]).abs().max() > 1e-4  # it did compute in bfloat16


def test_a_head_with_an_adapter_has_its_own_product(model_folder, pictures):
    vlm = load(str(model_folder("qwen2_5_vl")), device="cpu")
    packed.allow_packing(vlm.model)
    torch.manual_seed(0)
    model = get_peft_model(
        vlm.model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    )
    batch = collate([encode_prompt(vlm.processor, [pictures[0]], "Rate.")], 0)
    # More than a chunk of such a head.
    ids = torch.randint(20, 200, (1, 2, 100), generator=torch.Generator().manual_seed(0))

    def gradients(log_p):
        adapter = [p for p in model.parameters() if p.requires_grad]
        return log_p.detach(), torch.autograd.grad(log_p.square().sum(), adapter)

    ours = gradients(packed.packed_log_probabilities(model, model, batch, ids))
    with torch.no_grad(), model.disable_adapter():
        without = packed.packed_log_probabilities(model, model, batch, ids)
    assert (ours[0] - without).abs().max() > 1e-3
    repeated = batch.repeated(2)
    logits = model(**repeated.followed_by(ids[0]), logits_to_keep=101).logits[:, :-1]
    truth = gradients(log_probabilities_of(logits.flatten(0, 1), ids.flatten(), 1.0).view(1, 2, -1))
    assert_same(ours, truth, 1e-5)


def test_afterwards_the_head_is_what_it_was():
    head, hidden, tokens, _ = head_and_inputs(4)
    before = head(hidden)
    with (
        pytest.raises(RuntimeError, match="stopped"),
        head_gives_log_probabilities(head, tokens, 1),
    ):
        raise RuntimeError("stopped")
    assert "forward" not in vars(head)
    assert torch.equal(head(hidden), before)
    # Some libraries put a forward of their own on a module.
    head.forward = own = lambda hidden: 2 * before
    chunked(head, hidden, tokens)
    assert head.forward is own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_the_number_of_tokens(dtype):
    bound = 1.3 * 1024 * VOCABULARY * 4
    peaks = []
    for count in (2048, 8192):
        given = head_and_inputs(count, dtype=dtype)
        peaks.append(peak_bytes(lambda given=given: with_gradients(chunked, *given)))
        assert peaks[-1] < bound
        assert peak_bytes(lambda given=given: with_gradients(whole, *given)) > 2 * bound
    # Only what has a number or a hidden state for each token grows.
    assert peaks[1] - peaks[0] < 6 * (8192 - 2048) * (HIDDEN + 4) * 4
