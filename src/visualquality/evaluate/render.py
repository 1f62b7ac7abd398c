"""A benchmark's table as text for the terminal, Markdown, LaTeX, CSV and an HTML page.

The formats are written here and not with pandas, because its `to_markdown` and `Styler` have no rows for blocks and
groups, no spans over some columns, and no rules under them.
"""

import csv
import json
import re
from collections.abc import Iterator
from io import StringIO
from itertools import zip_longest
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.text import Text

from ..data.tables import csv_cell
from ..io import write_text
from .agreement import COEFFICIENTS
from .benchmark import Measured, Results
from .paper import paper_tables
from .tables import Table, layout

CSV_COLUMNS = (
    *("method", "group", "source", "dataset", "dataset_group", "column", "coefficient"),
    *("value", "low", "high", "n", "n_unreadable", "problem"),
)

# How each format shows the style of a cell (`tables.Cell`); a style that is not named is plain. In the terminal
# NAMES are the texts of the first column, and TERMINAL the styles of Rich.
NAMES = {
    "measured": "  {}",
    "published": "  {} (paper)",
    "card": "  {} (published)",
    "unavailable": "  {} (unavailable)",
}
TERMINAL = {
    "method": "bold",
    "n": "dim",
    "block": "bold",
    "group": "italic",
    "published": "dim",
    "card": "dim",
    "unavailable": "yellow",
    # A published row is dim, but not its best numbers.
    "best": "not dim bold",
    "second": "not dim underline",
}
MARKDOWN = {
    "heading": "**{}**",
    "n": "*{}*",
    "block": "**{}**",
    "group": "*{}*",
    "published": "{} (paper)",
    "card": "{} (published)",
    "unavailable": "{} (unavailable)",
    "best": "**{}**",
    "second": "<u>{}</u>",
}
# {0} is the text, {1} the number of columns.
LATEX = {
    "spans": r"\multicolumn{{{1}}}{{c}}{{{0}}}",
    "n": r"\textit{{{0}}}",
    "block": r"\multicolumn{{{1}}}{{l}}{{\textbf{{{0}}}}}",
    "group": r"\multicolumn{{{1}}}{{l}}{{\textit{{{0}}}}}",
    "published": r"{0} \textsuperscript{{paper}}",
    "card": r"{0} \textsuperscript{{published}}",
    "unavailable": "{0} (unavailable)",
    "best": r"\textbf{{{0}}}",
    "second": r"\underline{{{0}}}",
}
LATEX_CHARACTERS = str.maketrans(
    {
        **{c: rf"\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "†": r"\textsuperscript{\textdagger}",
        "–": "--",
        "“": "``",
        "”": "''",
        "·": r"\textperiodcentered{}",
        "\n": " ",
    }
)


def write_all(results: Results, folder: Path) -> Table:
    """Write table.md, .tex, .csv, .html and results.json into `folder`, which is made; returns the table.

    Raises UserError where a file cannot be written.
    """
    table = layout(results)
    found = json.dumps(results.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "table.md", markdown(table))
    write_text(folder / "table.tex", latex(table))
    write_text(folder / "table.csv", to_csv(results))
    write_text(folder / "results.json", found + "\n")
    write_html(table, folder / "table.html")
    return table


def terminal(table: Table) -> Text:
    """Lines of text with styles, as wide as they must be: groups of data sets are ruled, published rows are dim."""
    rows = list(table.grid())[1:]
    names = [NAMES.get(row[0].style, "{}").format(row[0].text) for row in rows]
    # The heading of a block or group is a row of one cell, which may run over all columns.
    first = max(len(name) for name, row in zip(names, rows, strict=True) if len(row) > 1)
    columns = zip(*(row[1:] for row in rows if len(row) > 1), strict=True)
    # Right-aligned to the widest text of the column, with two spaces before.
    widths = [2 + max(len(cell.text) for cell in column) for column in columns]
    out = [Text(table.title, "bold"), Text()]
    # These may widen columns, so they come before all that is aligned.
    out += [Text(" " * first).append(line) for line in _terminal_spans(table, widths)]
    rule = Text("─" * (first + sum(widths)), "dim")
    for name, row in zip(names, rows, strict=True):
        if row[0].style == "block":
            out.append(rule)
        line = Text(name, TERMINAL.get(row[0].style, ""))
        if len(row) > 1:
            line.pad_right(first - len(name))
        for cell, width in zip(row[1:], widths, strict=False):
            # The space and the text are apart, so that only the digits are underlined.
            line.append(" " * (width - len(cell.text)), "not underline")
            line.append(cell.text, TERMINAL.get(cell.style, ""))
        out.append(line)
    return Text("\n").join([*out, rule])


def _terminal_spans(table: Table, widths: list[int]) -> list[Text]:
    """The lines with the groups of data sets and a rule under them.

    Adds to `widths` where a word of a group's name needs it.
    """
    if not any(group for group, _ in table.spans):
        return []
    names, rules, sizes, place = [], "", [], 0
    for group, count in table.spans:
        longest = max(map(len, group.split()), default=0)
        widths[place] += max(0, longest + 2 - sum(widths[place : place + count]))
        size = sum(widths[place : place + count]) - 2
        names.append(wrap(group, size, break_on_hyphens=False)[::-1])
        rules += "  " + ("─" if group else " ") * size
        sizes.append(size)
        place += count
    # From the last line up, so that short names stand on their rules.
    lines = []
    for row in list(zip_longest(*names, fillvalue=""))[::-1]:
        parts = [f"  {part:^{size}}" for part, size in zip(row, sizes, strict=True)]
        lines.append(Text("".join(parts), "italic"))
    return [*lines, Text(rules, "dim")]


def markdown(table: Table) -> str:
    """One table of GitHub's Markdown, and the notes as a list."""
    rows = []
    for row in table.grid():
        cells = []
        for cell in row:
            cells.append(MARKDOWN.get(cell.style, "{}").format(_md(cell.text)))
            # Markdown has no spans: a text stands over the first of its columns.
            cells += [""] * (cell.span - 1)
        rows.append(cells)
    # What must stand under the first row, and aligns the numbers.
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    notes = "".join(f"- {_md(note)}\n" for note in table.notes)
    return f"# {_md(table.title)}\n\n{text}\n\n{notes}"


def _md(text: str) -> str:
    # A line break would end the row.
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """A `table*` for a document that uses the package booktabs; the notes are its caption."""
    rows = []
    for row in table.grid():
        if row[0].style == "block":
            rows.append(r"\midrule")
        cells = [
            LATEX.get(cell.style, "{0}").format(cell.text.translate(LATEX_CHARACTERS), cell.span)
            for cell in row
        ]
        rows.append(" & ".join(cells) + r" \\")
    rules, place = [], 2  # LaTeX counts columns from 1, and the first has the names
    for group, count in table.spans:
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
        place += count
    if rules:
        rows.insert(1, " ".join(rules))
    # The sentences are joined by full stops, so each loses its own.
    caption = ". ".join(text.rstrip(".") for text in (table.title, *table.notes))
    numbers = "r" * (len(table.columns) + table.averaged)
    out = [
        r"% \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{caption.translate(LATEX_CHARACTERS)}.}}",
        rf"\begin{{tabular}}{{l{numbers}}}",
        r"\toprule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ]
    return "\n".join(out)


def to_csv(results: Results) -> str:
    """Long form: a row for each method, data set (then their average) and coefficient, both PLCCs too.

    `source` is measured, paper, or published (by the makers of a model). What is undefined or missing is an empty
    cell, and `problem` says why.
    """
    writer = csv.DictWriter(text := StringIO(), CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in (*_measured_rows(results), *_published_rows(results)):
        writer.writerow({k: csv_cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return text.getvalue()


def _measured_rows(results: Results) -> Iterator[dict[str, Any]]:
    for result in results.methods:
        named = {"method": result.name, "group": result.group, "source": "measured"}
        for c in results.datasets:
            cell = result.measured.get(c.name, Measured(None, result.problem))
            column = {"dataset": c.name, "dataset_group": c.group, "column": c.column}
            yield from _coefficients(named | column, cell)
        if len(results.datasets) > 1:
            problem = None if result.average else "not every data set has a number"
            average = Measured(result.average, problem)
            yield from _coefficients(named | {"dataset": "average"}, average)
        for name, figures in result.published.items():
            for key, value in figures.items():
                stated = {"source": "published", "dataset": name, "value": str(value)}
                yield named | stated | {"coefficient": COEFFICIENTS[key]}


def _coefficients(row: dict[str, Any], cell: Measured) -> Iterator[dict[str, Any]]:
    """A row for each coefficient of a cell."""
    found = cell.agreement
    problems = [cell.problem, *(found.problems if found else ())]
    row["problem"] = "; ".join(filter(None, problems))
    if found:
        row |= {"n": found.n, "n_unreadable": found.n_unreadable}
    for key, name in COEFFICIENTS.items():
        ends = vars(getattr(found, key)) if found else {}
        numbers = {end: f"{number:.6f}" for end, number in ends.items() if not isnan(number)}
        yield row | {"coefficient": name} | numbers


def _published_rows(results: Results) -> Iterator[dict[str, Any]]:
    for method in results.paper:
        for coefficient, row in paper_tables().published(method).items():
            named = {"method": method, "group": row.group, "source": "paper"}
            named["coefficient"] = coefficient
            for c in paper_tables().columns.values():
                column = {"dataset": c.dataset, "dataset_group": c.group, "column": c.name}
                # As printed: 0.43 is not 0.430.
                yield named | column | {"value": str(row.cells[c.name]), "n": c.images}
            yield named | {"dataset": "average", "value": str(row.average)}


def write_html(table: Table, output: Path) -> None:
    """A page that stands alone, light and dark. Raises UserError where it cannot be written."""
    # Here, because it brings matplotlib, which takes seconds and the other formats do not need.
    from .page import write_page

    write_page(output, "benchmark.html.jinja", title=table.title, notes=(), table=table)
