"""The page about a run: alone, escaped, true to its numbers, and the same every time."""

import base64
import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visualquality.errors import UserError
from visualquality.evaluate.report import (
    Prediction,
    SummaryRow,
    read_metrics,
    write_training_report,
)

VOID = {"meta", "link", "img"}
SUMMARY = [
    SummaryRow("before RL2R", math.nan, 0.4321, 0.3014, 0.875, 4),
    SummaryRow("after", 0.9127, 0.9, 0, 1, 4),
]


class Page(HTMLParser):
    """Elements as (tag, attributes), and text by the element that holds it; refuses badly nested ones."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style" and text)


def steps(n: int, **changes: Any) -> list[dict]:
    record = {
        "reward": 1.25,
        "reward/fidelity": 0.75,
        "reward/format": 0.5,
        "score_std": 0.3,
        "kl": 0.01,
        "readable": 1,
    }
    return [{"step": i + 1} | record | changes for i in range(n)]


@pytest.fixture
def predictions(tmp_path: Path) -> list[Prediction]:
    """Of 21 images with mos 1, 1.2, …, 5, each 300 × 200."""
    made = []
    for i in range(21):
        image = tmp_path / f"image_{i:02}.png"
        Image.new("RGB", (300, 200), (12 * i, 90, 60)).save(image)
        made.append(Prediction(image, 1 + i / 5, 2 + i / 10, 0.25, f"Words about {i}.", None))
    return made


def write(
    path: Path, before: list[Prediction], after: list[Prediction] | None = None, **changes: Any
) -> Page:
    given: dict[str, Any] = {
        "title": "A run",
        "metrics": steps(3),
        "summary": SUMMARY,
        "notes": ["A note."],
    }
    write_training_report(
        path, before=before, after=before if after is None else after, **(given | changes)
    )
    return Page(path)


def test_nothing_is_fetched_and_ids_are_unique(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    page = write(tmp_path / "new" / "report.html", predictions)
    used = [
        v
        for _, attrs in page.elements
        for k, v in attrs.items()
        if k.removeprefix("xlink:") in ("src", "href")
    ]
    used += re.findall(r"url\(([^)]*)\)", page.source)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(page.all("img")) == 8
    assert len(page.all("svg")) == 5
    assert used
    assert all(v and (v.startswith("data:") or v[1:] in ids) for v in used)
    assert len(ids) == len(set(ids))
    assert "@import" not in page.source
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not page.all("script")
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in page.all("svg"))
    # A colour left as it was drawn would not follow the dark mode.
    assert not re.search(r"#[0-9a-f]{6}", page.source.split("</style>", 1)[1])


def test_text_is_escaped(tmp_path: Path, predictions: list[Prediction]) -> None:
    evil = "--></style></title><script>alert('1')</script>&amp;\"<img src=x>"
    image = tmp_path / "<b>&.png"
    worst = Prediction(image, 1, None, None, "reasoning" + evil, "problem" + evil)
    metrics = steps(2, **{f"reward/{evil}": 1.0})
    page = write(
        tmp_path / "report.html",
        [*predictions[:2], worst],
        title="title" + evil,
        notes=["note" + evil, "half a character \ud83d"],
        summary=[replace(SUMMARY[0], name="name" + evil)],
        metrics=metrics,
    )
    assert not page.all("script")
    assert len(page.all("img")) == 2
    assert "<b>&.png" in page.text
    assert "half a character ?" in page.text
    for where in ("title", "reasoning", "problem", "note", "name"):
        assert where + evil in html.unescape(page.source)
        assert where + evil in page.text
    assert any(evil in str(svg["aria-label"]) for svg in page.all("svg"))


def test_the_numbers_are_those_given(tmp_path: Path, predictions: list[Prediction]) -> None:
    before = [Prediction(predictions[0].image, 63.456, 3.141, 0.271, "It is blurred.", None)]
    after = [Prediction(predictions[0].image, 63.456, 1.618, None, None, None)]
    page = write(
        tmp_path / "report.html",
        before,
        after,
        metrics=steps(2) + steps(1, reward=1.5, readable=0.25),
    )
    cells = [text for tag, text in page.texts if tag in ("td", "span") and text]
    assert cells[:6] == ["—", "0.913", "0.432", "0.900", "0.301", "0.000"]
    assert cells[6:10] == ["87.5%", "100.0%", "4", "4"]
    assert "not defined" in page.text
    assert (
        "true score 63.46 before 3.14 ± 0.27 → after 1.62 Before. It is blurred. After."
        in page.text
    )
    assert "nan" not in page.text.lower()
    assert "total 1.25 at first, 1.5 at last; fidelity 0.75 at first" in str(
        page.all("svg")[0]["aria-label"]
    )
    assert "Readable were between 25.0% and 100.0% of" in page.text
    whole = write(tmp_path / "whole.html", before, summary=SUMMARY[1:])
    assert "—" not in whole.text


def test_an_image_without_picture_or_score_keeps_its_card(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    predictions[1].image.write_bytes(b"no image")
    predictions[2].image.unlink()
    before = [
        replace(p, score=None, std=None, reasoning=None, problem="too long")
        for p in predictions[:3]
    ]
    page = write(tmp_path / "report.html", before, predictions[:3])
    assert len(page.all("article")) == 3
    assert len(page.all("img")) == 1
    assert page.text.count("No picture: image_0") == 2
    assert str(tmp_path) not in page.source
    assert page.text.count("no score") == 3
    assert page.text.count("No score: too long") == 3
    assert "Nothing to plot: 0 of these 3 images have a score." in page.text
    assert len(page.all("svg")) == 4


def test_examples_span_the_true_scores(tmp_path: Path, predictions: list[Prediction]) -> None:
    crowded = [replace(p, mos=1 + i / 1000) if i < 14 else p for i, p in enumerate(predictions)]
    page = write(tmp_path / "report.html", crowded[::-1], crowded)
    names = [text for tag, text in page.texts if tag == "h3" and text.startswith("image_")]
    assert len(names) == 8
    assert names == sorted(names)
    assert {"image_00.png", "image_20.png", "image_14.png", "image_17.png"} <= set(names)
    for image in page.all("img"):
        data = base64.b64decode(str(image["src"]).removeprefix("data:image/jpeg;base64,"))
        opened = Image.open(BytesIO(data))
        assert (opened.format, opened.size) == ("JPEG", (192, 128))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 100])
def test_any_number_of_steps_is_drawn(tmp_path: Path, n: int) -> None:
    page = write(tmp_path / "report.html", [], metrics=steps(n, kl=0.0))
    assert len(page.all("svg")) == 3
    assert ("the mean over 6 steps" in page.text) == (n == 100)
    assert "No predictions were given" in page.text


@pytest.mark.parametrize("absent", [None, math.nan, math.inf, "a word"])
def test_absent_metrics_are_named(tmp_path: Path, absent: object) -> None:
    one = write(tmp_path / "one.html", [], metrics=steps(2) + steps(1, kl=absent, readable=absent))
    assert "Lines of the metrics without a number, not drawn: “kl” in 1 of 3." in one.text
    assert "Readable were 100.0% of" in one.text
    assert len(one.all("svg")) == 3
    all_ = write(tmp_path / "all.html", [], metrics=steps(2, kl=absent))
    assert "no line of the metrics has a step and a number for “kl”." in all_.text
    assert len(all_.all("svg")) == 2
    none = write(tmp_path / "none.html", [], metrics=[{"loss": 1.0}], summary=[])
    assert none.text.count("Nothing to plot") == 5
    assert not none.all("svg")


def test_same_input_same_bytes(tmp_path: Path, predictions: list[Prediction]) -> None:
    pages = [
        write(tmp_path / name, given).source
        for name, given in (("a", predictions), ("b", predictions[::-1]))
    ]
    assert pages[0] == pages[1]


def test_before_and_after_are_of_the_same_images(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    output = tmp_path / "report.html"
    moved = [replace(predictions[0], mos=4.5), *predictions[1:]]
    for before, after, words in (
        (predictions, predictions[1:], "image_00.png, of mos 1, is predicted only"),
        (predictions, moved, "image_00.png, of mos 1, is predicted only"),
        (predictions + predictions[:1], predictions, "twice"),
    ):
        with pytest.raises(UserError, match=words):
            write(output, before, after)
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path, predictions)
    with pytest.raises(ValueError, match="finite"):
        replace(predictions[0], std=math.nan)
    assert not output.exists()


def test_read_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kl": NaN}\n\n{"step": 2, "note": "a\u2028b"}\n', encoding="utf-8")
    first, second = read_metrics(path)
    assert math.isnan(first["kl"])
    assert second == {"step": 2, "note": "a\u2028b"}
    for bad in ('{"step": 3', "[1]"):
        path.write_text(f'{{"step": 1}}\n\n{bad}\n', encoding="utf-8")
        with pytest.raises(UserError, match=r"line 3 of .*metrics.jsonl is not"):
            read_metrics(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path / "absent.jsonl")
