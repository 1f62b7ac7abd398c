"""How the readers of quality are fitted: each finds what was planted for it."""

import copy

import pytest
import torch

from recipes.nano import readers as fitting
from recipes.nano.chains import LENGTH, Picture
from recipes.nano.readers import (
    SHARES,
    fit_distance,
    fit_home,
    fit_ranks,
    fit_readers,
    join,
    pairs_of,
)
from visualquality.coefficients import srcc
from visualquality.models.nano.pixels import PIXEL_WIDTH
from visualquality.models.nano.readers import (
    HIDDEN,
    NAMES,
    STAGE_WIDTHS,
    Distance,
    LinearReader,
    PerceptronReader,
    Readers,
)
from visualquality.models.nano.scene import SCENE_WIDTH

INPUTS = 40
DAMAGE = slice(3, 9)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return srcc(a.tolist(), b.tolist())


def no_chains() -> tuple[torch.Tensor, list[Picture]]:
    """One chain of equal pictures, which teaches nothing."""
    return torch.zeros(2, INPUTS), [Picture(f"{i}.png", 0, i, "mixed", "") for i in range(2)]


def images(seed: int, number: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics on scales of their own, and a quality that is a bent direction of them."""
    x = drawn(seed, number, INPUTS)
    quality = torch.tanh(x[:, 0] - x[:, 1]) + 0.3 * x[:, 2]
    scale = torch.logspace(-2, 3, INPUTS)
    return x * scale + 5 * scale, quality


@pytest.fixture
def short(monkeypatch):
    """Small networks learn planted directions in few steps."""
    monkeypatch.setattr(fitting, "STEPS", 150)


def test_the_home_reader_learns_what_ratings_follow(short):
    reader = PerceptronReader(INPUTS, HIDDEN)
    x, quality = images(0)
    fit_home(reader, x, quality, *no_chains())
    other, truth = images(1)
    assert correlation(reader(other), truth) > 0.9
    # The mean of networks of spread 1 each: about 0 on average, and a little less wide.
    found = reader(x)
    assert found.mean().abs() < 0.05
    assert 0.8 < found.std() <= 1.01


def test_the_networks_in_one_are_the_mean_of_the_networks(short, monkeypatch):
    """Each alone, fitted with its own seed, and their mean."""
    x, quality = images(0, 120)
    together = PerceptronReader(INPUTS, HIDDEN)
    fit_home(together, x, quality, *no_chains())
    width = HIDDEN // fitting.NETWORKS
    parts = []
    for i in range(fitting.NETWORKS):
        part = copy.deepcopy(together)
        others = torch.ones(HIDDEN, dtype=torch.bool)
        others[i * width : (i + 1) * width] = False
        part.down[others] = 0
        found = part(x)
        parts.append(found - found.mean())
    # Of as much weight each.
    spreads = torch.stack([part.std() for part in parts])
    torch.testing.assert_close(
        spreads, torch.full((len(parts),), 1 / len(parts)), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(sum(parts), together(x), atol=1e-3, rtol=0)


def test_the_scale_of_the_ratings_does_not_matter(short):
    x, quality = images(0)
    found = []
    for mos in (quality, 20 * quality + 50):
        reader = PerceptronReader(INPUTS, HIDDEN)
        fit_home(reader, x, mos, *no_chains())
        found.append(reader(x))
    torch.testing.assert_close(found[0], found[1], atol=0.02, rtol=0)


def test_the_home_reader_learns_from_chains_what_no_rating_tells(short):
    """Two directions in ratings and chains that have nothing to do with each other: it learns both."""
    x, quality = images(0)
    scale = torch.logspace(-2, 3, INPUTS)
    content = drawn(5, 200, INPUTS).repeat_interleave(LENGTH, 0)
    place = torch.arange(LENGTH).repeat(200)
    content[:, 30] -= place
    pictures = [
        Picture(f"{i}.png", i // LENGTH, i % LENGTH, "mixed", "") for i in range(len(place))
    ]
    reader = PerceptronReader(INPUTS, HIDDEN)
    fit_home(reader, x, quality, content * scale + 5 * scale, pictures)
    falls = reader(content * scale + 5 * scale).view(-1, LENGTH).diff(dim=1) < 0
    other, truth = images(1)
    assert falls.float().mean() > 0.9
    assert correlation(reader(other), truth) > 0.8


def test_pairs_are_of_one_chain_the_better_picture_first():
    pictures = [Picture("", *one, "", "") for one in [(7, 2), (1, 0), (7, 0), (7, 1), (1, 4)]]
    pairs, clean, last = pairs_of(pictures)
    assert sorted(pairs.tolist()) == [[1, 4], [2, 0], [2, 3], [3, 0]]
    assert sorted(clean.tolist()) == [1, 2]
    assert sorted(last.tolist()) == [0, 4]


def chained(seed: int, chains: int = 300) -> tuple[torch.Tensor, list[Picture]]:
    """Pictures of chains. The numbers of DAMAGE fall along each chain; number 20 tells contents apart alone."""
    x = drawn(seed, chains * LENGTH, INPUTS)
    pictures = []
    for i in range(len(x)):
        chain, place = divmod(i, LENGTH)
        x[i, DAMAGE] = -place + x[i, DAMAGE]
        x[i, 20] = 5 * (chain % 7)
        pictures.append(Picture(f"{i}.png", chain, place, "mixed", ""))
    return x, pictures


def test_a_reader_of_ranks_finds_the_direction_of_damage(short):
    reader = LinearReader(INPUTS)
    x, pictures = chained(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    fit_ranks(reader, x[order], [pictures[i] for i in order], steps=300, decay=10.0)
    other, others = chained(1)
    found = reader(other).view(-1, LENGTH)
    assert (found.diff(dim=1) < 0).float().mean() > 0.9
    # All chains share one scale: an undamaged picture is above the last ones of all others.
    assert (found[:, 0].min() > found[:, -1]).float().mean() > 0.9
    damage = reader.weights[DAMAGE]
    rest = torch.cat([reader.weights[: DAMAGE.start], reader.weights[DAMAGE.stop :]])
    assert damage.min() > 1.5 * rest.abs().max()
    assert correlation(reader(other), torch.tensor([-float(p.place) for p in others])) > 0.9


def test_familiarity_is_about_1_on_its_set_and_grows_away_from_it():
    mixing = drawn(9, 30, INPUTS)
    x = drawn(0, 500, 30) @ mixing + 7
    distance = Distance(INPUTS, 12)
    fit_distance(distance, x, 12)
    assert distance(x).mean().item() == pytest.approx(1, abs=0.1)
    fresh = drawn(1, 500, 30) @ mixing + 7
    assert distance(fresh).mean().item() == pytest.approx(1, abs=0.1)
    means = [
        distance(step * x.std(0) * drawn(3, INPUTS).sign() + x).mean() for step in (0, 0.5, 1, 2)
    ]
    assert means == sorted(means)
    assert means[-1] > 1.5


def test_no_axis_is_trusted_to_be_as_weak_as_it_looks():
    """A number that never changed in the set must not make one image of another kind infinitely far."""
    x = drawn(0, 200, INPUTS)
    x[:, 5] = x[:, 4]
    distance = Distance(INPUTS, INPUTS)
    fit_distance(distance, x, INPUTS)
    strange = x.clone()
    strange[:, 5] += 1
    assert distance(strange).max() < 3
    assert distance.whitening.abs().max() < 10


WIDTHS = (*STAGE_WIDTHS, PIXEL_WIDTH, SCENE_WIDTH + 1, 3, *STAGE_WIDTHS)


def parts_of(seed: int, quality: torch.Tensor) -> list[torch.Tensor]:
    """Statistics of images in each of which quality can be read somewhere."""
    parts = [drawn(seed + i, len(quality), width) for i, width in enumerate(WIDTHS)]
    for part in parts:
        part[:, : part.shape[1] // 2] += 1.5 * quality[:, None]
    return parts


@pytest.fixture(scope="module")
def fitted():
    """Readers fitted on few images, the held-out ones with their MOS, and what `fit_readers` returned."""
    patch = pytest.MonkeyPatch()
    patch.setattr(fitting, "STEPS", 25)
    patch.setattr(fitting, "TOWER_STEPS", 60)
    patch.setattr(fitting, "SCENE_STEPS", 60)
    quality = [drawn(100 + i, n) for i, n in enumerate((90, 60))]
    mos = 3 + torch.tanh(quality[1]) + 0.2 * drawn(5, 60)
    pictures = [Picture(f"{i}.png", i // LENGTH, i % LENGTH, "mixed", "") for i in range(160)]
    damage = torch.tensor([-float(p.place) for p in pictures])
    readers = Readers()
    rated, held_out, chains = (
        parts_of(seed, q) for seed, q in ((0, quality[0]), (20, quality[1]), (40, damage))
    )
    found = fit_readers(readers, rated, quality[0], held_out, mos, chains, pictures)
    patch.undo()
    return readers, rated, held_out, mos, found


def test_all_readers_are_fitted_and_their_agreement_is_told(fitted):
    readers, _, held_out, mos, found = fitted
    assert list(found) == ["home", *NAMES, "quality"]
    assert min(found[name] for name in ("home", "tower", "native", "scene", "quality")) > 0.5
    assert found["quality"] == pytest.approx(correlation(readers(held_out)[:, 0], mos))
    assert all(buffer.isfinite().all() for buffer in readers.buffers())


def test_opinions_are_in_standard_deviations_over_the_rated_photos(fitted):
    readers, rated, *_ = fitted
    opinions = readers.opinions(rated)
    torch.testing.assert_close(opinions.mean(0), torch.zeros(5), atol=0.05, rtol=0)
    torch.testing.assert_close(opinions.std(0), torch.ones(5), atol=0.05, rtol=0)
    assert readers.shares.tolist() == pytest.approx(SHARES)


def test_quality_is_on_the_scale_of_the_held_out_ratings(fitted):
    readers, _, held_out, mos, _ = fitted
    quality, _ = readers(held_out).T
    assert quality.mean().item() == pytest.approx(mos.mean().item(), abs=0.1)
    assert (quality - mos).abs().mean() < 0.8 * (mos - mos.mean()).abs().mean()


def test_the_error_to_expect_is_not_negative_and_of_the_right_size(fitted):
    readers, _, held_out, mos, _ = fitted
    assert (readers.error >= 0).all()
    assert readers.error.sum() > 0
    quality, error = readers(held_out).T
    spread = (quality - mos).abs().mean() * (torch.pi / 2) ** 0.5
    assert error.mean().item() == pytest.approx(spread.item(), rel=0.1)


def test_joining_again_changes_nothing(fitted):
    readers, _, held_out, mos, _ = fitted
    before = {name: value.clone() for name, value in readers.named_buffers()}
    with torch.no_grad():
        join(readers, held_out, mos)
    for name, value in readers.named_buffers():
        torch.testing.assert_close(value, before[name], msg=name)


def test_ratings_at_the_ends_of_the_scale_are_taken(fitted):
    """1 and 5 have no finite place on the line before it is bent."""
    readers, _, held_out, mos, _ = fitted
    readers = copy.deepcopy(readers)
    extreme = mos.clone()
    extreme[mos > mos.median()] = 5
    extreme[mos <= mos.median()] = 1
    with torch.no_grad():
        join(readers, held_out, extreme)
        quality, error = readers(held_out).T
    assert quality.isfinite().all()
    assert quality.std() > 1
    assert (error >= 0).all()
