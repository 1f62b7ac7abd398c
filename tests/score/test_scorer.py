"""With the embedded model, which answers readably."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from conftest import picture
from visualquality import Scorer, UserError
from visualquality.coefficients import srcc
from visualquality.data.distort import distort
from visualquality.data.images import open_image
from visualquality.score import scorer as module
from visualquality.score.settings import ScoreSettings


@pytest.fixture(scope="module")
def scorer():
    return Scorer("nano", samples=3, seed=1)


def drawing(scorer, **options) -> Scorer:
    """One whose scores are the numbers that were drawn: equal ones are equal to the bit."""
    return Scorer(scorer.vlm, reading="strict", **options)


@pytest.fixture(scope="module")
def bad_photos() -> list[Image.Image]:
    """So bad that of some of them nano draws 1.00 alone."""
    import skimage

    bad = []
    for name in ("astronaut.png", "coffee.png", "rocket.jpg", "chelsea.png"):
        photo = open_image(f"{skimage.__path__[0]}/data/{name}").resize((256, 192))
        for family in ("gaussian_blur", "pixelate"):
            bad.append(distort(distort(photo, family, 5, 0), "jpeg", 5, 0))
    return bad


def test_a_rating_holds_what_it_promises(scorer):
    rating = scorer(picture(0, (160, 128)))
    assert 1 <= rating.score <= 5
    assert rating.score == pytest.approx(
        np.mean([s for s in rating.samples if s is not None]), abs=1e-4
    )
    assert len(rating.samples) == 3
    assert rating.reasoning
    assert rating.problem is None


def test_same_image_same_seed_same_score_in_any_batch(scorer, tmp_path):
    scorer = drawing(scorer, samples=3, seed=1)
    images = [
        picture(i, size)
        for i, size in enumerate([(160, 128), (64, 300), (224, 224), (100, 90), (96, 40)])
    ]
    path = tmp_path / "saved.png"
    images[2].save(path)
    alone = scorer(str(path))
    array = scorer(np.asarray(images[2]))
    together = scorer(images)
    assert alone.samples == array.samples == together[2].samples
    assert alone.reasoning == together[2].reasoning
    assert drawing(scorer, samples=2, seed=1)(images[2]).samples == alone.samples[:2]
    assert drawing(scorer, samples=3, seed=2)(images[2]).samples != alone.samples


def test_a_bad_image_is_a_problem_and_the_others_are_scored(scorer, tmp_path):
    (tmp_path / "not.jpg").write_text("hello")
    good = picture(1, (96, 96))
    ratings = scorer([good, str(tmp_path / "not.jpg"), str(tmp_path / "absent.png"), good])
    assert [r.score is None for r in ratings] == [False, True, True, False]
    assert "not.jpg" in ratings[1].problem
    assert "absent.png" in ratings[2].problem
    assert ratings[0].samples == ratings[3].samples


def test_direct_mode_answers_without_words():
    rating = Scorer("nano", mode="direct", samples=2)(picture(0, (128, 128)))
    assert rating.mode == "direct"
    assert rating.reasoning is None


def test_worse_pictures_score_worse(scorer):
    """On a photo-like picture, a strong distortion of four kinds is seen."""
    import skimage

    photo = open_image(f"{skimage.__path__[0]}/data/astronaut.png")
    worse = [
        distort(photo, family, 5, 0)
        for family in ("gaussian_blur", "jpeg", "white_noise", "pixelate")
    ]
    clean, *scores = [r.score for r in scorer([photo, *worse])]
    assert all(score < clean - 0.5 for score in scores)


def test_an_unreadable_answer_is_a_problem_not_a_number(model_folder):
    """An untrained model babbles: no score comes of it."""
    for reading in ("strict", "expected"):
        untrained = Scorer(str(model_folder("nano")), samples=4, max_new_tokens=8, reading=reading)
        rating = untrained(picture(0))
        assert rating.score is None
        assert rating.samples == (None,) * 4
        assert rating.problem.startswith("no readable answer in 4 samples")


def test_settings_tell_runs_apart(scorer):
    header = scorer.settings()
    assert header["model"] == "nano"
    assert {"weights", "prompt", "mode", "samples", "seed", "version"} <= header.keys()
    assert header != Scorer("nano", samples=3, seed=2).settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "guess"},
        {"samples": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"max_new_tokens": -1},
        {"max_pixels": 100},
        {"reading": "guessed"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError):
        Scorer("nano", **wrong)


def test_odd_images_have_the_scores_of_their_rgb_pixels(scorer, tmp_path):
    odd = [
        Image.new("RGB", (1, 1)),
        Image.new("L", (40, 2000), 128),
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)),
        picture(0).filter(ImageFilter.GaussianBlur(9)).convert("CMYK"),
        np.zeros((30, 30), dtype=np.uint8),
    ]
    expecting = Scorer(scorer.vlm, mode="expect")
    for number, (image, rating) in enumerate(zip(odd, expecting(odd), strict=True)):
        path = tmp_path / f"{number}.png"
        open_image(image).save(path)
        assert rating.score == expecting(str(path)).score, image
    # The pixels do matter; the two black ones become the same tile.
    assert len({rating.score for rating in expecting(odd)}) == len(odd) - 1


def test_auto_samples_are_the_first_ones_of_many_and_stop_when_settled(scorer):
    images = [picture(i, (96, 64)) for i in range(3)]
    many = list(drawing(scorer, samples=16).rate(images))
    for tolerance in (1e-6, 0.05, 10.0):
        few = drawing(scorer, samples="auto", tolerance=tolerance).rate(images)
        for rating, whole in zip(few, many, strict=True):
            n = len(rating.samples)
            assert n in (2, 4, 8, 16)
            assert rating.samples == whole.samples[:n]
            for stop in (2, 4, 8):  # not later than at the first that is enough
                readable = [s for s in whole.samples[:stop] if s is not None]
                enough = (
                    len(readable) > 1
                    and np.std(readable, ddof=1) / np.sqrt(len(readable)) < tolerance
                )
                assert not (enough and n > stop)
                assert n != stop or enough
    assert {
        len(r.samples) for r in Scorer(scorer.vlm, samples="auto", tolerance=10.0).rate(images)
    } == {2}
    with pytest.raises(UserError, match="samples"):
        Scorer(scorer.vlm, samples="many")


def test_expected_scores_are_the_same_in_any_batch(scorer):
    """Prompts padded by others, another number of samples, and the number of rows that go through at a time."""
    sizes = [(160, 128), (64, 200), (96, 40)]
    images = [picture(i, size) for i, size in enumerate(sizes)]
    together = scorer(images)
    for options in ({}, {"samples": 6, "batch": 1}, {"samples": "auto", "tolerance": 1e-6}):
        other = Scorer(scorer.vlm, **({"samples": 3, "seed": 1} | options))
        for image, rating in zip(images, together, strict=True):
            alone = other(image)
            # A rounding of the fourth decimal may fall to the other side.
            both = min(len(alone.samples), 3)
            assert alone.samples[:both] == pytest.approx(rating.samples[:both], abs=1.01e-4)
            if len(alone.samples) == 3:
                assert alone.std == pytest.approx(rating.std, abs=1e-4)
                assert alone.reasoning == rating.reasoning


def test_expected_scores_keep_the_order_where_drawn_ones_tie(scorer, bad_photos):
    drawn = drawing(scorer, samples=6)(bad_photos)
    tied = [i for i, rating in enumerate(drawn) if (rating.score, rating.std) == (1.0, 0.0)]
    assert len(tied) >= 3
    plain = [rating.score for rating in Scorer(scorer.vlm, mode="expect")(bad_photos)]
    for samples in (1, 6):
        expected = Scorer(scorer.vlm, samples=samples)(bad_photos)
        assert min(rating.score for rating in expected) > 1.01
        assert min(rating.std for rating in expected) > 0.05
        scores = [expected[i].score for i in tied]
        assert len(set(scores)) == len(tied)
        # Not just any order: the mode without words has nearly the same.
        assert srcc(scores, [plain[i] for i in tied]) > 0.7


def test_expected_samples_stop_when_their_mean_is_settled(scorer):
    images = [picture(i, (96, 64)) for i in range(3)]
    for tolerance in (0.005, 0.05):
        chosen = Scorer(scorer.vlm, samples="auto", tolerance=tolerance)
        for rating in chosen.rate(images):
            for n in (2, 4, 8, 16):
                error = np.std(rating.samples[:n], ddof=1) / np.sqrt(n)
                assert (error < tolerance) == (n >= len(rating.samples)) or n == 16


def test_what_cannot_be_read_has_no_expected_score(scorer, monkeypatch):
    """Of six answers, three are cut off before their end: they stay None, and the others are as they were."""
    image = picture(2, (96, 64))
    whole = Scorer(scorer.vlm, samples=6)(image)
    given = iter(range(6))
    decoded = module.Scorer._response

    def cut(self, completion):
        if next(given) % 2:
            completion = replace(completion, ids=completion.ids[:-4], truncated=True)
        return decoded(self, completion)

    monkeypatch.setattr(module.Scorer, "_response", cut)
    rating = Scorer(scorer.vlm, samples=6)(image)
    assert rating.samples[1::2] == (None, None, None)
    assert rating.samples[::2] == pytest.approx(whole.samples[::2], abs=1.01e-4)
    assert rating.score == pytest.approx(np.mean(rating.samples[::2]), abs=1e-4)


def test_direct_and_auto_take_expected_scores_too(scorer):
    images = [picture(i, (96, 64)) for i in range(2)]
    direct = Scorer(scorer.vlm, mode="direct", samples=2)(images)
    expect = Scorer(scorer.vlm, mode="expect")(images)
    # Nothing but `<answer>` stands before the number, as in the mode expect.
    for one, other in zip(direct, expect, strict=True):
        assert one.samples == pytest.approx([other.score] * 2, abs=1.01e-4)
        assert one.std == pytest.approx(other.std, abs=1e-4)
    reasoned = Scorer(scorer.vlm, samples=2)(images)
    auto = Scorer(scorer.vlm, mode="auto", samples=2, doubt=0.0)(images)
    assert [r.mode for r in auto] == ["reason"] * 2
    for one, other in zip(auto, reasoned, strict=True):
        assert one.samples == pytest.approx(other.samples, abs=1.01e-4)


def test_how_answers_are_read_is_recorded_where_it_matters(scorer, model_folder):
    for mode in ("reason", "direct", "auto"):
        header = Scorer(scorer.vlm, mode=mode).settings()
        assert header["reading"] == "expected"
        # Drawn is not recorded, as before there was this option. The calibration that comes with nano is not for it.
        drawn = drawing(scorer, mode=mode).settings()
        own = ("reading", "calibration")
        assert drawn == {key: value for key, value in header.items() if key not in own}
    assert "reading" not in Scorer(scorer.vlm, mode="expect").settings()
    assert Scorer(scorer.vlm, mode="direct", reading="authors").settings()["reading"] == "authors"
    other = str(model_folder("nano"))
    assert "reading" not in Scorer(other).settings()
    assert Scorer(other, reading="expected").settings()["reading"] == "expected"


def test_images_of_many_sizes_come_back_in_their_order(scorer, tmp_path):
    sizes = [(64, 64), (300, 64), (64, 64), (500, 300), (96, 64), (64, 64), (200, 200)]
    images = [picture(i, size) for i, size in enumerate(sizes)]
    (tmp_path / "bad.png").write_text("x")
    mixed = [*images[:2], str(tmp_path / "bad.png"), *images[2:]]
    few = list(Scorer(scorer.vlm, mode="expect", batch=2).rate(mixed))
    one = [Scorer(scorer.vlm, mode="expect", batch=1)(image) for image in mixed]
    assert few[2].score is None
    for a, b in zip(few, one, strict=True):
        assert (a.score is None) == (b.score is None)
        assert a.score is None or abs(a.score - b.score) < 1e-3


def test_options_beside_settings_are_refused():
    with pytest.raises(UserError, match="both settings and mode are given"):
        Scorer("nano", ScoreSettings(), mode="expect")
