"""Results beside ratings: the right rating for each image, errors in units of the MOS, an honest std known as such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visualquality.coefficients import srcc
from visualquality.data.manifest import Row
from visualquality.evaluate.analysis import analyse, breakdowns, std_check
from visualquality.evaluate.matching import Rated
from visualquality.score.rating import Rating


def rated(i: int, mos: float, score: float | None, std: float | None = 0.2, **row: object) -> Rated:
    image = Path(f"/images/{i:03}.png")
    problem = None if score is not None else "not an image"
    rating = Rating(
        str(image), score, std, (), "Words.", problem, model="m", mode="reason", seed=0, seconds=0.0
    )
    return Rated(Row(image, mos, "lab", **row), rating)  # type: ignore[arg-type]


def wavering(n: int = 60, scale: float = 1.0, shift: float = 0.0) -> list[Rated]:
    """MOS on a logistic of the score, but for an error of `i / n * 0.8` whose sign alternates; the std is as large."""
    score = np.random.default_rng(0).permutation(np.linspace(1.1, 4.9, n))
    wave = np.arange(n) / n * 0.8
    mos = 4 / (1 + np.exp(-(score - 3) / 0.8)) + np.where(np.arange(n) % 2, wave, -wave)
    return [
        rated(i, float(mos[i] * scale + shift), float(score[i]), float(wave[i])) for i in range(n)
    ]


def test_a_std_that_tells_the_error_is_known_as_such() -> None:
    found = std_check(analyse(wavering())[0])
    assert (found.n, found.problem) == (60, None)
    assert list(found.bins["n"]) == [12] * 5
    assert found.bins["error"].is_monotonic_increasing
    assert (found.bins["low"] < found.bins["error"]).all()
    assert (found.bins["error"] < found.bins["high"]).all()
    assert found.srcc.low < found.srcc.value <= found.srcc.high
    assert found.srcc.value > 0.8
    assert found.within[0] < found.within[1]


@pytest.mark.parametrize(
    ("factor", "low", "high"), [(10, 0.65, 1), (1, 0.25, 0.55), (0.02, 0, 0.1)]
)
def test_the_mos_lies_within_the_std_as_often_as_that_is_large(
    factor: float, low: float, high: float
) -> None:
    data = analyse(
        [Rated(e.row, replace(e.rating, std=(e.rating.std or 0) * factor)) for e in wavering()]
    )[0]
    assert low <= std_check(data).within[0] <= high


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0), (25, -70)])
def test_the_unit_of_the_mos_does_not_matter(scale: float, shift: float) -> None:
    plain, other = (
        analyse(images)[0] for images in (wavering(), wavering(scale=scale, shift=shift))
    )
    assert other.error == pytest.approx(plain.error * scale, rel=1e-3, abs=1e-4 * scale)
    assert [r.row.image for r, _ in other.worst(6)] == [r.row.image for r, _ in plain.worst(6)]
    assert std_check(other).within == pytest.approx(std_check(plain).within, abs=0.04)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([rated(i, i // 5, 1 + i / 10) for i in range(30)], "the std of all 30 images is the same"),
        (
            [rated(i, i // 5, 1 + i / 10, i) for i in range(15)],
            "only 15 images have a std, and 20 are needed",
        ),
        ([rated(i, i // 5, 1 + i / 10, None) for i in range(30)], "two answers or more"),
        ([rated(i, i, 3.0) for i in range(30)], "the score of all 30 images is the same"),
        ([rated(i, i, None, None) for i in range(9)], "at least 3 images"),
    ],
)
def test_why_there_is_no_check(images: list[Rated], words: str) -> None:
    data = analyse(images)[0]
    found = std_check(data)
    assert words in str(found.problem)
    assert found.bins.empty
    assert len(data.worst(3)) == (0 if data.fit.problem else 3)


def test_breakdowns_are_of_the_columns_that_tell_groups() -> None:
    images = [*wavering(), rated(99, 2.0, None, None, distortion="broken")]
    many = ["jpeg"] * 40 + ["blur"] * 17 + ["noise"] * 3 + [None]
    for i, each in enumerate(images):
        extra = {"level": str(10 - i % 2), "camera": "ab"[i % 2], "file": f"{i}", "empty": None}
        images[i] = Rated(replace(each.row, distortion=many[i], extra=extra), each.rating)
    data = analyse(images)[0]
    found = breakdowns(data)
    assert list(found) == ["distortion", "level", "camera"]  # each file is alone, so it is no group
    assert [group.name for group in found["level"]] == ["9", "10"]
    groups = {group.name: group for group in found["distortion"]}
    assert {name: group.n for name, group in groups.items()} == {"jpeg": 40, "blur": 17, "noise": 3}
    assert found["distortion"][-1] is groups["noise"]
    assert "too few" in str(groups["noise"].problem)
    jpeg = [each for each in images if each.row.distortion == "jpeg"]
    value = srcc([each.rating.score for each in jpeg], [each.row.mos for each in jpeg])  # type: ignore[misc]
    assert groups["jpeg"].srcc.value == pytest.approx(value)
    assert groups["jpeg"].srcc.low < value < groups["jpeg"].srcc.high
    # The same images as a set of their own: one bootstrap, so the same interval.
    assert groups["jpeg"].srcc == analyse(jpeg)[0].agreement.srcc
    index = [i for i, each in enumerate(data.scored) if each.row.distortion == "jpeg"]
    assert groups["jpeg"].mean_error == pytest.approx(data.error[index].mean())
