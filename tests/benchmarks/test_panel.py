"""The sets of the panel, what is measured on them, and the file of an earlier version's scores."""

import csv
from argparse import Namespace
from io import StringIO

import pytest
from openpyxl import Workbook
from panel import chosen_sets, coverage, earlier_column, measure, rate, results, set_words
from panel_sets import (
    RatedSet,
    given_set,
    h265,
    image_names,
    pcuid,
    rated_set,
    read_earlier,
    with_homes,
    write_earlier,
)
from panel_table import Coverage, Measured, mean_away, notes, panel_table
from rich.console import Console

from conftest import picture
from visualquality.data.row import Row
from visualquality.errors import UserError
from visualquality.score.rating import Rating


def rows_of(folder, count, scale=1.0):
    """Rows of `count` images that are not there, the first one the worst."""
    return [Row(folder / f"{i}.png", i * scale, "set") for i in range(count)]


def rating(image, score, **more):
    found = Rating(image, score, None, (score,), None, None, "m", "direct", 0, 0.0)
    for name, value in more.items():
        object.__setattr__(found, name, value)
    return found


class CountingRater:
    """Gives the images the scores 1, 2, ... in the order in which they come."""

    def __init__(self):
        self.rated = []

    def settings(self):
        return {"model": "counting", "weights": "0"}

    def rate(self, images):
        for image in images:
            self.rated.append(image)
            yield rating(str(image), float(len(self.rated)))


def clone_of_pcuid(folder, files):
    book = Workbook()
    for line in (("image_id", "MOS"), (1, 58.5), (2, 63.0), (101, 71.25), (300, 20.0)):
        book.active.append(line)
    book.save(folder / "MOS.xlsx")
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        picture(0).save(folder / name)


def test_pcuid_is_read_by_the_number_in_the_name_and_lacking_photos_are_counted(tmp_path):
    clone_of_pcuid(tmp_path, ["300-1/图片1.jpg", "300-1/图片2.jpg", "300-2/图片101.jpg"])
    found = pcuid(tmp_path)
    assert {name: row.mos for name, row in found.images.items()} == {
        "图片1.jpg": 58.5,
        "图片2.jpg": 63.0,
        "图片101.jpg": 71.25,
    }
    assert (found.missing, found.mos_range, found.role) == (1, (0, 100), "away")


def test_h265_is_read_by_name_and_lacking_stills_are_counted(tmp_path):
    part = tmp_path / "test_1"
    (part / "images").mkdir(parents=True)
    picture(0).save(part / "images" / "a.mov_crf_03.png")
    (part / "mos_ci.csv").write_text("image_name,mos,ci\na.mov_crf_03,3.1,0.7\nb.mov,2,0.1\n")
    found = h265(tmp_path)
    assert {name: row.mos for name, row in found.images.items()} == {"a.mov_crf_03.png": 3.1}
    assert (found.missing, found.mos_range) == (1, (1, 5))


def test_a_folder_that_is_no_clone_is_named_with_what_to_do(tmp_path):
    for read, source in ((pcuid, "JOU-UIP/PCUID"), (h265, "image_quality_test")):
        with pytest.raises(UserError, match=rf"{tmp_path}.*{source}"):
            read(tmp_path)
    clone_of_pcuid(tmp_path, [])
    with pytest.raises(UserError, match="no rated image"):
        pcuid(tmp_path)
    (tmp_path / "test_1").mkdir()
    (tmp_path / "test_1" / "mos_ci.csv").write_text("image_name,mos\na,3\nb,good\n")
    with pytest.raises(UserError, match=r"mos_ci.csv, row 3: mos is 'good'"):
        h265(tmp_path)


def test_a_set_is_given_by_name_manifest_and_the_ends_of_its_scale(tmp_path):
    picture(0).save(tmp_path / "a.png")
    manifest = tmp_path / "m.csv"
    manifest.write_text("image,mos\na.png,70\n")
    assert given_set(f"my set={manifest}").mos_range is None
    found = given_set(f"my set={manifest}:0:100")
    assert (found.name, found.mos_range, list(found.images)) == ("my set", (0, 100), ["a.png"])
    for wrong in ("m.csv", "=m.csv", f"a={manifest}:5:1", f"a={manifest}:low:high"):
        with pytest.raises(UserError, match="--set"):
            given_set(wrong)
    with pytest.raises(UserError, match=r"a.png has the MOS 70, outside 1 to 5"):
        given_set(f"a={manifest}:1:5")


def test_images_have_names_without_folders_of_this_machine(tmp_path):
    assert image_names(rows_of(tmp_path, 2)) == ["0.png", "1.png"]
    # Two of one name: all have the folder below the common one.
    rows = [Row(tmp_path / name, 1, "s") for name in ("x/a/1.png", "x/b/1.png", "x/b/2.png")]
    assert image_names(rows) == ["a/1.png", "b/1.png", "b/2.png"]


def test_a_limit_takes_images_at_even_distances_and_keeps_their_names(tmp_path):
    found = rated_set("s", rows_of(tmp_path, 9), None)
    assert list(found.limited(3).images) == ["0.png", "4.png", "8.png"]
    assert found.limited(None) == found
    assert len(found.limited(20).images) == 9


def test_homes_must_be_sets_of_the_panel(tmp_path):
    sets = [rated_set(name, rows_of(tmp_path, 3), None) for name in ("a", "b")]
    assert [each.role for each in with_homes(sets, ["b"])] == ["away", "home"]
    with pytest.raises(UserError, match=r"--home c: there is no such set, only a, b"):
        with_homes(sets, ["c"])
    with pytest.raises(UserError, match="two sets have the name a"):
        with_homes([sets[0], sets[0]], [])


def test_the_tests_need_both_their_option_and_their_folder(tmp_path):
    args = Namespace(final=False, data=tmp_path, limit=None, set=[], pcuid=None, h265=None, home=[])
    with pytest.raises(UserError, match="--final"):
        chosen_sets(args)
    args.final, args.data = True, None
    with pytest.raises(UserError, match="--data"):
        chosen_sets(args)


def two_sets(tmp_path):
    return [
        RatedSet("home", rated_set("home", rows_of(tmp_path, 6), None).images, None, "home"),
        rated_set("near", rows_of(tmp_path, 6, 0.2), (0, 1)),
        rated_set("far", rows_of(tmp_path, 6), None),
        RatedSet("AGIQA-3K", rated_set("t", rows_of(tmp_path, 6), None).images, None, "test"),
    ]


UP = {f"{i}.png": float(i) for i in range(6)}
DOWN = {f"{i}.png": float(-i) for i in range(6)}


def test_the_mean_leaves_home_and_tests_out_and_needs_every_set_away(tmp_path):
    sets = two_sets(tmp_path)
    scores = {"home": DOWN, "near": UP, "far": UP, "AGIQA-3K": DOWN}
    column = {each.name: measure(each, scores[each.name]) for each in sets}
    assert mean_away(sets, column).srcc.value == 1
    column["far"] = measure(sets[2], DOWN)
    assert mean_away(sets, column).srcc.value == 0
    # A mean over fewer sets is another number, and is not shown beside those of other models.
    assert mean_away(sets, {"near": column["near"]}) is None
    assert mean_away(sets[:1], column) is None


def test_an_image_in_two_sets_is_rated_once_and_a_second_call_rates_nothing(tmp_path):
    rows = rows_of(tmp_path, 3)
    sets = [rated_set("a", rows, None), rated_set("b", rows[1:], None)]
    rater, console, journal = CountingRater(), Console(quiet=True), tmp_path / "j.jsonl"
    found = rate(rater, sets, journal, console)
    assert [r.score for r in found["a"].values()] == [1, 2, 3]
    assert [r.score for r in found["b"].values()] == [2, 3]
    assert rate(rater, sets, journal, console) == found
    assert len(rater.rated) == 3


def test_coverage_is_the_share_of_mos_in_the_intervals_on_1_to_5(tmp_path):
    # MOS 0 to 100 become 1, 2, 3, 4, 5.
    rated = rated_set("s", rows_of(tmp_path, 5, 25.0), (0, 100))
    intervals = [(1.0, 2.0), (2.5, 3.0), (2.0, 3.0), (None, None), (4.5, 5.0)]
    ratings = {
        name: rating(name, 3.0, low=low, high=high, coverage=0.9)
        for name, (low, high) in zip(rated.images, intervals, strict=True)
    }
    found = coverage(rated, ratings)
    assert (found.share, found.n, found.stated) == (0.75, 4, 0.9)
    assert found.width == pytest.approx((1 + 0.5 + 1 + 0.5) / 4)
    # Not without the scale, nor where no rating has an interval.
    assert coverage(rated_set("s", rows_of(tmp_path, 5), None), ratings) is None
    assert coverage(rated, {name: rating(name, 3.0) for name in rated.images}) is None


def test_earlier_scores_are_read_back_and_a_lacking_image_is_named(tmp_path):
    path = tmp_path / "earlier.csv"
    written = {"near": {**UP, "0.png": None}, "other": {"a/1.png": 3.25}}
    write_earlier(path, written)
    assert next(csv.reader(path.open())) == ["set", "image", "score"]
    assert read_earlier(path) == written
    sets = two_sets(tmp_path)
    column = earlier_column(sets, read_earlier(path), path.name)
    assert list(column) == ["near"]
    assert (column["near"].agreement.n, column["near"].agreement.n_unreadable) == (5, 1)
    del written["near"]["3.png"]
    with pytest.raises(UserError, match=r"earlier.csv has no score for 3.png of near"):
        earlier_column(sets, written, path.name)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("image,score\na,1\n", "no column set"),
        ("set,image,score\ns,a,1\ns,a,2\n", "row 3: a is there a second time"),
        ("set,image,score\ns,a,good\n", "row 2: the score 'good'"),
        ("set,image,score\ns,a\n", "row 2: it has more or fewer cells"),
    ],
)
def test_a_wrong_file_of_earlier_scores_is_one_sentence_with_the_row(tmp_path, text, fault):
    path = tmp_path / "earlier.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"earlier.csv.*{fault}"):
        read_earlier(path)


def test_the_table_fits_into_100_columns_with_five_models(tmp_path):
    sets = two_sets(tmp_path)
    covered = Coverage(0.912, 1.43, 6, 0.9)
    columns = {
        model: {each.name: Measured(measure(each, DOWN).agreement, covered) for each in sets}
        for model in ("niqe", "brisque", "nano, expect", "nano, reason")
    }
    columns["earlier"] = {"near": measure(sets[1], UP)}
    console = Console(width=100, file=StringIO(), color_system=None)
    console.print(panel_table(sets, columns))
    lines = console.file.getvalue().splitlines()
    (row,) = [line for line in lines if line.lstrip().startswith("near")]
    assert row.split() == ["near", "SRCC", "-1.000", "-1.000", "-1.000", "-1.000", "1.000"]
    (mean,) = [line for line in lines if line.lstrip().startswith("mean away")]
    assert mean.split()[-1] == "–"  # the earlier version has only one of the two sets
    # No interval and no cell of coverage is broken into two lines.
    assert sum(line.count("[-1.00, -1.00]") for line in lines) == 2 * 4 * 5
    assert sum(line.count("91.2%, 1.43") for line in lines) == 4 * 4
    assert any("interval of 90%" in note for note in notes(sets, columns))


def test_what_was_left_out_is_said(tmp_path):
    sets = [RatedSet("s", rated_set("s", rows_of(tmp_path, 6), None).images, None, missing=3)]
    columns = {"m": {"s": measure(sets[0], {**UP, "0.png": None})}}
    said = " ".join(notes(sets, columns))
    assert "s: 3 rated images have no file" in said
    assert "m on s: 1 of 6 images have no score" in said


def test_the_result_names_no_folder_of_this_machine(tmp_path):
    sets = two_sets(tmp_path)
    columns = {"m": {each.name: measure(each, UP) for each in sets}}
    found = results(sets, columns)
    assert [row["set"] for row in found["rows"]] == ["home", "near", "far", "AGIQA-3K"]
    assert found["mean_away"]["m"]["srcc"]["value"] == 1
    assert str(tmp_path) not in str(found)
    assert set_words([f"my set={tmp_path}/m.csv:0:1"]) == {
        "my set=m.csv:0:1": f"my set={tmp_path}/m.csv:0:1"
    }
