"""What the HTML pages share: theme, figures as inline SVG, thumbnails, and making a page from a template.

A page stands alone: figures are inline SVG, thumbnails are base64 JPEG, and nothing is fetched from a network. The same
input gives the same bytes.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.images import open_image
from ..errors import UserError
from ..io import write_text
from ..terminal import visible

# Pixels of the longer side of a thumbnail.
THUMBNAIL = 192
# Points of a scatter plot. More would make a page of many megabytes, and one dark blot.
MAX_POINTS = 1000

# name -> (light, dark). Figures are drawn in the light colour, which is then replaced by the CSS variable of that name,
# so that they follow the page. Lines also differ in style, for readers who cannot tell the colours apart.
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
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "text.color": LIGHT["text"],
    "grid.color": LIGHT["rule"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 8.5,
    # The name of a metric may hold a dollar sign.
    "text.parse_math": False,
    "savefig.transparent": True,
    # Text stays text, in the font of the page.
    "svg.fonttype": "none",
    # Without a fixed salt, ids would differ from run to run.
    "svg.hashsalt": "visualquality",
}

Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """A figure, or None where there is nothing to draw, and a note about what is missing."""

    svg: Markup | None
    note: str


def draw(
    name: str, alt: str, size: tuple[float, float], plot: Callable[[Axes], object], **axes: Any
) -> Markup:
    """A figure of `size` (width, height) in inches that `plot` draws on its axes.

    `name` (letters, digits, hyphens) keeps its ids apart from those of other figures of the page; `alt` describes the
    figure in words; `axes` are properties of the axes, such as xlabel.
    """
    with style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.add_subplot(**axes))
        figure.savefig(buffer := StringIO(), format="svg")
    # The metadata holds a date.
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{colour})")
    opening = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', svg)
    assert opening, "matplotlib writes the size of an SVG as a viewBox"
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(opening[1]), visible(alt))
    return head + Markup(svg[opening.end() :])


def axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis with a margin around `values`, which may all be equal."""
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def thumbnail(image: Path) -> tuple[str | None, str | None]:
    """A data URI of a JPEG of at most `THUMBNAIL` pixels a side, or why there is none."""
    try:
        opened = open_image(image)
    except UserError as error:
        # A page may be passed on: it names files, but no folders of this machine.
        return None, str(error).replace(str(image), image.name)
    opened.thumbnail((THUMBNAIL, THUMBNAIL))
    opened.save(buffer := BytesIO(), "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), None


def pick_evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items at equal steps in their order, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(len(items), count)).astype(int)
    return [items[place] for place in places]


def _visible(value: Any) -> Any:
    # Markup is ours; a name or a reasoning is a stranger's, and a mark of direction in it would turn our words too.
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_page(output: Path, template: str, **values: Any) -> None:
    """Render the template `template` of this package with `values` into the file `output`; its folder is made.

    What is not marked as markup is escaped, and its control characters are made visible (`terminal.visible`). Raises
    UserError where `output` cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("visualquality", "evaluate"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"thumbnail": thumbnail, "mean": fmean}
    write_text(output, environment.get_template(template).render(theme=THEME, **values))
