"""The journal: nothing lost, nothing twice, no number that was not read."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from visualquality.errors import UserError
from visualquality.score.files import read_scores
from visualquality.score.journal import Journal, journal_path, read_journal
from visualquality.score.rating import Rating
from visualquality.score.resume import score_all

HEADER = {
    "model": "nano",
    "weights": "ab12",
    "prompt": "paper",
    "mode": "reasoning",
    "samples": 2,
    "seed": 0,
}
BY = {"model": "nano", "mode": "reasoning", "seed": 0, "seconds": 0.5}


def response(score, reasoning=None, problem=None):
    return SimpleNamespace(score=score, reasoning=reasoning, problem=problem, text=None)


def rated(image: str, *scores: float, reasoning: str = "sharp") -> Rating:
    return Rating.from_samples(image, [response(score, reasoning) for score in scores], **BY)


RATINGS = [
    rated("a.png", 3.0, 4.0),
    Rating.from_samples('ü, "b".png', [response(None, None, "cut_off")], **BY),
    rated("c\r\n.png", 2.5, reasoning='too dark,\r "noisy"\nand — soft'),
    Rating.from_samples("d.png", [response(None, None, "no_answer"), response(1.25, "blur")], **BY),
]


WRITER = """
import os, sys, time
from pathlib import Path
from visualquality.score.rating import Rating
from visualquality.score.journal import Journal

real = os.write
def slow(fd, data):  # a line goes out in ten pieces, so that a kill falls within one
    if len(data) > 500:
        time.sleep(0.0003)
    return real(fd, bytes(data)[:500])
os.write = slow

with Journal(Path(sys.argv[1]), {"seed": 0}) as journal:
    for i in range(int(sys.argv[2])):
        if f"{i}.png" not in journal.ratings:
            words = str(i % 10) * 4800
            journal.append(Rating(f"{i}.png", 3.0, None, (3.0,), words, None, "nano", "reasoning", 0, 0.1))
"""


def test_killed_in_the_middle_again_and_again_gives_every_image_once(tmp_path):
    path, script = tmp_path / "out.jsonl", tmp_path / "writer.py"
    script.write_text(WRITER)
    torn = 0
    for target in (30_000, 80_000, 150_000, 210_000):
        with subprocess.Popen([sys.executable, str(script), str(path), "1000000"]) as process:
            while process.poll() is None and (not path.exists() or path.stat().st_size < target):
                time.sleep(0.001)
            try:
                with pytest.raises(UserError, match="another run is writing"):
                    Journal(path, {"seed": 0}).__enter__()
            finally:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        torn += not path.read_bytes().endswith(b"\n")
    assert torn > 0  # else the test has not met what it is about
    n = path.read_bytes().count(b"\n") + 20
    subprocess.run([sys.executable, str(script), str(path), str(n)], check=True)
    ratings = read_journal(path)[1]
    assert sorted(rating.image for rating in ratings) == sorted(f"{i}.png" for i in range(n))
    assert all(rating.reasoning == rating.image[-5] * 4800 for rating in ratings)


def written(path: Path, ratings=RATINGS) -> Path:
    with Journal(path, HEADER) as journal:
        for rating in ratings:
            journal.append(rating)
    return path


def test_a_torn_journal_loses_the_torn_line_alone(tmp_path):
    path = written(tmp_path / "out.jsonl")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    header, last = len(lines[0]), len(whole) - len(lines[-1])
    for cut in (*range(header + 1), *range(last, len(whole) + 1)):
        path.write_bytes(whole[:cut])
        with Journal(path, HEADER) as journal:
            missing = [rating for rating in RATINGS if rating.image not in journal.ratings]
            if cut <= header:
                assert missing == RATINGS
            elif cut < len(whole) - 1:
                assert missing == RATINGS[-1:]
            else:  # no more than the line feed is missing: the rating is whole
                assert missing == []
            for rating in missing:
                journal.append(rating)
        assert path.read_bytes() == whole


def test_a_rating_that_lacks_its_line_feed_alone_counts_and_its_line_is_completed(tmp_path):
    path = written(tmp_path / "out.jsonl", RATINGS[:2])
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert read_journal(path) == (HEADER, RATINGS[:2])
    written(path, RATINGS[2:])
    assert path.read_bytes() == written(tmp_path / "at once.jsonl").read_bytes()


def test_blank_lines_are_skipped(tmp_path):
    path = written(tmp_path / "out.jsonl")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n"))
    assert read_journal(path) == (HEADER, RATINGS)
    with Journal(path, HEADER) as journal:
        assert list(journal.ratings.values()) == RATINGS


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {**HEADER, "seed": 1},
            r"out.jsonl was written with seed 0 and this run has 1; give another -o",
        ),
        ({**HEADER, "version": "2"}, "with version none and this run has '2'"),
        (
            {k: v for k, v in HEADER.items() if k != "prompt"},
            "with prompt 'paper' and this run has none",
        ),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, header, message):
    path = written(tmp_path / "out.jsonl")
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        Journal(path, header).__enter__()
    assert path.read_bytes() == before
    with Journal(
        path, dict(reversed(HEADER.items()))
    ) as journal:  # the order of the fields is no setting
        assert list(journal.ratings.values()) == RATINGS


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b"\xff\xd8\xff\xe0", b'{"image": "a"}\n', b"[1]\n"]
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no journal of results; give another -o"):
        Journal(path, HEADER).__enter__()
    assert path.read_bytes() == content


def test_a_damaged_or_repeated_line_is_named(tmp_path):
    path = written(tmp_path / "out.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for third, message in (
        (b"{oops\n", "line 3: not a JSON"),
        (lines[1], "line 3: a.png is there a second time"),
        (b"{}\n", "line 3: .*unknown: image"),
    ):
        path.write_bytes(b"".join([*lines[:2], third, *lines[3:]]))
        with pytest.raises(UserError, match=message):
            Journal(path, HEADER).__enter__()
        with pytest.raises(UserError, match=message):
            read_journal(path)


def test_one_process_at_a_time_and_no_image_twice(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    with Journal(path, HEADER) as journal:
        with pytest.raises(UserError, match="another run is writing"):
            Journal(path, HEADER).__enter__()
        journal.append(RATINGS[0])
        with pytest.raises(ValueError, match="already"):
            journal.append(RATINGS[0])
    with Journal(path, HEADER) as journal:
        assert journal.ratings == {"a.png": RATINGS[0]}
    with pytest.raises(UserError, match="cannot be opened"):
        Journal(tmp_path, HEADER).__enter__()


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    real = os.write
    with Journal(path, HEADER) as journal:
        journal.append(RATINGS[0])
        before = path.read_bytes()

        def fills_up(fd, data):
            if len(data) <= 20:
                raise OSError(28, "No space left on device")
            return real(fd, bytes(data)[:20])

        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            journal.append(RATINGS[1])
        assert path.read_bytes() == before
        monkeypatch.undo()
        journal.append(RATINGS[1])
    assert read_journal(path)[1] == RATINGS[:2]


def test_each_row_is_with_the_kernel_at_once_and_with_the_disk_within_a_second(
    tmp_path, monkeypatch
):
    synced, now = [], [100.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "out.jsonl"
    with Journal(path, HEADER) as journal:
        assert len(synced) == 1
        for i in range(20):
            now[0] += 0.25
            journal.append(rated(f"{i}.png", 3.0))
            assert path.read_bytes().count(b"\n") == i + 2
        assert len(synced) == 1 + 5
    assert len(synced) == 7


@settings(deadline=None, max_examples=30)
@given(
    image=st.text(min_size=1),
    reasoning=st.text(),
    score=st.floats(1, 5),
    seed=st.integers(0, 2**40),
)
def test_the_journal_gives_back_what_it_got(tmp_path_factory, image, reasoning, score, seed):
    path = tmp_path_factory.mktemp("journal") / "out.jsonl"
    rating = Rating(
        image, score, 0.1, (score, None), reasoning, None, "nano", "reasoning", seed, 0.25
    )
    written(path, [rating])
    assert read_journal(path)[1] == [rating]


@pytest.mark.parametrize("content", [None, b"", b"[1]\n", b'{"image": "a"}\n', b'{"header": {"mo'])
def test_what_is_no_journal_is_not_read(tmp_path, content):
    path = tmp_path / "notes.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"notes.jsonl .*give the .jsonl that score"):
        read_journal(path)


def test_journal_path(tmp_path):
    assert journal_path(tmp_path / "out.csv") == tmp_path / "out.csv.jsonl"
    assert journal_path(tmp_path / "out.parquet") == tmp_path / "out.parquet.jsonl"
    assert journal_path(tmp_path / "out.jsonl") == tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="xlsx"):
        journal_path(tmp_path / "out.xlsx")


def test_the_lock_ends_with_the_journal_though_a_copy_of_its_descriptor_lives(tmp_path):
    path = tmp_path / "out.jsonl"
    with Journal(path, HEADER) as journal:
        copy = os.dup(journal._fd)  # as a forked worker holds one
    try:
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(copy)


def test_what_could_not_be_asked_is_tried_again_and_the_last_line_counts(tmp_path):
    broken = Rating.failed(
        "a.png", "a.png is no image: copy it again", model="m", mode="reason", seed=0
    )
    unread = Rating(
        "b.png", None, None, (None, None), None, "no readable answer", "m", "reason", 0, 0.1
    )
    fixed = replace(RATINGS[0], image="a.png")
    path = tmp_path / "out.jsonl"
    with Journal(path, {"model": "m"}) as journal:
        journal.append(broken)
        journal.append(unread)
    with Journal(path, {"model": "m"}) as journal:
        assert list(journal.ratings.values()) == [broken, unread]
        # Its answers could not be read, and a second try would give the same answers.
        with pytest.raises(ValueError, match="already"):
            journal.append(unread)
        journal.append(fixed)
        ratings = list(journal.ratings.values())
    assert ratings == read_journal(path)[1] == [unread, fixed]
    assert read_scores(path) == {"a.png": fixed.score, "b.png": None}
    with Journal(path, {"model": "m"}) as journal:
        assert list(journal.ratings.values()) == ratings


class Counting:
    """A `Rater` of files that are there; `seen` are the images that it was asked for."""

    def __init__(self):
        self.seen = []

    def settings(self):
        return {"model": "counting"}

    def rate(self, images):
        for image in images:
            self.seen.append(image)
            if Path(image).exists():
                yield rated(image, 3.0)
            else:
                yield Rating.failed(image, "there is no such file", **BY)


def test_a_run_goes_on_from_its_journal_and_exports_all_of_it(tmp_path):
    images = [str(tmp_path / f"{i}.png") for i in range(4)]
    for image in images[1:]:
        Path(image).touch()
    files = {"journal": tmp_path / "out.csv.jsonl", "export_to": tmp_path / "out.csv"}
    first = Counting()
    stopped = score_all(first, images, **files, console=Console(quiet=True))
    assert [next(stopped).image for _ in range(2)] == images[:2]
    stopped.close()
    assert not files["export_to"].exists()

    Path(images[0]).touch()  # it could not be read before, and is tried again
    for run, (wanted, asked) in enumerate(
        [
            (images[:3], [images[0], images[2]]),
            # What an earlier run rated stays in the export, in the order of the journal.
            (images[3:], images[3:]),
            (images, []),
        ]
    ):
        rater = Counting()
        ratings = list(score_all(rater, wanted, **files, console=Console(quiet=True)))
        assert [rating.image for rating in ratings] == wanted
        assert rater.seen == asked, run
        assert list(read_scores(files["export_to"])) == [
            rating.image for rating in read_journal(files["journal"])[1]
        ]
    assert [rating.image for rating in read_journal(files["journal"])[1]] == [
        images[i] for i in (1, 0, 2, 3)
    ]


def test_ratings_against_other_references_are_refused(tmp_path):
    journal = tmp_path / "out.jsonl"
    for references in (tmp_path / "clean", tmp_path / "clean"):
        list(
            score_all(
                Counting(), [], journal=journal, references=references, console=Console(quiet=True)
            )
        )
    with pytest.raises(UserError, match=r"reference '.*clean' and this run has none"):
        list(score_all(Counting(), [], journal=journal, console=Console(quiet=True)))
