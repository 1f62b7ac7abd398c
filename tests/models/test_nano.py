import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import picture
from visualquality.models.load import load
from visualquality.models.nano.configuration import image_tokens
from visualquality.models.nano.processor import patches, target_size
from visualquality.models.nano.readers import LIMIT
from visualquality.models.nano.tower import STAGES, Conv, Tower, fold_batch_norms
from visualquality.models.nano.vision import (
    CELL_WIDTH,
    NATIVE,
    PIXELS,
    QUALITY_RANGES,
    SCENE,
    TONES,
    WHOLE,
    NumbersToken,
    Projector,
)
from visualquality.models.prompt import collate, encode_prompt


@pytest.fixture(scope="module", params=["a small extended one", "nano-base"])
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
    tokens = image_tokens(height // 32, width // 32, cell=4, max_cells=59, extended=True)
    assert 10 <= tokens <= 68


def test_aspect_is_kept_and_small_images_are_not_enlarged():
    assert target_size(640, 480, 512 * 512) == (576, 448)
    assert target_size(128, 96, 512 * 512) == (128, 96)


def test_patches_hold_the_pixels_in_place():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    found = patches(Image.fromarray(pixels))
    second_row_first = found.reshape(2, 3, 3, 32, 32)[1, 0].transpose(1, 2, 0)
    np.testing.assert_allclose(second_row_first * 128 + 127, pixels[32:, :32], atol=1e-4)


def test_prompt_has_one_token_for_each_that_vision_gives(nano):
    for size in ((96, 96), (96, 32), (500, 20)):
        encoded = encode_prompt(nano.processor, [picture(0, size)], "Rate it.")
        placed = int((encoded.tokens["input_ids"] == nano.model.config.image_token_id).sum())
        features = nano.model.frozen_vision_features(encoded.images)
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
    for name in batch.images:
        if name != "image_grid_thw":
            del remembered[name]
    features = nano.model.frozen_vision_features(batch.images)
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
    for setting in ("max_pixels", "extended"):
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


def test_an_image_unlike_all_others_is_bounded_in_the_extended_model():
    wild = torch.full((1, 4), 1e6)
    bounded, free = (Projector(4, 3, limit=limit) for limit in (LIMIT, math.inf))
    torch.testing.assert_close(bounded(wild), bounded(torch.full((1, 4), LIMIT)))
    assert free(wild).abs().max() > 1e3


@pytest.fixture(scope="module")
def extended(model_folder):
    return load(str(model_folder("nano")), device="cpu")


def parts_of(vlm, *images: Image.Image) -> tuple[torch.Tensor, ...]:
    """The statistics of whole images as `Vision.widths` parts them."""
    vision = vlm.model.model.vision
    prompts = [encode_prompt(vlm.processor, [image], "") for image in images]
    features = vlm.model.frozen_vision_features(collate(prompts, 0).images)
    return torch.stack([f[: vision.whole_width] for f in features]).split(list(vision.widths), 1)


def test_readers_change_one_token_alone(extended):
    """The one that tells the decoder of the quality, so nothing else has to carry a score."""
    vision = extended.model.model.vision
    features = extended.model.frozen_vision_features(
        encode_prompt(extended.processor, [picture(0)], "Rate it.").images
    )
    kept = vision.readers.home.bias.clone()
    with torch.no_grad():
        before = vision(features)
        vision.readers.home.bias += 1
        after = vision(features)
        vision.readers.home.bias.copy_(kept)
    changed = (before != after).any(1).nonzero()[:, 0].tolist()
    assert changed == [TONES + 1]


def test_pixels_and_scene_are_read_at_native_size_and_tones_of_the_whole(extended):
    """Fine noise over a large image: smaller it is gone, in the windows it is not."""
    plain = picture(0, (640, 480)).resize((80, 60)).resize((640, 480), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 12, (480, 640, 3))
    noisy = Image.fromarray(np.clip(np.asarray(plain) + grain, 0, 255).astype(np.uint8))
    parts = parts_of(extended, plain, noisy)

    def change(index):
        return (parts[index][0] - parts[index][1]).abs().mean()

    native, whole = (
        torch.stack([change(i) for i in range(part.start, part.stop)]).mean()
        for part in (NATIVE, WHOLE)
    )
    assert native > 3 * whole
    assert change(SCENE) > 0.3
    assert change(PIXELS) > 0.1
    assert change(TONES) < 1.5


def test_an_image_that_fits_is_its_own_window(extended):
    parts = parts_of(extended, picture(1, (64, 96)), picture(2, (64, 64)))
    for whole, native in zip(parts[WHOLE], parts[NATIVE], strict=True):
        torch.testing.assert_close(whole, native)


def test_an_extended_model_asks_for_its_windows(extended):
    images = dict(encode_prompt(extended.processor, [picture(0)], "").images)
    del images["window_grid"]
    with pytest.raises(ValueError, match="window_grid"):
        extended.model.frozen_vision_features(images)


def test_the_size_of_an_image_is_known(extended):
    parts = parts_of(extended, picture(1, (64, 96)), picture(1, (640, 480)))
    expected = [math.log(64 * 96) / 2, math.log(640 * 480) / 2]
    torch.testing.assert_close(parts[SCENE][:, -1], torch.tensor(expected))


def test_close_numbers_look_different_and_those_beyond_the_range_do_not():
    torch.manual_seed(0)
    token = NumbersToken(QUALITY_RANGES, 48)

    def seen(quality, error=0.4):
        with torch.no_grad():
            return token(torch.tensor([[quality, error]]))[0]

    size = seen(3.0).norm()
    for quality in (1.0, 2.33, 4.9):
        assert (seen(quality) - seen(quality + 0.05)).norm() > 0.05 * size
        # A step twice as far looks further away: neighbours are not told apart by chance.
        assert (seen(quality) - seen(quality + 0.1)).norm() > (
            seen(quality) - seen(quality + 0.05)
        ).norm()
        assert (seen(quality) - seen(quality, 0.45)).norm() > 0.05 * size
    for beyond, end in ((-1e6, 1.0), (7.0, 5.0)):
        torch.testing.assert_close(seen(beyond), seen(end), rtol=0, atol=0)
