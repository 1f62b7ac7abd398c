"""What the HTML pages share: their theme, figures as inline SVG, thumbnails, and how a page is made of a template.

A page stands alone: figures are inline SVG, thumbnails are base64 JPEG, and nothing is fetched from a network. The same
input gives the same bytes.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.images import open_image
from ..errors import UserError

THUMBNAIL = 192  # pixels, the longer side
MAX_POINTS = 1000  # in a scatter plot: more would be a page of many megabytes, and one blot

# name -> (light, dark). Figures are drawn in the light colour, which then becomes the CSS variable of that name, so
# that they follow the page. Line styles and markers tell apart what colours may not.
THEME = {
    "page": ("#fafaf8", "#16181b"),
    "panel": ("#ffffff", "#1e2125"),
    "text": ("#23272e", "#e4e6e9"),
    "muted": ("#5c6470", "#a2aab5"),
    "rule": ("#dfe2e6", "#363b42"),
    "orange": ("#c2540a", "#f0a35e"),
    "blue": ("#0b6bb0", "#6cb8ee"),
    "green": ("#0a7d5c", "#4cc9a2"),
    "violet": ("#9a4c95", "#d69bd2"),
}
LIGHT = {name: light for name, (light, _) in THEME.items()}
STYLE: dict[str, Any] = {
    **dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), LIGHT["muted"]
    ),
    "text.color": LIGHT["text"],
    "grid.color": LIGHT["rule"],
    "axes.grid": True,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.axisbelow": True,
    "font.size": 8.5,
    "text.parse_math": False,  # the name of a metric may hold a dollar sign
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "visualquality",  # ids would be random
}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """A figure, or None where there is nothing to draw, and what its reader must know of missing numbers."""

    svg: Markup | None
    note: str


def draw(
    name: str, alt: str, size: tuple[float, float], plot: Callable[[Axes], object], **axes: Any
) -> Markup:
    """A figure of `size` (width, height) in inches that `plot` draws on its axes.

    `name`, of letters, digits and hyphens, keeps its ids apart from those of other figures of the page; `alt` says in
    words what is seen; `axes` are properties of the axes, such as xlabel.
    """
    with style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.add_subplot(**axes))
        figure.savefig(buffer := StringIO(), format="svg")
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{colour})")
    opening = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', svg)
    assert opening, "matplotlib writes the size of an SVG as a viewBox"
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(opening[1]), alt)
    return head + Markup(svg[opening.end() :])


def widened(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis with a little room around `values`, which may be all the same."""
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def thumbnail(image: Path) -> tuple[str | None, str | None]:
    """A data URI of a JPEG of at most `THUMBNAIL` pixels a side, or why there is none."""
    try:
        opened = open_image(image)
    except UserError as error:
        return None, str(error).replace(str(image), image.name)
    opened.thumbnail((THUMBNAIL, THUMBNAIL))
    opened.save(buffer := BytesIO(), "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), None


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly over their order, the first and the last among them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(len(items), count)).astype(int)]


def spread(items: Sequence[Item], value: Callable[[Item], float], count: int) -> list[Item]:
    """At most `count` of the items, those nearest to evenly spaced values; items and result are in order of value."""
    if len(items) <= count:
        return list(items)
    left = list(range(len(items)))
    for target in np.linspace(value(items[0]), value(items[-1]), count):
        left.remove(min(left, key=lambda i: abs(value(items[i]) - target)))
    return [item for i, item in enumerate(items) if i not in left]


def write_page(output: Path, template: str, **values: Any) -> None:
    """Render the template `template` of this package with `values` into the file `output`, whose folder is made.

    What is not marked as markup is escaped. Raises UserError where `output` cannot be written.
    """
    environment = Environment(
        loader=FunctionLoader(
            lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(theme=THEME, max_points=MAX_POINTS, **values)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Half a character, as a cut-off response or an odd file name may hold, is written as a question mark.
        output.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror}): give a file in a writable folder"
        ) from error
