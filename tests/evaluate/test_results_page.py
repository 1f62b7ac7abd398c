"""The pages about results and about a run by itself, as a person sees them in a browser."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import BROWSER, Seen, look, screenshot
from conftest import picture
from visualquality.data.manifest import Row
from visualquality.evaluate.agreement import agreement
from visualquality.evaluate.matching import Rated
from visualquality.evaluate.results_page import write_results_page
from visualquality.evaluate.run_images import RunImage, read_answers
from visualquality.evaluate.run_page import read_metrics, write_run_page
from visualquality.score.rating import Rating

EVIL = "<script>document.body.innerHTML='gone'</script></title>&amp;\"<img src=x>"
HEADER = {"model": "nano", "weights": "abc123", "samples": 6, "max_pixels": None}


def rating(
    image: Path, score: float | None, std: float | None, words: str, problem: str | None = None
) -> Rating:
    samples = (score, score) if score is not None else ()
    made_by = {"model": "nano", "mode": "reason", "seed": 0, "seconds": 0.1}
    return Rating(str(image), score, std, samples, words, problem, **made_by)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> list[Rated]:
    """Laboratory: 24 images, the last but one rated 5 and scored 1.5, the last broken. Few: three images."""
    folder = tmp_path_factory.mktemp("rated")
    rng = np.random.default_rng(1)
    made = []
    for i in range(24):
        image = folder / (
            "<script>x<b>.png" if i == 22 else f"{i:02}_{'long' * 9 if i == 21 else 'photo'}.png"
        )
        picture(i, (240, 180 if i % 2 else 250)).save(image)
        score = 1.5 if i == 22 else float(np.round(1.2 + i / 6.2 + rng.normal(0, 0.3), 2))
        mos = (
            5.0
            if i == 22
            else float(1 / (1 + np.exp(-(score - 3) / 0.6)) * 4 + 0.5 + rng.normal(0, 0.2))
        )
        row = Row(
            image,
            mos,
            "laboratory",
            distortion=f"jpeg{EVIL}" if i % 3 else "blur",
            extra={"level": str(i % 8)},
        )
        made.append(
            Rated(
                row, rating(image, score, 0.05 + i / 90, f"Words of {i}. {EVIL if i == 22 else ''}")
            )
        )
    made[-1].row.image.write_bytes(b"nothing")
    path = made[-1].row.image
    made[-1] = Rated(
        made[-1].row, rating(path, None, None, "", f"{path} is not an image: copy it again")
    )
    for i in range(3):
        image = folder / f"few{i}.png"
        picture(50 + i).save(image)
        made.append(Rated(Row(image, 10.0 * i, "few"), rating(image, 2.0 + i, None, "")))
    return made


def write_results(path: Path, rated: Sequence[Rated]) -> Path:
    write_results_page(
        path,
        title="Agreement of nano",
        header=HEADER,
        ratings=[each.rating for each in rated],
        rows=[each.row for each in rated],
        notes=["A note."],
    )
    return path


def write_scores(path: Path, rated: Sequence[Rated]) -> Path:
    ratings = [each.rating for each in rated]
    write_results_page(path, title="Scores of nano", header=HEADER, ratings=ratings)
    return path


def write_run(path: Path, rated: Sequence[Rated], *, pictures: bool = True) -> Path:
    """Three steps on the same eight images; the first of them is another at the last step."""
    rows = [each.row for each in rated[15:23]]
    lines: list[dict[str, Any]] = []
    for step in (1, 2, 3):
        order = rows[::-1] if step == 3 else rows
        answers = [1.0 + step, 1.5 + step, None]
        texts = [
            f"<think>Seen at {step}. {EVIL}</think><answer>{a or 'none'}</answer>" for a in answers
        ]
        images = {
            "images": [row.image.name for row in order],
            "mos": [round(row.mos, 6) for row in order],
        }
        lines.append(
            {
                "step": step,
                "dataset": "laboratory",
                **images,
                "scores": [answers] * 8,
                "texts": texts,
            }
        )
    samples, metrics = path.with_suffix(".samples"), path.with_suffix(".metrics")
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics.write_text(
        "".join(
            json.dumps({"step": s, "reward": s / 3, "kl": 0, "score_std": 1 / s}) + "\n"
            for s in (1, 2)
        )
    )
    found = {RunImage("laboratory", row.image.name, round(row.mos, 6)): row.image for row in rows}
    write_run_page(
        path,
        title="Training run",
        metrics=read_metrics(metrics),
        answers=read_answers(samples),
        probed=False,
        pictures=found if pictures else {},
        notes=["A note."],
    )
    return path


@pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"
)
def test_what_a_person_sees(tmp_path: Path, rated: list[Rated]) -> None:
    pages = [
        write_results(tmp_path / "results.html", rated),
        write_scores(tmp_path / "scores.html", rated),
        write_run(tmp_path / "run.html", rated),
    ]
    seen = look([(page, width) for page in pages for width in (1280, 390)], tmp_path)
    for each in seen:
        assert each.width in (1280, 390)
        assert each.overflow <= 0
        assert not each.squeezed
        assert not each.spilling
        assert all(width > 0 for width in each.images)
        assert EVIL in each.text  # as text: it was not run
        assert each.background == "rgb(250, 250, 248)"
    results, scores, run = seen[::2]
    assert [len(each.images) for each in (results, scores, run)] == [
        6,
        12,
        5,
    ]  # two probes, and three steps
    results_in_words(results, rated)
    for words in (
        "Best images",
        "Worst images",
        "26 of 27",
        "Images without a score",
        "Mean score",
    ):
        assert words in scores.text
    assert (
        scores.text.index("few2.png")
        < scores.text.index("Worst images")
        < scores.text.index("00_photo.png")
    )
    for words in (
        "The same image at several steps",
        "Step 1: 2.25 ± 0.35",
        "Seen at 3.",
        "Distance from the start",
    ):
        assert words in run.text
    screenshot(pages[0], tmp_path / "dark.png", dark=True)
    shot = np.asarray(Image.open(tmp_path / "dark.png").convert("L"))
    assert shot.shape == (900, 1280)
    assert np.median(shot) < 60
    assert (shot > 180).mean() > 0.005  # letters


def results_in_words(page: Seen, rated: list[Rated]) -> None:
    text = page.text
    for heading in (
        "Agreement of nano",
        "Agreement with human ratings",
        "laboratory",
        "few",
        "Score against MOS",
        "By distortion",
    ):
        assert re.search(f"^{heading}$", text, re.MULTILINE), heading
    lab = [each for each in rated if each.row.dataset == "laboratory"]
    right = agreement([each.rating.score for each in lab], [each.row.mos for each in lab])
    for e in (right.srcc, right.krcc, right.plcc, right.plcc_logistic):
        assert re.search(rf"{e.value:.3f}\s+\[{e.low:.3f}, {e.high:.3f}\]", text)
    assert "too few images for a correlation" in text
    assert "23 of 24 images have a score." in text
    assert "1 of 27 images could not be scored" in text
    assert "23_photo.png is not an image: copy it again" in text
    assert (
        text.index("Worst disagreements") < text.index("<script>x<b>.png") < text.index("Words of")
    )
    assert re.search(
        r"<script>x<b>\.png\s+score\s+1\.50 ± 0\.29\s+mapped\s+[\d.]+\s+MOS\s+5\s+error\s+[\d.]+, too low",
        text,
    )
    assert "None can be named: the logistic mapping has 4 parameters" in text
    assert "SRCC between std and error" in text
    assert "nan" not in text.lower().replace("nano", "")


def test_pages_stand_alone_and_are_the_same_again(tmp_path: Path, rated: list[Rated]) -> None:
    for write in (write_results, write_scores, write_run):
        page = write(tmp_path / "a.html", rated).read_bytes()  # type: ignore[operator]
        assert page == write(tmp_path / "b.html", rated).read_bytes()  # type: ignore[operator]
        text = page.decode()
        body = text.split("</style>", 1)[1]
        assert "http://" not in text
        assert "https://" not in text
        assert "<script" not in text
        assert str(rated[0].row.image.parent) not in text
        assert not re.search(
            r"#[0-9a-f]{6}", body
        )  # a colour left as it was drawn would not follow the dark mode
        ids = re.findall(r'\bid="([^"]*)"', body)
        assert len(ids) == len(set(ids))
        used = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', text)
        assert all(a.startswith("data:") or (a or b)[1:] in ids for a, b in used)


def test_a_page_of_nothing_but_failures(tmp_path: Path, rated: list[Rated]) -> None:
    for write in (write_results, write_scores):
        text = write(tmp_path / "page.html", [rated[23]]).read_text()
        assert "1 of 1 images could not be scored" in " ".join(text.split())
        assert "Nothing to plot" in text
        assert "<article" not in text
    text = write_run(tmp_path / "run.html", rated, pictures=False).read_text()
    assert "<img" not in text
    assert text.count("<article") == 5
