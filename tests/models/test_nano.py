import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import picture
from visualquality.models.load import load
from visualquality.models.nano.configuration import image_tokens
from visualquality.models.nano.processor import NanoImageProcessor, target_size
from visualquality.models.nano.tower import STAGES, Conv, Tower, fold_batch_norms
from visualquality.models.nano.vision import (
    CELL_WIDTH,
    LIMIT,
    STAGE_WIDTHS,
    LinearQuality,
    Projector,
)
from visualquality.models.prompt import collate, encode_prompt


@pytest.fixture(scope="module", params=["a small one that reads pixels too", "nano-base"])
def nano(model_folder, request):
    return load(
        "nano-base" if request.param == "nano-base" else str(model_folder("nano")), device="cpu"
    )


@pytest.mark.parametrize("most", [784, 50_000, 512 * 512])
@pytest.mark.parametrize(
    "size", [(1, 1), (20000, 3), (3, 20000), (512, 512), (4000, 3000), (33, 95), (640, 427)]
)
def test_every_size_fits_the_grid_and_the_token_budget(size, most):
    width, height = target_size(*size, most)
    assert width % 32 == height % 32 == 0
    assert 32 * 32 <= width * height <= max(1.2 * most, 32 * 32)
    tokens = image_tokens(height // 32, width // 32, cell=4, max_cells=59, pixels=True)
    assert 7 <= tokens <= 65


def test_aspect_is_kept_and_small_images_are_not_enlarged():
    assert target_size(640, 480, 512 * 512) == (576, 448)
    assert target_size(128, 96, 512 * 512) == (128, 96)


def test_patches_hold_the_pixels_in_place():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    patches, grid = NanoImageProcessor().patches(Image.fromarray(pixels))
    assert grid == (1, 2, 3)
    second_row_first = patches.reshape(2, 3, 3, 32, 32)[1, 0].transpose(1, 2, 0)
    np.testing.assert_allclose(second_row_first * 128 + 127, pixels[32:, :32], atol=1e-4)


def test_prompt_has_one_token_for_each_that_vision_gives(nano):
    for size in ((96, 96), (96, 32), (500, 20)):
        encoded = encode_prompt(nano.processor, [picture(0, size)], "Rate it.")
        placed = int((encoded.tokens["input_ids"] == nano.model.config.image_token_id).sum())
        features = nano.model.frozen_vision_features(
            encoded.images["pixel_values"], encoded.images["image_grid_thw"]
        )
        assert placed == len(nano.model.model.vision(features))


def test_wrong_number_of_image_tokens_is_an_error(nano):
    encoded = encode_prompt(nano.processor, [picture(0)], "Rate it.")
    encoded.tokens["input_ids"] = encoded.tokens["input_ids"][2:]
    encoded.tokens["input_ids"][encoded.tokens["input_ids"] == nano.model.config.image_token_id] = 5
    with pytest.raises(ValueError, match="image tokens"):
        nano.model(**collate([encoded], 0).inputs())


def test_remembered_features_give_the_same_logits(nano, pictures):
    prompts = [encode_prompt(nano.processor, [image], "Rate it.") for image in pictures]
    batch = collate(prompts, 0)
    remembered = batch.inputs()
    features = nano.model.frozen_vision_features(
        remembered.pop("pixel_values"), batch.images["image_grid_thw"]
    )
    assert [len(f) for f in features] == nano.model.model.feature_sizes(
        batch.images["image_grid_thw"]
    )
    assert (len(features[0]) - nano.model.model.vision.whole_width) % CELL_WIDTH == 0
    with torch.no_grad():
        torch.testing.assert_close(
            nano.model(**remembered, vision_features=torch.cat(features)).logits,
            nano.model(**batch.inputs()).logits,
        )


def test_the_image_matters_and_its_neighbours_in_the_batch_do_not(nano, pictures):
    prompts = [encode_prompt(nano.processor, [image], "Rate it.") for image in pictures]
    with torch.no_grad():
        together = nano.model(**collate(prompts, 0).inputs()).logits[:, -1]
        for prompt, logits in zip(prompts, together, strict=True):
            torch.testing.assert_close(
                nano.model(**collate([prompt], 0).inputs()).logits[0, -1],
                logits,
                atol=1e-5,
                rtol=1e-4,
            )
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_saved_and_loaded_is_the_same(nano, tmp_path):
    nano.model.save_pretrained(tmp_path)
    nano.processor.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    assert again.digest == nano.digest
    for setting in ("max_pixels", "pixels"):
        assert getattr(again.processor.image_processor, setting) == getattr(
            nano.processor.image_processor, setting
        )


def tensorflow_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's padding as its documentation has it: what is odd goes to the bottom and the right."""
    excess = [
        max((-(-size // stride) - 1) * stride + kernel - size, 0)
        for size in (x.shape[-1], x.shape[-2])
    ]
    left, top = excess[0] // 2, excess[1] // 2
    return nn.functional.pad(x, (left, excess[0] - left, top, excess[1] - top))


def test_folding_batch_norms_keeps_the_function():
    """Against the unfolded network written out: convolution, batch norm, ReLU6."""
    torch.manual_seed(0)
    tower = Tower().double().eval()
    shapes = {name: p.shape for name, p in tower.state_dict().items()}
    weights, norms = {}, {}

    def norm(name: str, channels: int) -> None:
        norms[name] = nn.BatchNorm2d(channels, eps=1e-3).double().eval()
        for tensor in (norms[name].weight, norms[name].running_var):
            tensor.data.uniform_(0.5, 1.5)
        for tensor in (norms[name].bias, norms[name].running_mean):
            tensor.data.normal_(0, 0.1)
        weights.update({f"{name}.{k}": v for k, v in norms[name].state_dict().items()})

    convs = {"_conv_stem": ("stem", "_bn0"), "_conv_head": ("head", "_bn1")}
    for i in range(sum(stage[0] for stage in STAGES)):
        if i:
            convs[f"_blocks.{i}._expand_conv"] = (f"blocks.{i}.expand", f"_blocks.{i}._bn0")
        convs[f"_blocks.{i}._depthwise_conv"] = (f"blocks.{i}.depthwise", f"_blocks.{i}._bn1")
        convs[f"_blocks.{i}._project_conv"] = (f"blocks.{i}.project", f"_blocks.{i}._bn2")
    for old, (new, bn) in convs.items():
        shape = shapes[f"{new}.weight"]
        weights[f"{old}.weight"] = (
            torch.randn(shape, dtype=torch.float64) / shape[1:].numel() ** 0.5
        )
        norm(bn, shape[0])
    tower.load_state_dict(fold_batch_norms(weights))
    x = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    for old, (new, bn) in convs.items():
        conv: Conv = tower.get_submodule(new)
        inputs = (
            torch.randn(1, conv.in_channels * 1, 8, 6, dtype=torch.float64) if new != "stem" else x
        )
        padded = tensorflow_same(inputs, conv.kernel_size[0], conv.stride[0])
        plain = nn.functional.conv2d(
            padded, weights[f"{old}.weight"], None, conv.stride, 0, 1, conv.groups
        )
        torch.testing.assert_close(conv(inputs), norms[bn](plain))
    assert [tuple(m.shape[1:]) for m in tower(x)] == [
        (24, 16, 8),
        (40, 8, 4),
        (112, 4, 2),
        (320, 2, 1),
        (1280, 2, 1),
    ]


def test_an_image_unlike_all_others_is_bounded_where_pixels_are_read():
    wild = torch.full((1, 4), 1e6)
    bounded, free = (Projector(4, 3, limit=limit) for limit in (LIMIT, math.inf))
    torch.testing.assert_close(bounded(wild), bounded(torch.full((1, 4), LIMIT)))
    assert free(wild).abs().max() > 1e3


def test_linear_quality_comes_from_the_later_stages_whatever_their_scale():
    torch.manual_seed(0)
    quality = LinearQuality(8)
    quality.weights.normal_()
    stages = [torch.randn(3, width) for width in STAGE_WIDTHS]
    found = quality.read(stages)
    assert found.shape == (3,)
    assert quality(stages).shape == (3, 8)
    louder = [stage * 3 + 1 for stage in stages]
    torch.testing.assert_close(quality.read(louder), found, atol=1e-3, rtol=1e-3)
    for index, changes in enumerate((False, False, True, True, True)):
        other = [torch.randn_like(stage) if i == index else stage for i, stage in enumerate(stages)]
        assert torch.equal(quality.read(other), found) != changes


def test_linear_quality_changes_what_the_decoder_sees_of_the_image(model_folder):
    nano = load(str(model_folder("nano")), device="cpu")
    vision = nano.model.model.vision
    encoded = encode_prompt(nano.processor, [picture(0)], "Rate it.")
    features = nano.model.frozen_vision_features(
        encoded.images["pixel_values"], encoded.images["image_grid_thw"]
    )
    with torch.no_grad():
        before = vision(features)
        vision.quality.weights[0] += 1
        after = vision(features)
    changed = (before != after).any(1).nonzero()[:, 0].tolist()
    assert changed == [len(vision.widths) - 1]
