import pytest
import torch

from conftest import FAMILIES
from visualquality.models.encode import collate, completion_positions, encode_prompt, prompt_positions
from visualquality.models.load import load
from visualquality.train.packed import block_mask, packed_log_probabilities

K, C = 3, 7


def repeated_log_probabilities(vlm, prompts, ids):
    """The plain layout: every response in a row of its own, behind its own copy of prompt and pixels."""
    pad = vlm.processor.tokenizer.pad_token_id
    batch = collate([p for p in prompts for _ in range(K)], pad)
    positions, start = prompt_positions(vlm.model, batch)
    flat = ids.flatten(0, 1)
    inputs = dict(batch)
    inputs["input_ids"] = torch.cat([batch["input_ids"], flat], 1)
    inputs["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(flat)], 1)
    if "mm_token_type_ids" in batch:
        inputs["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(flat)], 1)
    after = completion_positions(positions, start, C)
    logits = vlm.model(**inputs, position_ids=torch.cat([positions, after], -1)).logits[:, -C - 1 : -1]
    return logits.log_softmax(-1).gather(-1, flat[..., None])[..., 0].view_as(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_repeated_with_its_gradients(family, model_folder, pictures):
    vlm = load(str(model_folder(family)), device="cpu")
    prompts = [encode_prompt(vlm.processor, image, "Rate the picture.") for image in pictures]
    batch = collate(prompts, vlm.processor.tokenizer.pad_token_id)
    assert (batch["attention_mask"] == 0).any()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, 200, (len(prompts), K, C), generator=generator)
    weights = torch.randn(ids.shape, generator=generator)
    results = []
    for compute in (
        lambda: packed_log_probabilities(vlm.model, vlm.model, batch, ids),
        lambda: repeated_log_probabilities(vlm, prompts, ids),
    ):
        vlm.model.zero_grad()
        log_p = compute()
        (log_p * weights).sum().backward()
        grads = {n: p.grad.clone() for n, p in vlm.model.named_parameters() if p.grad is not None}
        results.append((log_p.detach(), grads))
    (packed, packed_grads), (repeated, repeated_grads) = results
    torch.testing.assert_close(packed, repeated, atol=1e-5, rtol=0)
    assert packed_grads.keys() == repeated_grads.keys()
    for name, grad in repeated_grads.items():
        if grad.norm() > 1e-5:
            assert (packed_grads[name] - grad).norm() / grad.norm() < 1e-4, name


def test_temperature_divides_the_logits(model_folder, pictures):
    vlm = load(str(model_folder("nano")), device="cpu")
    batch = collate([encode_prompt(vlm.processor, pictures[0], "Rate.")], 0)
    tokens = torch.arange(10, 60)
    with torch.no_grad():
        one = packed_log_probabilities(vlm.model, vlm.model, batch, tokens[None, :, None], 1.0)[0, :, 0]
        half = packed_log_probabilities(vlm.model, vlm.model, batch, tokens[None, :, None], 0.5)[0, :, 0]
    torch.testing.assert_close(half - half[0], 2 * (one - one[0]), atol=1e-4, rtol=1e-4)


def test_block_mask_by_hand():
    seen = block_mask(torch.tensor([[0, 1]]), responses=2, length=2)[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],  # padding sees itself
            [0, 1, 0, 0, 0, 0],  # the prompt
            [0, 1, 1, 0, 0, 0],  # response 1
            [0, 1, 1, 1, 0, 0],
            [0, 1, 0, 0, 1, 0],  # response 2 does not see response 1
            [0, 1, 0, 0, 1, 1],
        ]
    ).bool()
    assert torch.equal(seen, expected)
