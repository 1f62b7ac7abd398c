import subprocess
import sys
from functools import cache

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from conftest import FAMILIES
from visualquality.models.load import load
from visualquality.models.prompt import PromptBatch, collate, encode_prompt, prompt_positions
from visualquality.train import packed
from visualquality.train.attention import row_mask
from visualquality.train.packed import MASK_BYTES, packed_log_probabilities

K, C = 3, 7
LENGTHS = torch.tensor([7, 4, 1, 5, 7, 2, 3, 6, 7, 1, 7, 7]).view(
    4, K
)  # of the completions; the rest is padding
REAL = torch.arange(C) < LENGTHS[..., None]


def packable(folder, attention="auto"):
    """The model in a folder, as training has it."""
    model = load(str(folder), device="cpu").model
    packed.allow_packing(model, attention)
    return model


@pytest.fixture(scope="module")
def prompts(model_folder, pictures):
    """A function: family -> the prompts of four pictures of unequal size, one by one and as a padded batch.

    `referenced`: each has another of the pictures as its reference.
    """

    def make(family, referenced=False):
        processor = load(str(model_folder(family)), device="cpu").processor
        others = pictures[::-1]
        sources = [
            [others[i], image] if referenced else [image] for i, image in enumerate(pictures)
        ]
        single = [encode_prompt(processor, images, "Rate the picture.") for images in sources]
        batch = collate(single, processor.tokenizer.pad_token_id)
        assert (batch.mask == 0).any()
        return single, batch

    return make


def completions(pad: int = 0) -> torch.Tensor:
    drawn = torch.randint(20, 200, REAL.shape, generator=torch.Generator().manual_seed(0))
    return drawn.masked_fill(~REAL, pad)


def one_by_one(model, single, ids):
    """The truth: every response alone behind its prompt, with neither padding nor mask."""
    rows = []
    for prompt, group, lengths in zip(single, ids, LENGTHS.tolist(), strict=True):
        positions = prompt_positions(model, collate([prompt], 0))
        for completion, length in zip(group, lengths, strict=True):
            text = completion[None, :length]
            inputs = collate([prompt.followed_by(completion[:length].tolist())], 0).inputs()
            after = positions.after(torch.arange(length))
            output = model(**inputs, position_ids=torch.cat([positions.prompt, after], -1))
            logits = output.logits[0, -length - 1 : -1]
            log_p = logits.log_softmax(-1).gather(-1, text[0, :, None])[:, 0]
            rows.append(torch.nn.functional.pad(log_p, (0, C - length)))
    return torch.stack(rows).view(ids.shape)


def with_gradients(model, compute):
    """Log-probabilities of the real tokens (0 elsewhere), and what a loss on them gives to each parameter."""
    weights = torch.randn(REAL.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    log_p = compute().masked_fill(~REAL, 0)
    (log_p * weights).sum().backward()
    return log_p.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def assert_same(ours, truth):
    torch.testing.assert_close(ours[0], truth[0], atol=1e-5, rtol=0)
    assert ours[1].keys() == truth[1].keys()
    assert any(grad.norm() > 1e-5 for grad in truth[1].values())
    for name, grad in truth[1].items():
        if grad.norm() > 1e-5:
            assert (ours[1][name] - grad).norm() / grad.norm() < 1e-4, name


def lora(model):
    """An adapter that changes the numbers: its second factor does not start at zero."""
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q|v|down)_proj"
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


@pytest.fixture(scope="module")
def truth(model_folder, prompts):
    """A function: family, adapted, referenced -> the one-by-one numbers of its model, found once."""

    @cache
    def find(family, adapted=False, referenced=False):
        model = packable(model_folder(family))
        model = lora(model) if adapted else model
        single, _ = prompts(family, referenced)
        return with_gradients(model, lambda: one_by_one(model, single, completions()))

    return find


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "form", ["plain", "checkpointing", "reentrant", "lora", "lora_checkpointing"]
)
def test_packed_is_repeated_with_its_gradients(family, form, model_folder, prompts, truth):
    model = packable(model_folder(family))
    model = lora(model) if "lora" in form else model
    _, batch = prompts(family)
    if form != "plain":
        model.train()
    if "checkpointing" in form or form == "reentrant":
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": form == "reentrant"}
        )
        assert model.is_gradient_checkpointing
    ours = with_gradients(
        model, lambda: packed_log_probabilities(model, model, batch, completions())
    )
    assert_same(ours, truth(family, "lora" in form))


def masks_of(model) -> list[torch.Tensor]:
    """The mask of each forward from now on."""
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("fitting", "forwards"), [(3, 2), (1, 4), (0, 4)])
def test_a_small_mask_gives_the_same(family, fitting, forwards, model_folder, prompts, truth):
    """`fitting`: for how many images there is room."""
    model = packable(model_folder(family))
    _, batch = prompts(family)
    bound = fitting * 4 * (batch.length + C) ** 2 or 100
    seen = masks_of(model)
    ours = with_gradients(
        model,
        lambda: packed_log_probabilities(model, model, batch, completions(), mask_bytes=bound),
    )
    assert_same(ours, truth(family))
    assert len(seen) == forwards
    if fitting:
        assert all(mask.numel() * mask.element_size() <= bound for mask in seen)
    else:  # says of no token that it is padding: the model makes no mask of it
        assert all(mask.ndim == 2 and mask.all() for mask in seen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("fitting", "forwards"), [(4, 1), (3, 2), (0, 4)])
def test_two_images_a_row_are_exact_too(family, fitting, forwards, model_folder, prompts, truth):
    model = packable(model_folder(family))
    _, batch = prompts(family, referenced=True)
    assert len(batch.images["image_grid_thw"]) == 8
    bound = fitting * 4 * (batch.length + C) ** 2 or 100
    seen = masks_of(model)
    ours = with_gradients(
        model,
        lambda: packed_log_probabilities(model, model, batch, completions(), mask_bytes=bound),
    )
    assert len(seen) == forwards
    assert_same(ours, truth(family, referenced=True))
    with torch.no_grad():
        plain = packed.repeated_log_probabilities(model, model, batch, completions())
    torch.testing.assert_close(plain[REAL], ours[0][REAL], atol=1e-5, rtol=0)
    assert (truth(family)[0] - ours[0]).abs().max() > 1e-3  # the reference is looked at


@pytest.mark.parametrize("referenced", [False, True])
def test_remembered_features_are_parted_like_pixels(referenced, model_folder, prompts):
    model = packable(model_folder("nano"))
    _, batch = prompts("nano", referenced)
    features = torch.cat(model.frozen_vision_features(batch.images))
    images = {
        "image_grid_thw": batch.images["image_grid_thw"],
        "vision_features": features,
    }
    remembered = PromptBatch(batch.tokens, batch.mask, images)
    adapted = lora(model)
    with torch.no_grad():
        whole, parted = (
            packed_log_probabilities(adapted, adapted, remembered, completions(), mask_bytes=bound)
            for bound in (MASK_BYTES, 1)
        )
    torch.testing.assert_close(parted[REAL], whole[REAL], atol=1e-5, rtol=0)


def sliding(folder):
    """A Qwen2.5-VL whose text layers see six tokens."""
    config = load(str(folder), device="cpu").model.config
    text = config.text_config
    text.use_sliding_window, text.sliding_window = True, 6
    text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    model = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, attn_implementation="sdpa"
    ).eval()
    packed.allow_packing(model)
    return model


def test_a_model_that_cannot_be_packed_says_so_once_and_gives_its_numbers(
    model_folder, prompts, truth, caplog
):
    packed._warn_once.cache_clear()
    model = sliding(model_folder("qwen2_5_vl"))
    single, batch = prompts("qwen2_5_vl")
    ids = completions()
    results = [
        with_gradients(model, lambda: packed_log_probabilities(model, model, batch, ids))
        for _ in range(2)
    ]
    windowed = with_gradients(model, lambda: one_by_one(model, single, ids))
    assert_same(results[1], windowed)
    assert (truth("qwen2_5_vl")[0] - windowed[0]).abs().max() > 1e-3  # the window does change them
    (line,) = [record.getMessage() for record in caplog.records if record.name == packed.__name__]
    assert "Qwen2_5_VLForConditionalGeneration" in line
    assert "not all of its layers see the whole sequence" in line


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_the_way(family, model_folder):
    model = packable(model_folder(family))
    assert packed.why_not_packed(model) is None
    text = model.config.get_text_config()
    text._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in packed.why_not_packed(model)
    text._attn_implementation = packed.PACKED
    model.config.model_type = "gemma3"
    assert "gemma3" in packed.why_not_packed(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_repeated_is_one_by_one(family, model_folder, prompts, truth):
    """The fallback itself, in every family, with padding."""
    model = packable(model_folder(family))
    _, batch = prompts(family)
    with torch.no_grad():
        plain = packed.repeated_log_probabilities(model, model, batch, completions())
    torch.testing.assert_close(plain[REAL], truth(family)[0][REAL], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_flex_is_one_by_one(family, model_folder, prompts, truth):
    """Without gradients, which PyTorch has on CUDA alone; `test_attention.py` has those."""
    model = packable(model_folder(family), "flex")
    _, batch = prompts(family)
    seen = masks_of(model)
    with torch.no_grad():
        found = packed_log_probabilities(model, model, batch, completions())
    assert [mask.numel() for mask in seen] == [1]  # no mask of the tokens is made
    torch.testing.assert_close(found[REAL], truth(family)[0][REAL], atol=1e-5, rtol=0)


def test_one_response_is_as_among_several(model_folder, prompts, truth):
    model = packable(model_folder("qwen3_vl"))
    _, batch = prompts("qwen3_vl")
    with torch.no_grad():
        one = packed_log_probabilities(model, model, batch, completions()[:, 1:2])[:, 0]
    torch.testing.assert_close(
        one[REAL[:, 1]], truth("qwen3_vl")[0][:, 1][REAL[:, 1]], atol=1e-5, rtol=0
    )


def test_autocast(model_folder, prompts):
    model = packable(model_folder("qwen2_5_vl"))
    _, batch = prompts("qwen2_5_vl")
    with torch.no_grad():
        expected = packed_log_probabilities(model, model, batch, completions())
        seen = masks_of(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = packed_log_probabilities(model, model, batch, completions())
    assert seen[0].dtype == torch.bfloat16  # or each layer would make a copy
    torch.testing.assert_close(got, expected, atol=0.05, rtol=0)


def test_temperature_divides_the_logits(model_folder, pictures):
    vlm = load(str(model_folder("nano")), device="cpu")
    packed.allow_packing(vlm.model)
    batch = collate([encode_prompt(vlm.processor, [pictures[0]], "Rate.")], 0)
    tokens = torch.arange(10, 60, 5)
    for bound in (MASK_BYTES, 1):  # packed, and one by one
        with torch.no_grad():
            one, half = (
                packed_log_probabilities(
                    vlm.model, vlm.model, batch, tokens[None, :, None], t, mask_bytes=bound
                )
                for t in (1.0, 0.5)
            )
        one, half = one[0, :, 0], half[0, :, 0]
        torch.testing.assert_close(half - half[0], 2 * (one - one[0]), atol=1e-4, rtol=1e-4)


def test_row_mask_by_hand():
    mask = row_mask(torch.tensor([[0, 1]]), length=2, dtype=torch.float32)[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0],  # padding sees itself
            [0, 1, 0, 0],  # the prompt
            [0, 1, 1, 0],  # the response
            [0, 1, 1, 1],
        ]
    )
    assert torch.equal(mask.exp(), expected.float())


def test_importing_the_training_leaves_the_attention_of_other_models_alone():
    """What transformers calls "sdpa" is its own, also after the training was imported."""
    code = (
        "from transformers import AttentionInterface as A; before = A()['sdpa'];"
        "import visualquality.train.run; assert A()['sdpa'] is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_may_be_packed_is_saved_as_any_other(model_folder, tmp_path):
    model = packable(model_folder("qwen2_5_vl"))
    model.save_pretrained(tmp_path)
    assert packed.PACKED not in (tmp_path / "config.json").read_text()
