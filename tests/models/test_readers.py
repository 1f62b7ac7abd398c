"""The readers of quality and the rule that joins them, with numbers that are set by hand."""

import math

import pytest
import torch
from PIL import Image, ImageFilter

from conftest import picture
from small_models import give_opinions
from visualquality.models.load import load
from visualquality.models.nano.pixels import PIXEL_WIDTH
from visualquality.models.nano.readers import (
    LATER,
    LATER_WIDTH,
    LIMIT,
    NAMES,
    STAGE_WIDTHS,
    Distance,
    Readers,
    levelled,
    squashed,
)
from visualquality.models.nano.scene import SCENE_WIDTH
from visualquality.models.prompt import collate, encode_prompt

WIDTHS = (*STAGE_WIDTHS, PIXEL_WIDTH, SCENE_WIDTH + 1, 3, *STAGE_WIDTHS)


def random_parts(number: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(number, width, generator=drawn) for width in WIDTHS)


@pytest.fixture
def readers() -> Readers:
    found = Readers()
    give_opinions(found, seed=0)
    return found


def test_nothing_of_them_is_trained(readers):
    assert not list(readers.parameters())
    assert all(not value.requires_grad for value in readers.state_dict().values())


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6, -1e6])
def test_quality_is_between_1_and_5_and_the_error_positive_for_any_image(readers, scale):
    quality, error = readers(random_parts(20, scale=scale)).T
    assert quality.isfinite().all()
    assert (quality > 1).all()
    assert (quality < 5).all()
    assert (error >= 0.2).all()
    assert error.isfinite().all()


def test_images_differ_in_quality_to_the_small_model_of_other_tests(model_folder):
    vlm = load(str(model_folder("nano")), device="cpu")
    vision = vlm.model.model.vision
    plain = picture(0, (120, 90))
    blurred, dark = plain.filter(ImageFilter.GaussianBlur(2)), Image.eval(plain, lambda v: v // 4)
    images = (plain, blurred, dark, Image.new("RGB", (64, 64)), picture(1, (400, 300)))
    prompts = [encode_prompt(vlm.processor, [image], "") for image in images]
    features = vlm.model.frozen_vision_features(collate(prompts, 0).images)
    parts = torch.stack([f[: vision.whole_width] for f in features]).split(vision.widths, 1)
    quality, error = vision.readers(parts).T
    assert quality.std() > 0.1
    assert (error > 0.2).all()
    assert error.std() > 0.01


def test_squashed_keeps_order_and_the_middle_and_stays_in_the_scale():
    scores = torch.linspace(-1, 7, 400)
    found = squashed(scores)
    assert (found.diff() > 0).all()
    assert found.min() > 1
    assert found.max() < 5
    middle = torch.linspace(2.5, 3.5, 11)
    torch.testing.assert_close(squashed(middle), middle, atol=0.02, rtol=0)
    assert squashed(torch.tensor([3.0])).item() == 3


def test_the_strength_of_a_stage_does_not_count_only_its_pattern():
    stages = random_parts(3)[:5]
    louder = [stage * 3 + 1 for stage in stages]
    torch.testing.assert_close(levelled(louder), levelled(stages), atol=1e-3, rtol=1e-3)
    assert levelled(stages).shape == (3, LATER_WIDTH)
    later = range(5)[LATER]
    for index in range(5):
        changed = [s.flip(1) if i == index else s for i, s in enumerate(stages)]
        assert torch.equal(levelled(changed), levelled(stages)) == (index not in later)


# Which parts each opinion is formed of: the whole's stages, pixels, scene with size, tones, native stages.
READ = {
    "home": {0, 1, 2, 3, 4, 5, 6},
    "tower": {2, 3, 4},
    "native": {10, 11, 12},
    "scene": {6},
    "pristine": {6},
}


@pytest.mark.parametrize("name", READ)
def test_an_opinion_depends_on_its_parts_alone(readers, name):
    column = ("home", *NAMES).index(name)
    parts = random_parts(4)
    before = readers.raw_opinions(parts)[:, column]
    for index in range(len(WIDTHS)):
        changed = [p.flip(1) if i == index else p for i, p in enumerate(parts)]
        same = torch.equal(readers.raw_opinions(changed)[:, column], before)
        assert same == (index not in READ[name]), index


def test_one_statistic_out_of_all_bounds_moves_an_opinion_by_a_bounded_step(readers):
    parts = random_parts(4)
    for value in (LIMIT, 1e9):
        parts[6][:, 0] = value
        if value == LIMIT:
            at_limit = readers(parts)
    torch.testing.assert_close(readers(parts), at_limit)


def test_distance_is_mahalanobis_on_its_axes():
    distance = Distance(3, 2)
    distance.mean.copy_(torch.tensor([1.0, 0.0, 5.0]))
    distance.scale.copy_(torch.tensor([2.0, 1.0, 1.0]))
    distance.whitening.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
    x = torch.tensor([[1.0, 0.0, 9.0], [3.0, 0.0, 5.0], [3.0, 4.0, 5.0]])
    expected = [0, math.sqrt(1 / 2), math.sqrt((1 + 4) / 2)]
    assert distance(x).tolist() == pytest.approx(expected, abs=1e-3)


def planted(home: float, others: float) -> Readers:
    """Readers of fixed opinions, and a distance that is the first number of the scene's statistics."""
    readers = Readers()
    readers.home.bias.fill_(home)
    for reader in (readers.tower, readers.native, readers.scene):
        reader.bias.fill_(others)
    readers.centre[-1] = -others  # of the distance from undamaged photos, which is 0 here
    readers.shares.fill_(0.25)
    readers.threshold.copy_(torch.tensor([1.5, 0.25]))
    readers.line.copy_(torch.tensor([1.0, 3.0]))
    readers.error.copy_(torch.tensor([0.2, 0.1, 0.05]))
    # The mean is over AXES squares: on one axis alone the root of their number makes up for it.
    axes = len(readers.familiarity.whitening)
    readers.familiarity.whitening[0, LATER_WIDTH] = math.sqrt(axes)
    return readers


def at_distances(*distances: float) -> list[torch.Tensor]:
    parts = [torch.zeros(len(distances), width) for width in WIDTHS]
    parts[6][:, 0] = torch.tensor(distances)
    return parts


@pytest.mark.parametrize(("home", "others"), [(1.0, -1.0), (-0.5, 1.0)])
def test_the_further_from_the_rated_photos_the_more_the_others_count(home, others):
    readers = planted(home, others)
    distances = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0)
    parts = at_distances(*distances)
    assert readers.strangeness(parts).tolist() == pytest.approx(distances, abs=1e-3)
    quality, error = readers(parts).T
    steps = quality.diff()
    assert (steps * (others - home) > 0).all()
    ends = squashed(torch.tensor([3 + home, 3 + others]))
    assert quality[0].item() == pytest.approx(ends[0].item(), abs=0.02)
    assert quality[-1].item() == pytest.approx(ends[1].item(), abs=0.02)
    # At the threshold both sides count alike.
    between = squashed(torch.tensor(3 + (home + others) / 2))
    assert quality[3].item() == pytest.approx(between.item(), abs=1e-4)
    expected = [0.2 + 0.1 * abs(home - others) + 0.05 * d for d in distances]
    assert error.tolist() == pytest.approx(expected, abs=1e-3)


def test_where_they_agree_distance_changes_the_error_alone():
    quality, error = planted(0.7, 0.7)(at_distances(0.0, 2.0, 5.0)).T
    torch.testing.assert_close(quality, quality[:1].expand(3), atol=1e-4, rtol=0)
    assert (error.diff() > 0).all()
