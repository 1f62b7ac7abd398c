"""A contact sheet: a data set's images from the worst to the best, each with its MOS, on one page."""

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from ..io import write_whole
from ..terminal import visible_line
from .images import open_image
from .manifest import Manifest, Row

_CELL, _GAP, _MARGIN = 192, 14, 28  # pixels
_CAPTION, _HEADING = 44, 64  # heights
_PAGE, _PANEL, _TEXT, _MUTED = "#fafaf8", "#ecedef", "#23272e", "#5c6470"
_MOST_CHARACTERS = 1000  # of a text; no line is that wide
_LONGEST = 65_500  # pixels: what a JPEG can be


def contact_sheet(
    manifest: Manifest, output: str | os.PathLike[str], *, count: int = 24, columns: int = 6
) -> None:
    """Write a PNG or JPEG (by suffix) of thumbnails, a section for each data set.

    A section holds `count` images (all, if there are fewer) at evenly spaced ranks of MOS, the worst and the best
    among them, in rising order; images of equal MOS are taken by path. The same input gives the same pixels.

    Raises UserError for another suffix, a count or columns below 1, a sheet too long to be written, and for an image
    that cannot be opened.
    """
    output = Path(output)
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"{output} is neither .png nor .jpg: give it one of these suffixes")
    if count < 1 or columns < 1:
        raise UserError(f"count is {count} and columns {columns}: give at least 1 of each")
    sections: dict[str, list[Row]] = {name: [] for name in manifest.datasets}
    for row in manifest.rows:
        sections[row.dataset].append(row)
    chosen = {name: by_mos(rows, count) for name, rows in sections.items()}
    # No empty columns where all sections are short.
    columns = min(columns, max(map(len, chosen.values())))
    lines = {name: math.ceil(len(rows) / columns) for name, rows in chosen.items()}
    across, down = _CELL + _GAP, _CELL + _CAPTION + _GAP  # from one cell to the next
    width = 2 * _MARGIN + columns * across - _GAP
    height = 2 * _MARGIN + len(chosen) * _HEADING + sum(lines.values()) * down - _GAP
    # Checked before images are opened, which takes long.
    if max(width, height) > _LONGEST:
        text = f"the sheet would be {width} × {height} pixels, over {_LONGEST:,}"
        raise UserError(f"{text}: give a smaller count")
    page = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(page)
    top = _MARGIN
    for name, rows in chosen.items():
        mos = [row.mos for row in sections[name]]
        low, high = min(mos), max(mos)
        # Decimals: 3 for MOS that span 0 to 1, 2 for 1 to 5, 1 for 0 to 100.
        decimals = 1 + (high - low <= 20) + (high - low <= 2)
        facts = f"{len(mos):,} images, MOS {low:.{decimals}f} to {high:.{decimals}f}"
        room = width - 2 * _MARGIN
        _write(draw, _MARGIN, top, name, room, 24, _TEXT)
        _write(draw, _MARGIN, top + 32, facts, room, 15, _MUTED)
        top += _HEADING
        for number, row in enumerate(rows):
            line, column = divmod(number, columns)
            left = _MARGIN + column * across
            _draw_cell(page, draw, left, top + line * down, row, f"{row.mos:.{decimals}f}")
        top += lines[name] * down
    with write_whole(output) as part:
        # Pillow would take the format from the suffix, but `part` has another.
        kind = "PNG" if output.suffix.lower() == ".png" else "JPEG"
        page.save(part, kind, quality=90)


def by_mos(rows: list[Row], count: int) -> list[Row]:
    """At most `count` of the rows, at evenly spaced ranks of MOS, from the worst to the best; the median for 1."""
    ranked = sorted(rows, key=lambda row: (row.mos, str(row.image)))
    if count == 1:
        return [ranked[(len(ranked) - 1) // 2]]
    ranks = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return [ranked[rank] for rank in np.rint(ranks).astype(int)]


def _draw_cell(
    page: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, row: Row, mos: str
) -> None:
    draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), _PANEL)
    image = open_image(row.image)
    scale = _CELL / max(image.size)
    # A strip of 2000 × 1 pixels keeps its one row.
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # reducing_gap: large photos are first halved quickly, with no difference that is seen.
    thumbnail = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    page.paste(thumbnail, (left + (_CELL - width) // 2, top + (_CELL - height) // 2))
    _write(draw, left, top + _CELL + 4, mos, _CELL, 16, _TEXT)
    _write(draw, left, top + _CELL + 23, row.image.name, _CELL, 12, _MUTED)


def _write(
    draw: ImageDraw.ImageDraw, left: int, top: int, text: str, width: int, size: int, color: str
) -> None:
    """Write one line, its middle left out where it is wider than `width`: the ends of file names differ."""
    font = ImageFont.load_default(size)
    # The ends are enough: to measure a text of a million characters anew for each that is left out would take hours.
    ends = _MOST_CHARACTERS // 2
    text = text if len(text) <= _MOST_CHARACTERS else text[:ends] + text[-ends:]
    # Pillow draws line breaks as lines, and fails for half a character.
    text = visible_line(text)
    shorter, kept = text, len(text)
    while font.getlength(shorter) > width and kept > 1:
        kept -= 1
        shorter = f"{text[: math.ceil(kept / 2)]}…{text[len(text) - kept // 2 :]}"
    draw.text((left, top), shorter, color, font)
