"""Going on from a journal: what changed under its name is scored again, and what did not change is not."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.errors import UserError
from visualquality.score import stamp
from visualquality.score.files import read_scores
from visualquality.score.journal import Journal, read_journal
from visualquality.score.rating import Rating
from visualquality.score.resume import score_all
from visualquality.score.source import Referenced, name_of


class Sizes:
    """A `Rater` whose score of a text file is the number in it; with a reference, the mean of both."""

    def __init__(self, calibration=None):
        self.seen = []
        if calibration is not None:
            self.calibration = calibration

    def settings(self):
        return {"model": "sizes"}

    def rate(self, images):
        for image in images:
            self.seen.append(name_of(image))
            paths = [image]
            if isinstance(image, Referenced):
                paths = [image.image, image.reference]
            numbers = [float(Path(path).read_text(encoding="utf-8")) for path in paths]
            score = sum(numbers) / len(numbers)
            yield Rating(
                name_of(image), score, 0.5, (score,), None, None, "sizes", "reason", 0, 0.0
            )


def put(path: Path, number: float, *, seconds_ago: float = 60) -> str:
    """A file of this content that was last changed so long ago."""
    path.write_text(f"{number:.1f}", encoding="utf-8")
    then = path.stat().st_mtime - seconds_ago
    os.utime(path, (then, then))
    return str(path)


def run(journal: Path, images, **options) -> tuple[list[float | None], list[str], str]:
    """Scores, images that were rated anew, and what was said."""
    rater, console = Sizes(), Console(record=True, width=500, file=io.StringIO())
    files = {"journal": journal, "export_to": journal.with_suffix("")}
    scores = [
        rating.score for rating in score_all(rater, images, **files, console=console, **options)
    ]
    return scores, rater.seen, console.export_text()


def test_a_file_that_changed_under_its_name_is_scored_again_and_this_is_said(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    a, b = put(tmp_path / "a", 3), put(tmp_path / "b", 4)
    assert run(journal, [a, b])[:2] == ([3, 4], [a, b])
    assert run(journal, [a, b])[:2] == ([3, 4], [])
    put(tmp_path / "a", 2, seconds_ago=30)  # the same size, another time
    scores, seen, said = run(journal, [a, b])
    assert (scores, seen) == ([2, 4], [a])
    assert f"scored again: 1 ({a})" in said
    for file in (journal, tmp_path / "out.csv"):
        assert read_scores(file) == {b: 4, a: 2}
    assert run(journal, [a, b])[:2] == ([2, 4], [])
    put(tmp_path / "b", 10)  # another size
    assert run(journal, [a, b])[:2] == ([2, 10], [b])


def test_the_digest_decides_where_only_the_time_differs(tmp_path, monkeypatch):
    journal = tmp_path / "out.csv.jsonl"
    a = put(tmp_path / "a", 3)
    run(journal, [a])
    read = []
    digest = stamp.file_digest
    monkeypatch.setattr(stamp, "file_digest", lambda path: read.append(path) or digest(path))
    assert run(journal, [a])[:2] == ([3], [])
    assert read == []  # size and time say enough
    os.utime(a, (1000, 1000))  # copied without its time
    assert run(journal, [a])[:2] == ([3], [])
    assert read == [a]
    # The new time is remembered.
    assert run(journal, [a])[:2] == ([3], [])
    assert read == [a]


def test_a_change_within_the_grain_of_the_clock_is_seen(tmp_path):
    """A file that is written, scored and overwritten at once may have one time for both contents."""
    journal = tmp_path / "out.csv.jsonl"
    a = put(tmp_path / "a", 3, seconds_ago=0)
    time = os.stat(a).st_mtime_ns
    assert run(journal, [a])[0] == [3]
    put(tmp_path / "a", 4)
    os.utime(a, ns=(time, time))
    assert run(journal, [a])[:2] == ([4], [a])


def test_a_file_that_changes_while_it_is_rated_is_scored_again_next_time(tmp_path, monkeypatch):
    journal = tmp_path / "out.csv.jsonl"
    a = put(tmp_path / "a", 3)
    rate = Sizes.rate

    def slow(self, images):
        for rating in rate(self, images):
            put(tmp_path / "a", 4, seconds_ago=30)  # after it was read, before it is in the journal
            yield rating

    monkeypatch.setattr(Sizes, "rate", slow)
    assert run(journal, [a])[0] == [3]
    monkeypatch.undo()
    assert run(journal, [a])[:2] == ([4], [a])


def test_references_count_like_images(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    put(tmp_path / "clean", 5)
    pairs = [Referenced(put(tmp_path / name, 3), str(tmp_path / "clean")) for name in "ab"]
    names = [pair.image for pair in pairs]
    assert run(journal, pairs)[:2] == ([4, 4], names)
    assert run(journal, pairs)[:2] == ([4, 4], [])
    put(tmp_path / "clean", 4, seconds_ago=30)
    assert run(journal, pairs)[:2] == ([3.5, 3.5], names)
    # The same reference under another name is no other image.
    other = str((tmp_path / "clean").rename(tmp_path / "moved"))
    assert run(journal, [Referenced(name, other) for name in names])[:2] == ([3.5, 3.5], [])


def test_no_stale_row_stays_though_the_run_is_not_given_its_image(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    a, b, c = (put(tmp_path / name, 3) for name in "abc")
    run(journal, [a, b, c])
    put(tmp_path / "a", 1, seconds_ago=30)
    os.remove(c)  # nothing says that its rating is wrong
    scores, seen, said = run(journal, [b])
    assert (scores, seen) == ([3], [])
    assert f"without a score now: 1 ({a})" in said
    assert set(read_scores(tmp_path / "out.csv")) == {b, c}


def test_images_are_found_again_from_every_folder(tmp_path, monkeypatch):
    journal = tmp_path / "out.csv.jsonl"
    for folder, number in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        put(tmp_path / folder / "a", number)
        put(tmp_path / folder / f"only {folder}", number)
    monkeypatch.chdir(tmp_path / "one")
    run(journal, ["a", "only one"])
    monkeypatch.chdir(tmp_path / "two")
    # "a" is not given here, and the one that was scored is what it was.
    assert run(journal, ["only two"])[2].count("changed") == 0
    assert read_scores(journal) == {"a": 1, "only one": 1, "only two": 2}
    assert run(journal, ["a"])[:2] == ([2], ["a"])
    os.utime("a", (1000, 1000))
    assert run(journal, ["a"])[:2] == ([2], [])
    assert str(tmp_path) not in journal.read_text(encoding="utf-8")


def test_rows_of_old_journals_are_trusted_and_this_is_said_once(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    images = [put(tmp_path / name, 3) for name in "abc"]
    run(journal, images)
    rows = [json.loads(line) for line in journal.read_bytes().splitlines()]
    for row in rows:
        row.pop("files", None)
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    put(tmp_path / "a", 4)
    scores, seen, said = run(journal, images)
    assert (scores, seen) == ([3, 3, 3], [])
    assert said.count("3 of the images in") == said.count("taken by their names") == 1


def test_names_are_trusted_on_request(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    a = put(tmp_path / "a", 3)
    run(journal, [a])
    put(tmp_path / "a", 4, seconds_ago=30)
    scores, seen, said = run(journal, [a], trust_names=True)
    assert (scores, seen) == ([3], [])
    assert "changed" not in said
    assert run(journal, [a])[:2] == ([4], [a])


def test_a_run_that_is_stopped_after_a_change_is_seen_keeps_no_stale_row(tmp_path):
    journal = tmp_path / "out.csv.jsonl"
    images = [put(tmp_path / name, 3) for name in "abc"]
    run(journal, images)
    for name in "abc":
        put(tmp_path / name, 4, seconds_ago=30)
    stopped = score_all(Sizes(), images, journal=journal, console=Console(quiet=True))
    assert next(stopped).score == 4
    stopped.close()
    assert [(rating.image, rating.score) for rating in read_journal(journal)[1]] == [(images[0], 4)]
    assert run(journal, images)[:2] == ([4, 4, 4], images[1:])


@pytest.mark.parametrize("files", [3, [3], [{}], [{"path": 3, "size": 1, "mtime_ns": 1}]])
def test_a_damaged_stamp_is_named_with_its_line(tmp_path, files):
    journal = tmp_path / "out.csv.jsonl"
    run(journal, [put(tmp_path / "a", 3)])
    header, row = map(json.loads, journal.read_bytes().splitlines())
    lines = [header, row | {"files": files}]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2: .*(file|path)"):
        read_journal(journal)


class Interval:
    """A stand-in for a `Calibration`, which gives every score the same interval."""

    def __init__(self, low):
        self.low, self.digest = low, str(low)

    def apply(self, rating):
        return replace(rating, low=self.low, high=4.5, coverage=0.9, expected_mos=4.0)


class Calibrated(Sizes):
    def settings(self):
        return super().settings() | {"calibration": self.calibration.digest}

    def rate(self, images):
        return map(self.calibration.apply, super().rate(images))


def test_a_calibration_that_came_later_gives_the_rows_of_before_its_intervals(tmp_path):
    journal, quiet = tmp_path / "out.csv.jsonl", Console(quiet=True)
    images = [put(tmp_path / name, 3) for name in "abc"]
    run(journal, images[:1])
    # The first calibration, and one that was made anew.
    for low, wanted in ((2.0, images[:2]), (2.5, images)):
        rater = Calibrated(Interval(low))
        found = list(score_all(rater, wanted, journal=journal, console=quiet))
        assert rater.seen == wanted[-1:]  # no image is scored twice for it
        header, ratings = read_journal(journal)
        assert header["calibration"] == str(low)
        assert sorted(rating.image for rating in ratings) == wanted
        assert [(rating.score, rating.low) for rating in found] == [(3, low)] * len(wanted)
        assert {rating.low for rating in ratings} == {low}
    size = journal.stat().st_size
    list(score_all(Calibrated(Interval(2.5)), images, journal=journal, console=quiet))
    assert journal.stat().st_size == size
    assert read_scores(journal) == dict.fromkeys(images, 3)
    with pytest.raises(UserError, match="give it with --calibration"):
        run(journal, images)


def test_a_torn_replacement_costs_its_own_image_alone(tmp_path):
    journal = tmp_path / "out.jsonl"
    ratings = [Rating(name, 3.0, None, (3.0,), None, None, "m", "reason", 0, 0.0) for name in "ab"]
    with Journal(journal, {}) as store:
        for rating in ratings:
            store.append(rating)
        before = journal.stat().st_size
        store.replace(ratings[0], ())
    whole = journal.read_bytes()
    for cut in range(before, len(whole)):
        journal.write_bytes(whole[:cut])
        with Journal(journal, {}) as store:
            assert store.ratings["b"] == ratings[1]
            assert store.ratings.get("a", ratings[0]) == ratings[0]


def test_the_command_scores_a_changed_photo_again(tmp_path):
    photo, output = tmp_path / "a.png", tmp_path / "scores.csv"
    command = ["score", str(photo), "-o", str(output), "--model", "niqe"]
    found = []
    for size in ((300, 250), (280, 260)):
        picture(0, size).save(photo)
        for _ in range(2):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0
            found.append((read_scores(output)[str(photo)], "scored again" in done.stderr))
    assert found[0][0] == found[1][0] != found[2][0] == found[3][0]
    assert [again for _, again in found] == [False, False, True, False]
    alone = CliRunner().invoke(app, ["score", str(photo), "--model", "niqe", "--trust-names"])
    assert (alone.exit_code, "give their file with -o" in alone.stderr) == (2, True)
