"""Names and words of strangers do nothing to a terminal, and lose no character."""

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from visualquality.terminal import PlainConsole, shown, shown_line, visible, visible_line

HOSTILE = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "c1": "\x9b31m",
    "bell": "\x07",
    "back": "\x08",
    "return": "\r",
    "tab": "\t",
    "null": "\0",
    "delete": "\x7f",
    "override": "\u202egnp.exe",
    "isolate": "\u2066",
    "mark": "\u200f",
    "separator": "\u2028",
    "byte": "\udcff",
}


def printed(*what: object, **options: object) -> str:
    """What a console sends to a terminal that takes colours."""
    console = PlainConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    for each in what:
        console.print(each, **options)
    return console.file.getvalue()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_name_is_one_line_of_harmless_characters(text):
    name = f"a{text}b.png"
    assert visible_line(name).isprintable()
    assert all(letter in visible_line(name) for letter in "ab")
    assert json.loads(f'"{visible_line(name)}"') == name


@pytest.mark.parametrize("text", ["größe.png", "照片.png", "👩‍🔬.png", "می‌خواهم.png", "a b.png"])
def test_names_in_any_language_stay_as_they_are(text):
    assert visible_line(text) == visible(text) == text


def test_words_keep_their_lines():
    assert visible("one\r\ntwo\tthree\x1b") == "one\ntwo\tthree\\u001b"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_console_sends_no_control_character_however_it_is_printed(text):
    table = Table(title=text, caption=Text(text))
    table.add_column(text)
    table.add_row(Text(text))
    table.add_row(text)
    for sent in (printed(text, Text(text), shown(text), shown_line(text)), printed(table)):
        hidden = [c for c in sent if not c.isprintable() and c not in "\n\t"]
        assert hidden == []


def test_brackets_and_colons_are_text():
    name = "[bold]x[/bold] [/nope] :smile: [link=http://x]y[/link]"
    assert name in printed(name)
    assert name in printed(shown_line(name))
    with PlainConsole(file=io.StringIO()).status(name):
        pass


def test_a_name_is_shown_with_all_its_characters_in_a_table():
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_row(shown_line("a\rb\x07c\x1b[31md.png"))
    assert "a\\u000db\\u0007c\\u001b[31md.png" in printed(table)
