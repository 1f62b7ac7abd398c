"""Which images of a run are followed over its steps, and what is said of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from visualquality.errors import UserError
from visualquality.evaluate.run_images import (
    FOLLOWED,
    STEPS_WITH_WORDS,
    RunImage,
    followed_images,
    read_answers,
    with_words,
    words_along,
)


def answer(score: float | str, words: str) -> str:
    return f"<think>{words}</think><answer>{score}</answer>"


def write(path: Path, steps: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(step, ensure_ascii=False) + "\n" for step in steps), encoding="utf-8"
    )
    return path


def step(
    number: int, images: list[str], scores: Sequence[float | None] = (2.0, 3.0, None)
) -> dict[str, Any]:
    texts = [answer("no" if s is None else s, f"{images[0]} at {number}, {s}.") for s in scores]
    mos = [float(image.strip("abcdefghijklmnopqrstuvwxyz.")) for image in images]
    return {
        "step": number,
        "dataset": "d",
        "images": images,
        "mos": mos,
        "scores": [scores] * len(images),
    } | {
        "rewards": [[1.0] * len(scores)] * len(images),
        "texts": texts,
    }


def test_the_words_are_those_nearest_to_the_mean(tmp_path: Path) -> None:
    lines = [step(1, ["a1", "b2"], [2.0, 2.4, 4.0, None]), step(2, ["b2", "a1"], [None, None])]
    found = read_answers(write(tmp_path / "samples.jsonl", lines))
    a, b = RunImage("d", "a1", 1.0), RunImage("d", "b2", 2.0)
    assert [(each.step, each.image) for each in found] == [(1, a), (1, b), (2, b), (2, a)]
    assert found[0].score == pytest.approx(2.8)
    assert found[0].std == pytest.approx(1.0583, abs=1e-4)
    assert found[0].words == "a1 at 1, 2.4."
    assert (found[1].score, found[1].words) == (found[0].score, None)
    assert (found[2].score, found[2].std, found[2].words) == (None, None, "b2 at 2, None.")


def test_without_keys_images_that_cannot_be_told_apart_are_not_followed(tmp_path: Path) -> None:
    lines = [step(1, ["a1", "r5", "r5"]), step(2, ["r5", "a1"]), step(3, ["a1", "b2"])]
    path = write(tmp_path / "samples.jsonl", lines)
    found = read_answers(path)
    assert {each.image.name for each in found} == {"a1", "b2"}
    ((image, answers),) = followed_images(found).items()
    assert image.name == "a1"
    assert [each.step for each in with_words(answers)] == [1, 3]
    path.write_bytes(path.read_bytes()[:-9])  # a run that is going on
    assert {each.step for each in read_answers(path)} == {1, 2}


def test_images_with_most_words_are_followed_and_else_those_over_the_whole_range(
    tmp_path: Path,
) -> None:
    often = ["x50", "y51"]
    once = [f"i{n}" for n in range(40)]
    lines = [step(n, [often[n % 2], *once]) for n in range(8)]
    lines += [step(8 + n, [name, "z99"]) for n, name in enumerate(once)]
    steps = read_answers(write(tmp_path / "samples.jsonl", lines))
    found = [image.mos for image in followed_images(steps)]
    assert len(found) == FOLLOWED
    assert found == sorted(found)
    assert {50.0, 51.0, 0.0, 39.0} <= set(found)
    assert 99.0 not in found  # no words of it were kept
    said = words_along(steps)
    assert len(said) == STEPS_WITH_WORDS
    assert (said[0].step, said[-1].step) == (0, 47)


def test_with_keys_images_of_one_name_and_mos_stay_two(tmp_path: Path) -> None:
    """They were once taken for one image whose answers cannot be told apart, and left out."""

    def keyed(number: int, *folders: str) -> dict[str, Any]:
        return step(number, ["r5"] * len(folders)) | {
            "keys": [f"d/{folder}/r5" for folder in folders],
            "paths": [f"/{folder}/r5" for folder in folders],
        }

    lines = [keyed(1, "x", "y"), keyed(2, "y", "x"), keyed(3, "x", "y")]
    steps = read_answers(write(tmp_path / "samples.jsonl", lines))
    followed = followed_images(steps)
    assert [(image.name, image.key, image.path) for image in followed] == [
        ("r5", "d/x/r5", "/x/r5"),
        ("r5", "d/y/r5", "/y/r5"),
    ]
    worded = [[each.step for each in with_words(answers)] for answers in followed.values()]
    assert worded == [[1, 3], [2]]


@pytest.mark.parametrize(
    "change",
    [
        {"mos": [1.0]},
        {"scores": [[1.0], ["x"]]},
        {"texts": []},
        {"scores": []},
        {"dataset": None},
        {"keys": ["a"]},
    ],
)
def test_a_line_that_is_no_step_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    bad = step(2, ["a1", "b2"]) | change
    if change == {"dataset": None}:
        del bad["dataset"]
    path = write(tmp_path / "samples.jsonl", [step(1, ["a1"]), bad])
    with pytest.raises(UserError, match=r"samples\.jsonl, line 2 is not a step"):
        read_answers(path)


def test_a_run_that_a_newer_version_continued_has_one_image_not_two(tmp_path: Path) -> None:
    old = step(1, ["a1", "b2"])
    new = step(2, ["a1", "b2"]) | {"keys": ["d/0/a1", "d/1/b2"], "paths": ["/x/a1", "/x/b2"]}
    moved = step(3, ["a1", "b2"]) | {"keys": ["d/0/a1", "d/1/b2"], "paths": ["/y/a1", "/y/b2"]}
    found = read_answers(write(tmp_path / "samples.jsonl", [old, new, moved]))
    a, b = RunImage("d", "a1", 1.0, "d/0/a1"), RunImage("d", "b2", 2.0, "d/1/b2")
    assert [each.image for each in found] == [a, b] * 3
