"""A calibration gives intervals to the ratings that it is for and to no others, and is found where it is kept."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import picture
from visualquality import Rating, Scorer, UserError
from visualquality.models.load import EMBEDDED
from visualquality.score.calibration import (
    FILE,
    LEAST_IMAGES,
    TIED_TO,
    Calibration,
    find_calibration,
    fit_calibration,
    keep_calibration,
    least_images,
    read_calibrations,
    tied,
    user_file,
    why_no_interval,
    with_intervals,
)
from visualquality.score.raters import make_rater
from visualquality.score.rating import INTERVAL
from visualquality.score.settings import score_settings

SETTINGS = {
    "model": "m",
    "weights": "abc",
    "prompt": "paper",
    "mode": "reason",
    "samples": 6,
    "seed": 0,
    "temperature": 0.4,
    "max_new_tokens": 512,
    "max_pixels": None,
    "version": "0.1.0",
}
RATING = Rating("a.png", 3.2, 0.2, (3.0, 3.4), "sharp", None, "m", "reason", 0, 0.5, "paper")


def fitted(
    settings: dict[str, Any] = SETTINGS, n: int = 200, seed: int = 0, **change
) -> Calibration:
    rng = np.random.default_rng(seed)
    scores, stds = rng.uniform(1, 5, n), rng.uniform(0.1, 0.4, n)
    mos = (1 + 0.7 * scores + rng.normal(0, 0.3, n)).clip(1, 5)
    given = {
        "scores": scores.tolist(),
        "stds": stds.tolist(),
        "mos": mos.tolist(),
        "names": [f"{i}.png" for i in range(n)],
        "coverage": 0.9,
        "settings": settings,
        "dataset": "lab",
        "mos_range": (0, 100),
    }
    return fit_calibration(**{**given, **change})


def find(settings: dict[str, Any], **places) -> Calibration | None:
    return find_calibration(lambda: settings, **{"file": None, **places})


@pytest.fixture
def data_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share"


def test_a_rating_gets_an_interval_and_is_otherwise_the_same():
    made = fitted()
    rating = made.apply(RATING)
    assert 1 <= rating.low < rating.expected_mos < rating.high <= 5
    assert rating.coverage == 0.9
    assert rating.expected_mos == pytest.approx(1 + 0.7 * 3.2, abs=0.2)
    for field in fields(Rating):
        if field.name not in INTERVAL:
            assert getattr(rating, field.name) == getattr(RATING, field.name)
    failed = Rating.failed("b.png", "not an image", model="m", mode="reason", seed=0)
    assert list(with_intervals(iter([RATING, failed]), made)) == [rating, failed]
    assert list(with_intervals(iter([RATING, failed]), None)) == [RATING, failed]
    assert made.apply(replace(RATING, std=None)).low is not None
    assert rating.without_interval(image="c") == replace(RATING, image="c")


@pytest.mark.parametrize("name", TIED_TO)
def test_under_another_setting_there_is_no_interval(name, data_home):
    made = fitted()
    keep_calibration(user_file("abc"), made)
    keep_calibration(user_file("other"), made)
    assert find(SETTINGS) == made
    assert find({**SETTINGS, name: "other"}) is None
    # A setting that the calibration does not know is one that came later.
    assert find({**SETTINGS, "reading": "strict"}) is None


def test_seeds_and_names_do_not_matter(data_home):
    keep_calibration(user_file("abc"), fitted())
    assert find({**SETTINGS, "seed": 9, "model": "elsewhere", "version": "9"}) == fitted()
    assert tied({**SETTINGS, "seed": 9}) == tied(SETTINGS)
    # pyiqa has one version for all of its metrics.
    musiq, unique = ({**SETTINGS, "model": f"pyiqa:{name}"} for name in ("musiq", "unique"))
    assert tied(musiq) != tied(unique)


def test_a_file_gives_back_what_it_got_and_holds_one_for_each_way_of_scoring(tmp_path):
    path = tmp_path / "new" / "c.json"
    reason, expect = fitted(), fitted({**SETTINGS, "mode": "expect"})
    keep_calibration(path, reason)
    keep_calibration(path, expect)
    assert read_calibrations(path) == (reason, expect)
    again = fitted(seed=1)
    keep_calibration(path, again)
    assert read_calibrations(path) == (expect, again)
    assert again.digest == read_calibrations(path)[1].digest != reason.digest
    assert read_calibrations(path)[1].apply(RATING) == again.apply(RATING)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:100], "is not a file of calibrations"),
        (lambda text: "[]", "is not a file of calibrations"),
        (lambda text: "{}", "calibrations: this field is missing"),
        (lambda text: text.replace('"quantile"', '"quantil"'), "quantil: there is no such field"),
        (lambda text: text.replace('"coverage": 0.9', '"coverage": 2'), "coverage: .*less than 1"),
        (lambda text: text.replace('"std_slope": ', '"std_slope": NaN, "x": '), "std_slope"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, damage, words):
    path = tmp_path / "c.json"
    keep_calibration(path, fitted())
    path.write_text(damage(path.read_text()))
    for refused in (
        lambda: read_calibrations(path),
        lambda: find(SETTINGS, file=path),
        lambda: keep_calibration(path, fitted()),
    ):
        with pytest.raises(UserError, match=f"c.json.*{words}.*make it again") as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no calibration .*absent.json"):
        find(SETTINGS, file=tmp_path / "absent.json")


def test_where_a_calibration_is_looked_for(tmp_path, data_home):
    made = {name: fitted(seed=i) for i, name in enumerate(("file", "folder", "user", "packaged"))}
    folder, packaged = tmp_path / "model", tmp_path / "package"
    for path, name in (
        (tmp_path / "c.json", "file"),
        (folder / FILE, "folder"),
        (user_file("abc"), "user"),
        (packaged / FILE, "packaged"),
    ):
        keep_calibration(path, made[name])
    assert data_home in user_file("abc").parents
    assert find(SETTINGS, file=tmp_path / "c.json", folder=folder) == made["file"]
    assert find(SETTINGS, folder=folder) == made["folder"]
    assert find(SETTINGS, packaged=packaged) == made["user"]  # one's own goes before it
    user_file("abc").unlink()
    assert find(SETTINGS, packaged=packaged) == made["packaged"]
    # The file that is named is the only one.
    assert find({**SETTINGS, "mode": "direct"}, file=tmp_path / "c.json", folder=folder) is None


def test_without_any_file_the_weights_are_not_read(data_home):
    def never() -> dict[str, Any]:
        raise AssertionError("the settings were asked for")

    assert find_calibration(never, file=None, folder=data_home, packaged=data_home) is None


@pytest.mark.parametrize("given", ["", "relative/share"])
def test_the_data_folder_without_a_variable_is_in_the_home_folder(monkeypatch, tmp_path, given):
    monkeypatch.setenv("XDG_DATA_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    place = tmp_path / ".local" / "share" / "visualquality" / "calibrations" / "abc.json"
    assert user_file("abc") == place


def test_why_a_file_does_not_fit_names_the_settings(tmp_path):
    path = tmp_path / "c.json"
    keep_calibration(path, fitted({**SETTINGS, "mode": "expect", "samples": None}))
    keep_calibration(path, fitted())
    found = why_no_interval(path, {**SETTINGS, "samples": 3})
    assert "samples 6 and not 3" in found
    assert "mode" not in found  # the nearest of the two counts
    engine = {key: value for key, value in SETTINGS.items() if key != "weights"}
    assert "does not say which weights" in why_no_interval(path, engine)


def test_the_order_of_the_rows_does_not_matter_and_images_without_a_score_are_left_out():
    rng = np.random.default_rng(5)
    n = 120
    scores = rng.uniform(1, 5, n).tolist()
    mos = (1 + 0.7 * np.array(scores) + rng.normal(0, 0.3, n)).clip(1, 5).tolist()
    names = [f"{i}.png" for i in range(n)]
    order = rng.permutation(n)
    plain = fitted(n=n, scores=scores, stds=[None] * n, mos=mos, names=names)
    turned = fitted(
        n=n,
        scores=[scores[i] for i in order] + [None],
        stds=[None] * (n + 1),
        mos=[mos[i] for i in order] + [1.0],
        names=[names[i] for i in order] + ["unread.png"],
    )
    assert turned == plain
    assert plain.n == n


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": LEAST_IMAGES - 1}, "59 images of lab .* needs at least 60"),
        ({"n": 200, "coverage": 0.99}, "coverage of 0.99 needs at least"),
        ({"coverage": 90}, "coverage is 90: give a share"),
        ({"coverage": 0}, "coverage is 0: give a share"),
        ({"mos": [3.0] * 199 + [5.5]}, "MOS 112.5 of 199.png is outside 0 to 100"),
        ({"mos": [0.99] + [3.0] * 199}, "MOS -0.25 of 0.png is outside 0 to 100"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        fitted(**change)


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95, 0.99])
def test_the_least_number_of_images_is_enough(coverage):
    made = fitted(n=least_images(coverage), coverage=coverage)
    assert 0 < made.conformal.quantile < np.inf


def test_scores_are_the_same_with_and_without_a_calibration(model_folder, tmp_path):
    image = picture(0, (96, 64))
    plain = Scorer(str(model_folder("nano")), mode="expect", device="cpu")
    rating = plain(image)
    assert [getattr(rating, name) for name in INTERVAL] == [None] * 4
    keep_calibration(tmp_path / "c.json", fitted(plain.settings()))
    options = {"mode": "expect", "calibration": tmp_path / "c.json"}
    other = Scorer(plain.vlm, **options)
    with_interval = other(image)
    assert with_interval.low < with_interval.high
    assert with_interval.without_interval(seconds=0) == replace(rating, seconds=0)
    # A run that is continued must not go on with other intervals.
    (made,) = read_calibrations(tmp_path / "c.json")
    assert other.settings() == plain.settings() | {"calibration": made.digest}
    assert [r.low for r in other([image, image])] == [with_interval.low] * 2
    direct = Scorer(plain.vlm, **options | {"mode": "direct", "samples": 1})(image)
    assert direct.low is None


def test_a_models_folder_holds_its_calibration(model_folder, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder("nano").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    plain = Scorer(str(folder), mode="expect", device="cpu")
    assert plain.calibration is None
    keep_calibration(folder / FILE, fitted(plain.settings()))
    assert Scorer(str(folder), mode="expect", device="cpu")(picture(1)).coverage == 0.9


def test_the_packages_own_calibration_is_for_the_weights_in_the_package():
    """There is none while the weights change; one for other weights would be dead."""
    if (EMBEDDED / FILE).exists():
        weights = Scorer("nano").settings()["weights"]
        assert {c.settings["weights"] for c in read_calibrations(EMBEDDED / FILE)} == {weights}


def test_a_classic_is_calibrated_like_a_model(tmp_path):
    plain = make_rater("niqe", score_settings())
    keep_calibration(tmp_path / "c.json", fitted(plain.settings(), stds=[None] * 200))
    rater = make_rater("niqe", score_settings(calibration=tmp_path / "c.json"))
    (rating,) = rater.rate([picture(0, (120, 120))])
    assert rating.coverage == 0.9
    assert json.dumps(rating.to_dict())


@pytest.mark.parametrize("mode", ["expect", "reason"])
def test_nano_comes_with_a_calibration_for_its_own_ways_of_scoring(mode, data_home):
    scorer = Scorer("nano", mode=mode, device="cpu")
    rating = scorer(picture(0, (96, 64)))
    assert 1 <= rating.low < rating.expected_mos < rating.high <= 5
    assert rating.coverage == 0.9
    # Of other settings it says nothing.
    other = Scorer(scorer.vlm, mode=mode, max_pixels=256 * 256)
    assert other(picture(0, (96, 64))).low is None
