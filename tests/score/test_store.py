"""The journal and its exports: nothing lost, nothing twice, no number that was not read."""

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualquality.errors import UserError
from visualquality.score.rating import Rating
from visualquality.score.store import ResultStore, export, journal_path, read_ratings, read_scores

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
    return SimpleNamespace(score=score, reasoning=reasoning, problem=problem)


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
from visualquality.score.store import ResultStore

real = os.write
def slow(fd, data):  # a line goes out in ten pieces, so that a kill falls within one
    if len(data) > 500:
        time.sleep(0.0003)
    return real(fd, bytes(data)[:500])
os.write = slow

with ResultStore(Path(sys.argv[1]), {"seed": 0}) as store:
    for i in range(int(sys.argv[2])):
        if f"{i}.png" not in store.done:
            words = str(i % 10) * 4800
            store.append(Rating(f"{i}.png", 3.0, None, (3.0,), words, None, "nano", "reasoning", 0, 0.1))
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
                    ResultStore(path, {"seed": 0}).__enter__()
            finally:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        torn += not path.read_bytes().endswith(b"\n")
    assert torn > 0  # else the test has not met what it is about
    n = path.read_bytes().count(b"\n") + 20
    subprocess.run([sys.executable, str(script), str(path), str(n)], check=True)
    ratings = list(read_ratings(path))
    assert sorted(rating.image for rating in ratings) == sorted(f"{i}.png" for i in range(n))
    assert all(rating.reasoning == rating.image[-5] * 4800 for rating in ratings)


def written(path: Path, ratings=RATINGS) -> Path:
    with ResultStore(path, HEADER) as store:
        for rating in ratings:
            store.append(rating)
    return path


def test_a_torn_journal_loses_the_torn_line_alone(tmp_path):
    path = written(tmp_path / "out.jsonl")
    whole = path.read_bytes()
    starts = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    ends = (starts[0] - 1, len(whole) - 1)  # all but the line feed
    for cut in (*range(0, starts[0], 9), *range(starts[-2], len(whole), 9), *ends):
        path.write_bytes(whole[:cut])
        with ResultStore(path, HEADER) as store:
            missing = [rating for rating in RATINGS if rating.image not in store.done]
            assert len(missing) == (1 if cut >= starts[0] else 4)
            for rating in missing:
                store.append(rating)
        assert path.read_bytes() == whole


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
        ResultStore(path, header).__enter__()
    assert path.read_bytes() == before
    with ResultStore(
        path, dict(reversed(HEADER.items()))
    ) as store:  # the order of the fields is no setting
        assert store.done == {rating.image for rating in RATINGS}


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b"\xff\xd8\xff\xe0", b'{"image": "a"}\n', b"[1]\n"]
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no journal of results; give another -o"):
        ResultStore(path, HEADER).__enter__()
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
            ResultStore(path, HEADER).__enter__()


def test_one_process_at_a_time_and_no_image_twice(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    with ResultStore(path, HEADER) as store:
        with pytest.raises(UserError, match="another run is writing"):
            ResultStore(path, HEADER).__enter__()
        store.append(RATINGS[0])
        with pytest.raises(ValueError, match="already"):
            store.append(RATINGS[0])
    with ResultStore(path, HEADER) as store:
        assert store.done == {"a.png"}
    with pytest.raises(UserError, match="cannot be opened"):
        ResultStore(tmp_path, HEADER).__enter__()


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    real = os.write
    with ResultStore(path, HEADER) as store:
        store.append(RATINGS[0])
        before = path.read_bytes()

        def fills_up(fd, data):
            if len(data) <= 20:
                raise OSError(28, "No space left on device")
            return real(fd, bytes(data)[:20])

        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            store.append(RATINGS[1])
        assert path.read_bytes() == before
        monkeypatch.undo()
        store.append(RATINGS[1])
    assert list(read_ratings(path)) == RATINGS[:2]


def test_each_row_is_with_the_kernel_at_once_and_with_the_disk_within_a_second(
    tmp_path, monkeypatch
):
    synced, now = [], [100.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "out.jsonl"
    with ResultStore(path, HEADER) as store:
        assert len(synced) == 1
        for i in range(20):
            now[0] += 0.25
            store.append(rated(f"{i}.png", 3.0))
            assert path.read_bytes().count(b"\n") == i + 2
        assert len(synced) == 1 + 5
    assert len(synced) == 7


# --- exports


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
    assert list(read_ratings(path)) == [rating]


def test_exports_hold_every_rating_and_no_nan(tmp_path):
    journal = written(journal_path(tmp_path / "out.csv"))
    assert journal.name == "out.csv.jsonl"
    assert journal_path(tmp_path / "out.jsonl") == tmp_path / "out.jsonl"
    with journal.open("ab") as torn:
        torn.write(b'{"image": "e.png", "sco')
    export(journal, tmp_path / "out.csv")
    export(journal, tmp_path / "out.parquet")
    columns = list(asdict(RATINGS[0]))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == columns
    as_text = [
        [
            "" if v is None else json.dumps(v) if k == "samples" else str(v)
            for k, v in r.to_dict().items()
        ]
        for r in RATINGS
    ]
    assert [list(row.values()) for row in rows] == as_text
    parquet = pq.read_table(tmp_path / "out.parquet")
    assert parquet.column_names == columns
    assert [Rating.from_dict(row) for row in parquet.to_pylist()] == RATINGS
    expected = {rating.image: rating.score for rating in RATINGS}
    complete = written(tmp_path / "complete.jsonl")
    for path in (tmp_path / "out.csv", tmp_path / "out.parquet", complete):
        assert read_scores(path) == expected
        assert list(read_scores(path)) == list(expected)
        assert not re.search(rb"\bnan\b", path.read_bytes(), re.IGNORECASE)
    assert {p.name for p in tmp_path.iterdir()} == {
        "out.csv",
        "out.csv.jsonl",
        "out.parquet",
        "complete.jsonl",
    }


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")  # a Latin-1 file name
    journal = written(tmp_path / "out.jsonl", [rated(name, 3.0)])
    export(journal, tmp_path / "out.csv")
    assert b"caf\xe9.png" in (tmp_path / "out.csv").read_bytes()
    assert read_scores(tmp_path / "out.csv") == {name: 3.0}
    (tmp_path / "out.parquet").write_text("old")
    with pytest.raises(UserError, match="Parquet cannot hold"):
        export(journal, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
    for make in (journal_path, lambda output: export(journal, output)):
        with pytest.raises(UserError, match="xlsx"):
            make(tmp_path / "out.xlsx")


def test_the_lock_ends_with_the_store_though_a_copy_of_its_descriptor_lives(tmp_path):
    path = tmp_path / "out.jsonl"
    with ResultStore(path, HEADER) as store:
        copy = os.dup(store._fd)  # as a forked worker holds one
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
    path = tmp_path / "out.jsonl"
    with ResultStore(path, {"model": "m"}) as store:
        store.append(broken)
        store.append(unread)
    with ResultStore(path, {"model": "m"}) as store:
        assert store.done == {"b.png"}  # its answers could not be read, which no second try mends
        store.append(replace(RATINGS[0], image="a.png"))
    assert [(r.image, r.score) for r in read_ratings(path)] == [
        ("b.png", None),
        ("a.png", RATINGS[0].score),
    ]
    assert read_scores(path) == {"a.png": RATINGS[0].score, "b.png": None}
    export(path, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().count("a.png") == 1
