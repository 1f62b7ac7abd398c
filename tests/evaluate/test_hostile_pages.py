"""Pages and sheets about images with hostile names and words: nothing executes, nothing breaks, nothing is copied."""

import base64
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from browser import BROWSER, look
from conftest import picture
from visualquality.data.manifest import Manifest, Row
from visualquality.data.sheet import contact_sheet
from visualquality.evaluate.results_page import write_results_page
from visualquality.evaluate.run_images import Answers, RunImage
from visualquality.evaluate.run_page import write_run_page
from visualquality.score.rating import Rating

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></svg></title><script>document.title='owned'</script>",
    "'onmouseover='x",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raise %}",
    "&lt;b&gt;",
    "--><!--",
    "$\\frac{1}{0}$ $$",
    "\u202eturned\u202c \u2066\u200f",
    "\x1b[2J\x07\x9b",
    "null\0byte",
    "two\nlines",
    "\udcff\ud800",
    "x" * 20_000,
]


def rating(name: str, score: float, words: str) -> Rating:
    return Rating(name, score, 0.1, (score,), words, None, words, words, 0, 0.1, words)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Each kind of page, with hostile words in every place that a stranger's words may come to."""
    folder = tmp_path_factory.mktemp("pages")
    ratings = [rating(f"{text}{i}", 1 + i % 4 + i / 99, text) for i, text in enumerate(HOSTILE * 3)]
    failed = Rating("<b>", None, None, (), None, HOSTILE[0] + "\x1b", "m", "reason", 0, 0.1)
    header = {text: text for text in HOSTILE}
    common = {"title": HOSTILE[0], "header": header, "notes": HOSTILE}
    write_results_page(folder / "scores.html", ratings=[*ratings, failed], **common)
    rows = []
    for i, text in enumerate(HOSTILE * 3):
        image = Path(f"{text}{i}".replace("\0", ""))
        fields = {"distortion": text, "reference": text, "extra": {text: text}}
        rows.append(Row(image, float(i), HOSTILE[i % 2], split="test", **fields))
    write_results_page(folder / "agreement.html", ratings=ratings, rows=rows, **common)
    answers = [
        Answers(RunImage(text, text, 1.0 + i, key=str(i)), step, 2.0 + step, 0.1, text)
        for i, text in enumerate(HOSTILE)
        for step in (0, 1, 2)
    ]
    metrics = [{"step": s, "reward": 1.0, f"reward/{HOSTILE[2]}": 0.3} for s in range(4)]
    pictures = {each.image: Path(each.image.name.replace("\0", "")) for each in answers}
    write_run_page(
        folder / "run.html",
        title=HOSTILE[1],
        metrics=metrics,
        answers=answers,
        probed=False,
        pictures=pictures,
        notes=HOSTILE,
    )
    return {page.stem: page for page in folder.glob("*.html")}


PAGES = ("scores", "agreement", "run")


@pytest.mark.parametrize("name", PAGES)
def test_no_tag_no_attribute_and_no_hidden_character_is_a_stranger_s(name, pages):
    text = pages[name].read_text(encoding="utf-8")
    assert "<script" not in text
    tags = re.findall(r"<[a-zA-Z][^<>]*>", text)
    assert [tag for tag in tags if re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', "", tag))] == []
    assert [tag for tag in tags if re.match(r"<img(?! src=\"data:image/jpeg;base64,)", tag)] == []
    hidden = [c for c in set(text) if not c.isprintable() and c not in "\n\xa0"]
    assert hidden == []
    assert "\\u202eturned" in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to look at pages")
def test_a_browser_shows_the_words_and_runs_nothing(pages, tmp_path):
    for seen in look([(pages[name], 1000) for name in PAGES], tmp_path):
        assert "document.title='owned'" in seen.text
        assert "turned" in seen.text
        assert seen.overflow <= 0


@pytest.mark.parametrize("name", [*HOSTILE, "a\rb\tc", "x" * 300_000])
def test_a_contact_sheet_takes_any_name(name, tmp_path):
    picture(0).save(tmp_path / "a.png")
    started = time.perf_counter()
    contact_sheet(Manifest((Row(tmp_path / "a.png", 3.0, name),)), tmp_path / "sheet.png")
    assert time.perf_counter() - started < 10
    assert Image.open(tmp_path / "sheet.png").height < 500


def test_no_exif_and_no_place_is_copied_into_pages_and_sheets(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x013B] = 6, "SecretMaker", "SecretArtist"
    exif.get_ifd(0x8825)[1], exif.get_ifd(0x8825)[2] = "N", (52.0, 31.0, 12.0)
    photo = tmp_path / "photo.jpg"
    picture(1).save(photo, exif=exif, comment=b"SecretComment", quality=95)
    assert b"SecretMaker" in photo.read_bytes()
    write_results_page(
        tmp_path / "p.html",
        title="t",
        header={},
        ratings=[rating(str(photo), 3.0, "w"), rating(str(photo) + "x", 2.0, "w")],
    )
    contact_sheet(Manifest((Row(photo, 3.0, "set"),)), tmp_path / "s.jpg")
    contact_sheet(Manifest((Row(photo, 3.0, "set"),)), tmp_path / "s.png")
    copies = [(tmp_path / name).read_bytes() for name in ("s.jpg", "s.png")]
    page = (tmp_path / "p.html").read_text()
    copies += [base64.b64decode(found) for found in re.findall(r"base64,([\w+/=]+)", page)]
    assert len(copies) == 3
    for copy in copies:
        assert b"Secret" not in copy
        assert b"Exif" not in copy
        assert b"eXIf" not in copy
