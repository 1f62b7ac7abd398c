"""What is read off the pixels themselves: each fault that the statistics are there for moves those that tell it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from visualquality.data.distort import distort
from visualquality.models.nano import NanoImageProcessor, pixels
from visualquality.models.nano.processor import cut
from visualquality.models.nano.tower import MIDDLE, SPREAD, STRIDE


def photo(seed: int = 0, side: int = 128) -> Image.Image:
    """Smooth shapes with some grain: a histogram without gaps, and no two neighbours alike for long."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 235, (6, 6, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 2.5, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).round().astype(np.uint8))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("size", [(32, 32), (32, 640), (480, 320), (512, 512)])
@pytest.mark.parametrize("level", [0, 90, 255])
def test_width_is_as_declared_and_all_are_finite_even_for_one_colour(size, level):
    image = torch.full((3, *size), float(level))
    found = pixels.pixel_statistics(image)
    assert found.shape == (pixels.PIXEL_WIDTH,)
    assert found.isfinite().all()


def test_a_mirrored_image_has_the_same_statistics_but_for_corners():
    image = tensor(photo())
    there, mirrored = (pixels.pixel_statistics(x) for x in (image, image.flip(2)))
    corner_numbers = len(
        flat(pixels.flat(image.to(torch.uint8)))
    )  # a flat corner has its neighbours on one side
    torch.testing.assert_close(
        there[:-corner_numbers], mirrored[:-corner_numbers], atol=0.05, rtol=0.05
    )


def test_a_shift_of_all_tones_moves_the_first_and_the_last_level():
    before, after = (
        pixels.tones(tensor(x).to(torch.uint8))
        for x in (photo(), Image.eval(photo(), lambda v: v // 2 + 60))
    )
    ends = 3  # of the parts: shares, two cumulated ends, then the levels that are filled
    assert (after[ends][:, 0] > before[ends][:, 0]).all()
    assert (after[ends][:, 1] < before[ends][:, 1]).all()


def test_a_gain_in_contrast_leaves_gaps_in_the_histogram():
    gained = Image.eval(photo(), lambda v: min(255, max(0, round(128 + 1.3 * (v - 128)))))
    before, after = (pixels.tones(tensor(x).to(torch.uint8))[-1].sum() for x in (photo(), gained))
    assert after > before + 0.2


def test_a_palette_has_few_colours():
    reduced = distort(photo(), "color_quantization", 5, seed=0)
    full, few = (pixels.palette(tensor(x).to(torch.uint8)) for x in (photo(), reduced))
    assert few < full - 2


def test_noise_is_in_fine_texture_and_blur_takes_it_out():
    noise, plain, blur = (
        pixels.texture(tensor(x)[:1].expand(3, -1, -1) / 255)[0][0]
        for x in (
            distort(photo(), "white_noise", 5, seed=0),
            photo(),
            distort(photo(), "gaussian_blur", 5, seed=0),
        )
    )
    assert noise > plain + 0.5 > blur + 1


def test_motion_blur_has_a_direction():
    along, around = (
        pixels.spectrum(tensor(distort(photo(), family, 5, seed=1))[1] / 255)[-1]
        for family in ("motion_blur", "gaussian_blur")
    )
    assert along > around + 0.3


@pytest.mark.parametrize("offset", [0, 3])
def test_blocks_of_jpeg_stand_out_wherever_their_grid_begins(offset):
    side = 128 - 8
    box = (offset, offset, offset + side, offset + side)
    plain, blocks = (
        pixels.grid(tensor(x.crop(box))[1] / 255)
        for x in (photo(), distort(photo(), "jpeg", 5, seed=0))
    )
    for place in (0, 2):  # the strongest step of the grid, across and down
        assert blocks[place][0] > plain[place][0] + 0.3


def test_flat_blocks_are_counted_and_clipped_ones_apart():
    image = np.array(photo())
    image[40:48, 40:48] = (200, 30, 90)
    one, none = (pixels.flat(tensor(x).to(torch.uint8)) for x in (Image.fromarray(image), photo()))
    assert one[0] > none[0] + 1  # middle tones, 3 x 3
    assert one[2] > none[2]  # a corner that stands out
    for level in (0, 255):
        image[40:48, 40:48] = level
        clipped = pixels.flat(tensor(Image.fromarray(image)).to(torch.uint8))
        assert clipped[1] > none[1] + 1
        assert clipped[0] == none[0]


def test_windows_of_one_colour_equal_a_plain_count():
    levels = (
        torch.randint(0, 2, (3, 40, 37), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        * 100
        + 50
    )
    levels[:, 5:14, 6:15] = 70
    for part, side in ((0, 3), (3, 5)):
        windows = levels.unfold(1, side, 1).unfold(2, side, 1).flatten(3)
        same = (windows == windows[..., :1]).all(3).all(0).float().mean()
        torch.testing.assert_close(pixels.flat(levels)[part], pixels.log(same))


def test_pixels_reach_the_model_as_they_are_where_it_reads_them():
    image = photo(side=200)
    found = NanoImageProcessor(extended=True)(image)
    assert found["image_grid_thw"].tolist() == [[1, 6, 6]]
    seen = found["pixel_values"].reshape(6, 6, 3, STRIDE, STRIDE)
    seen = seen.permute(2, 0, 3, 1, 4).reshape(3, 192, 192)
    middle = np.asarray(image)[4:196, 4:196].transpose(2, 0, 1)
    np.testing.assert_array_equal(seen * SPREAD + MIDDLE, middle)


@pytest.mark.parametrize(
    ("side", "most", "extended", "strides"),
    [(95, 512 * 512, True, 3), (200, 160 * 160, True, 5), (140, 512 * 512, False, 4)],
)
def test_what_is_small_or_too_large_is_resized_instead(side, most, extended, strides):
    processor = NanoImageProcessor(max_pixels=most, extended=extended)
    grid = processor(photo(side=side))["image_grid_thw"]
    assert grid.tolist() == [[1, strides, strides]]


def test_cut_takes_the_middle():
    image = Image.new("RGB", (166, 160))
    image.putpixel((3, 0), (9, 9, 9))
    found = cut(image, 160 * 160)
    assert found.size == (160, 160)
    assert found.getpixel((0, 0)) == (9, 9, 9)
    assert cut(image, 160 * 160 - 1).size == image.size


def test_bfloat16_pixels_are_exact_so_that_a_model_in_it_sees_the_same():
    image = tensor(photo(side=64))
    there = ((image - MIDDLE) / SPREAD).bfloat16()
    torch.testing.assert_close((there * SPREAD + MIDDLE).float(), image, rtol=0, atol=0)
