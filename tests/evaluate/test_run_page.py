"""The curves of the page about a run: escaped, true to the metrics, and the same every time."""

import base64
import html
import math
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visualquality.errors import UserError
from visualquality.evaluate.page import thumbnail
from visualquality.evaluate.run_images import Answers, RunImage
from visualquality.evaluate.run_page import read_metrics, read_validations, write_run_page

VOID = {"meta", "link", "img"}


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


def write(path: Path, **changes: Any) -> Page:
    given: dict[str, Any] = {
        "title": "A run",
        "metrics": steps(3),
        "answers": [],
        "probed": False,
        "pictures": {},
        "notes": ["A note."],
    }
    write_run_page(path, **(given | changes))
    return Page(path)


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = "--></style></title><script>alert('1')</script>&amp;\"<img src=x>"
    image = RunImage("data" + evil, "<b>&.png", 1.0)
    said = [Answers(image, step, None, None, "reasoning" + evil) for step in (1, 2)]
    page = write(
        tmp_path / "new" / "report.html",
        title="title" + evil,
        notes=["note" + evil, "half a character \ud83d"],
        metrics=steps(2, **{f"reward/{evil}": 1.0}),
        answers=said,
    )
    assert not page.all("script")
    assert not page.all("img")
    assert "<b>&.png" in page.text
    assert "half a character \\ud83d" in page.text
    for where in ("title", "reasoning", "note", "data"):
        assert where + evil in html.unescape(page.source)
        assert where + evil in page.text
    assert any(evil in str(svg["aria-label"]) for svg in page.all("svg"))


def test_the_numbers_are_those_given(tmp_path: Path) -> None:
    image = RunImage("d", "a.png", 63.456)
    said = [
        Answers(image, 1, 3.141, 0.271, "It is blurred."),
        Answers(image, 2, 1.618, None, None),
        Answers(image, 3, None, None, "No number."),
    ]
    page = write(
        tmp_path / "report.html",
        metrics=steps(2) + steps(1, reward=1.5, readable=0.25),
        answers=said,
    )
    assert "MOS 63.46 data set d scored at 3 steps" in page.text
    assert "Step 1: 3.14 ± 0.27 It is blurred. Step 3: no readable answer No number." in page.text
    assert "Step 2" not in page.text  # it has no words
    assert "nan" not in page.text.lower()
    alt = [str(svg["aria-label"]) for svg in page.all("svg")]
    assert "total 1.25 at first, 1.5 at last; fidelity 0.75 at first" in alt[0]
    assert "3.14 at step 1; 1.62 at step 2." in alt[3]
    assert "between 25.0% and 100.0% of the answers were readable" in page.text


def test_a_thumbnail_is_small_and_a_missing_image_is_named_without_its_folder(
    tmp_path: Path,
) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (300, 200), (12, 90, 60)).save(image)
    data, problem = thumbnail(image)
    opened = Image.open(
        BytesIO(base64.b64decode(str(data).removeprefix("data:image/jpeg;base64,")))
    )
    assert (opened.format, opened.size, problem) == ("JPEG", (192, 128), None)
    image.write_bytes(b"no image")
    data, problem = thumbnail(image)
    assert data is None
    assert "image.png" in str(problem)
    assert str(tmp_path) not in str(problem)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 100])
def test_any_number_of_steps_is_drawn(tmp_path: Path, n: int) -> None:
    page = write(tmp_path / "report.html", metrics=steps(n, kl=0.0))
    assert len(page.all("svg")) == 3
    assert ("the mean over 6 steps" in page.text) == (n == 100)
    assert "nothing to compare" in page.text


@pytest.mark.parametrize("absent", [None, math.nan, math.inf, "a word"])
def test_absent_metrics_are_named(tmp_path: Path, absent: object) -> None:
    one = write(tmp_path / "one.html", metrics=steps(2) + steps(1, kl=absent, readable=absent))
    assert "Lines of the metrics without a number, not drawn: “kl” in 1 of 3." in one.text
    assert "100.0% of the answers were readable" in one.text
    assert len(one.all("svg")) == 3
    all_ = write(tmp_path / "all.html", metrics=steps(2, kl=absent))
    assert "no line of the metrics has a step and a number for “kl”." in all_.text
    assert len(all_.all("svg")) == 2
    none = write(tmp_path / "none.html", metrics=[{"loss": 1.0}])
    assert none.text.count("Nothing to plot") == 3
    assert not none.all("svg")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path)


def test_read_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kl": NaN}\n\n{"step": 2, "note": "a\u2028b"}\n', encoding="utf-8")
    first, second = read_metrics(path)
    assert math.isnan(first["kl"])
    assert second == {"step": 2, "note": "a\u2028b"}
    for bad in ('{"step": 3', "[1]"):
        path.write_text(f'{{"step": 1}}\n\n{bad}\n', encoding="utf-8")
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 3: not a JSON object"):
            read_metrics(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path / "absent.jsonl")


def test_validations_are_a_curve_of_their_own_and_no_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "eval_scored": 1, "eval_srcc": 0.5}\n{"step": 1, "reward": 1}\n'
        '{"step": 1, "eval_scored": 1, "eval_srcc": 0.75}\n'
    )
    assert read_metrics(path) == [{"step": 1, "reward": 1}]
    validations = read_validations(path)
    assert [v["step"] for v in validations] == [0, 1]
    page = write(tmp_path / "page.html", validations=validations)
    assert "Agreement on the validation part" in page.text
    assert "srcc 0.5 at first, 0.75 at last" in page.source
    without = write(tmp_path / "without.html")
    assert "Agreement" not in without.text
    nothing = write(tmp_path / "none.html", validations=[{"step": 0, "eval_scored": 0}])
    assert "no validation had a correlation" in nothing.text
