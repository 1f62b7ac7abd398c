"""What strangers wrote, shown so that it does nothing: file names, reasons and messages on terminals and pages.

A file name or the words of a model may hold characters that move a terminal's cursor, change its title, or turn the
direction of the text after them. They are shown as escapes, such as \\u001b, and never sent.
"""

import re
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

# Control characters (Unicode category Cc), line and paragraph separators, marks of direction, and halves of characters,
# which stand for bytes of a file name that are no UTF-8. Joiners stay: emoji and Persian need them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Of them, what words in several lines need.
_LINES = frozenset("\n\t")


def visible(text: str) -> str:
    """Words of one or several lines, with every other control character as an escape of the form \\u001b.

    >>> visible("red: \\x1b[31m")
    'red: \\\\u001b[31m'
    """
    text = text.replace("\r\n", "\n")
    return _HIDDEN.sub(lambda found: found[0] if found[0] in _LINES else _escape(found[0]), text)


def visible_line(text: str) -> str:
    """A name in one line: as `visible`, and line breaks and tabs become escapes too.

    The result of a line of JSON is JSON with the same meaning, since in JSON an escape stands for its character.
    """
    return _HIDDEN.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"


def shown(text: str, style: str = "") -> Text:
    """Words for a terminal or a cell of a table: visible, and brackets are not taken for rich's markup."""
    return Text(visible(text), style=style)


def shown_line(text: str, style: str = "") -> Text:
    """A name for a terminal or a cell of a table, in one line."""
    return Text(visible_line(text), style=style)


class PlainConsole(Console):
    """A console on which no text is markup, an emoji or a control character, whoever it is from.

    The last guard: what is printed should come from `shown` and `shown_line`, since rich's `Text` leaves out some
    control characters without a word.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(markup=False, emoji=False, **kwargs)

    def render(self, renderable: RenderableType, options: Any = None) -> Any:
        if isinstance(renderable, Text) and _HIDDEN.search(renderable.plain):
            # Styles of parts of the text are dropped: their places would no longer be right.
            renderable = renderable.blank_copy(visible(renderable.plain))
        return super().render(renderable, options)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        return super().render_str(visible(text), **kwargs)

    def status(self, status: RenderableType, **kwargs: Any) -> Any:
        # rich would read a str as markup here, whatever the console's own setting.
        return super().status(shown_line(status) if isinstance(status, str) else status, **kwargs)
