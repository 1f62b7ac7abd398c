"""What is done to a photo, and the shares of steps, pairs and changes that are computed of its scores."""

import numpy as np
import pytest
from monotone import (
    Case,
    changes,
    falls,
    family_row,
    images,
    in_order,
    levels_of,
    mean_with_interval,
    measure,
    rank_correlations,
    rate,
)
from monotone_table import verdicts
from monotone_variants import BORDERS, ORIGINAL, Variant, bordered, families_of, variants
from PIL import Image
from rich.console import Console

from conftest import picture
from visualquality.data.distortions import FAMILIES
from visualquality.score.rating import Rating

NAN = np.nan
FALLING = [5.0, 4, 3, 2.5, 2, 1]
ONE_RISE = [5.0, 4, 4.5, 3, 2, 1]
ONE_STAY = [5.0, 4, 4, 3, 2, 1]
RISING = FALLING[::-1]


class BrightnessRater:
    """Rates an image by its mean brightness; fails after `limit` images, as a run that is killed."""

    def __init__(self, limit: int = 10**9):
        self.limit, self.rated = limit, 0

    def settings(self):
        return {"model": "brightness", "weights": "0"}

    def rate(self, pictures):
        for image in pictures:
            if self.rated == self.limit:
                raise KeyboardInterrupt
            self.rated += 1
            score = round(1 + 4 * float(np.asarray(image).mean()) / 255, 6)
            yield Rating("image", score, None, (score,), None, None, "brightness", "direct", 0, 0.0)


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    return paths


def cases_of(photos, families):
    return [Case(photo, variant) for photo in photos for variant in variants(families)]


def test_a_step_falls_only_where_the_score_is_lower():
    found = falls(np.array([FALLING, ONE_RISE, ONE_STAY, RISING]))
    assert found.sum(axis=1).tolist() == [5, 4, 4, 0]
    assert found[1].tolist() == [1, 0, 1, 1, 1]


def test_steps_beside_a_missing_score_count_neither_way():
    found = falls(np.array([[5, NAN, 3, 2, 2, 1.0]]))
    np.testing.assert_array_equal(found, [[NAN, NAN, 1, 0, 1]])


def test_pairs_are_of_all_levels_and_agree_with_a_naive_count():
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(4, 6))
    naive = [
        sum(row[i] > row[j] for i in range(6) for j in range(i + 1, 6)) for row in levels.tolist()
    ]
    assert in_order(levels).shape == (4, 15)
    assert in_order(levels).sum(axis=1).tolist() == naive
    # A pair with a missing score is none: 5 of 15.
    assert np.isnan(in_order(np.array([[NAN, 4, 3, 2.5, 2, 1]]))).sum() == 5


def test_rank_correlation_is_1_in_perfect_order_and_undefined_for_equal_scores():
    found = rank_correlations(np.array([FALLING, RISING, [3.0] * 6]))
    np.testing.assert_allclose(found, [1, -1, NAN])
    row = family_row("jpeg", np.array([FALLING, [3.0] * 6]))
    assert row["srcc"] == pytest.approx(1)
    assert row["srcc_undefined"] == 1
    assert row["falling"] == 0.5
    assert row["by_step"] == [0.5] * 5


def test_only_photos_that_have_a_family_count_for_it():
    jpeg = {Variant("jpeg", level): FALLING[level] for level in range(1, 6)}
    found = levels_of([{ORIGINAL: 5.0, **jpeg}, {ORIGINAL: 4.0}], "jpeg")
    assert found.tolist() == [FALLING]


def test_changes_are_upwards_and_missing_where_a_score_is():
    quality = Variant("recoded", 90)
    scores = [{ORIGINAL: 4.0, quality: 4.5}, {ORIGINAL: NAN, quality: 4.0}]
    np.testing.assert_array_equal(changes(scores, quality), [0.5, NAN])


def test_the_interval_is_over_photos_and_every_value_counts_alike():
    found = mean_with_interval([np.array([1.0, 1, 1]), np.array([0.0]), np.array([NAN])])
    assert (found["photos"], found["n"], found["value"]) == (2, 4, 0.75)
    # Resamples of two photos have one of them alone, or both.
    assert (found["low"], found["high"]) == (0, 1)
    assert mean_with_interval([np.array([NAN])])["value"] is None


def test_what_should_hold_is_said_to_be_missed_where_it_does_not():
    own = dict.fromkeys(variants(["jpeg"]), 3.0)
    own |= {Variant("jpeg", level): 3.0 - level / 10 for level in range(1, 6)}
    good = " ".join(verdicts(measure([own])))
    assert "100.0% [100.0%, 100.0%] of 5 steps" in good
    assert "missed" not in good
    worse = own | {Variant("jpeg", 3): 2.95, Variant("border", "white"): 1.0}
    bad = verdicts(measure([worse]))
    assert "80.0%" in bad[0]
    assert sum("missed" in sentence for sentence in bad) == 2


@pytest.mark.parametrize("kind", BORDERS)
def test_a_border_is_plain_and_leaves_the_photo_as_it_is(kind):
    photo = picture(0, (100, 50))
    found = bordered(photo, kind)
    sizes = {"white": (120, 60), "black": (120, 60), "letterbox": (100, 62)}
    sizes |= {"pillarbox": (124, 50), "frame": (100, 50)}
    assert found.size == sizes[kind]
    # The frame lies on the photo, the other borders around it.
    cut = 4 if kind == "frame" else 0
    left, top = (found.width - photo.width) // 2, (found.height - photo.height) // 2
    inner = (left + cut, top + cut, left + photo.width - cut, top + photo.height - cut)
    expected = photo.crop((cut, cut, photo.width - cut, photo.height - cut))
    assert found.crop(inner).tobytes() == expected.tobytes()
    border = np.ones((found.height, found.width), dtype=bool)
    border[inner[1] : inner[3], inner[0] : inner[2]] = False
    assert set(np.asarray(found)[border].ravel()) == {255 if kind == "white" else 0}


def test_families_come_in_turn_and_equally_often():
    assert families_of(7, None) == list(FAMILIES)
    counts = dict.fromkeys(FAMILIES, 0)
    for index in range(13):
        own = families_of(index, 4)
        assert len(set(own)) == 4
        for family in own:
            counts[family] += 1
    assert set(counts.values()) == {2}


def test_variants_start_with_the_photo_and_stronger_levels_are_stronger(photos):
    cases = cases_of(photos[:1], ["darken"])
    made = list(images(cases))
    with Image.open(photos[0]) as photo:
        assert made[0].tobytes() == photo.convert("RGB").tobytes()
    brightness = [np.asarray(image).mean() for image in made[:6]]
    assert (np.diff(brightness) < 0).all()
    assert len(made) == 1 + 5 + 3 + len(BORDERS)


def test_noise_is_the_same_wherever_a_photo_lies_and_differs_between_photos(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(0).save(tmp_path / name)
    noisy = [
        next(images([Case(tmp_path / name, Variant("white_noise", 5))])).tobytes()
        for name in ("a/1.png", "b/1.png", "b/2.png")
    ]
    assert noisy[0] == noisy[1] != noisy[2]


def test_a_run_that_was_stopped_goes_on_to_the_same_scores(photos, tmp_path):
    cases, console = cases_of(photos, ["darken", "jpeg"]), Console(quiet=True)
    whole = rate(BrightnessRater(), cases, tmp_path / "whole.jsonl", console)
    with pytest.raises(KeyboardInterrupt):
        rate(BrightnessRater(limit=9), cases, tmp_path / "journal.jsonl", console)
    rater = BrightnessRater()
    assert rate(rater, cases, tmp_path / "journal.jsonl", console) == whole
    assert rater.rated == len(cases) - 9
    assert [len(own) for own in whole] == [len(variants(["darken", "jpeg"]))] * 2
    # Darker images have a lower score from this rater, whatever else.
    assert falls(levels_of(whole, "darken")).all()
