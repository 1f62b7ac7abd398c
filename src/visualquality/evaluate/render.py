"""A benchmark's table as text for the terminal, Markdown, LaTeX, CSV and an HTML page.

The formats are written here and not with pandas, because its `to_markdown` and `Styler` have no rows for blocks and
groups, no spans over some columns, and no rules under them.
"""

import csv
import json
import re
from collections.abc import Iterator
from io import StringIO
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.text import Text

from ..io import write_text
from .agreement import COEFFICIENTS, Agreement, average
from .benchmark import Measured, Results
from .paper import paper_tables
from .tables import Line, Table, Value, layout

PAPER = "paper"
CSV_COLUMNS = (
    *("method", "group", "source", "dataset", "dataset_group", "column", "coefficient"),
    *("value", "low", "high", "n", "n_unreadable", "problem"),
)

_LATEX = {
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
_TERMINAL_STYLES = {"best": "not dim bold", "second": "not dim underline", "": ""}
_MARKDOWN_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
_LATEX_MARKS = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}


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


def row_name(line: Line) -> str:
    """The label of a row in formats that have text alone."""
    if line.published:
        return f"{line.name} ({PAPER})"
    return f"{line.name} (unavailable)" if line.problem else line.name


def terminal(table: Table) -> Text:
    """Lines of text with styles, as wide as they must be: groups of data sets are ruled, published rows are dim."""
    lines = [line for block in table.blocks for line in block.lines]
    first = max(len("Method"), *(len(row_name(line)) + 2 for line in lines))
    # Everything in a column is right-aligned to the widest text in it, with two spaces before.
    columns = zip(table.headings, table.sizes, *_texts(lines), strict=True)
    widths = [max(map(len, column)) + 2 for column in columns]
    # This may widen a column, so it comes before all that is aligned.
    spans = _terminal_spans(table, widths)
    rule = Text("─" * (first + sum(widths)), "dim")
    out = [Text(table.title, "bold"), Text()]
    out += [Text(" " * first).append(span, style) for span, style in spans]
    for label, cells, style in (
        ("Method", table.headings, "bold"),
        ("n", table.sizes, "dim"),
    ):
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        out.append(Text(label.ljust(first) + "".join(aligned), style))
    for block in table.blocks:
        out += [rule, Text(block.name, "bold")]
        for group, rows in block.groups:
            out.append(Text(group, "italic"))
            out += [_terminal_row(row, first, widths) for row in rows]
    return Text("\n").join([*out, rule])


def _texts(lines: list[Line]) -> list[list[str]]:
    return [[value.text for value in line.values] for line in lines]


def _terminal_spans(table: Table, widths: list[int]) -> list[tuple[str, str]]:
    """The lines with the groups of data sets and a rule under them, with styles.

    Adds to `widths` where a word of a group's name needs it.
    """
    if not any(group for group, _ in table.spans):
        return []
    names, rules, place = [], "", 0
    for group, count in table.spans:
        longest = max((len(word) for word in group.split()), default=0)
        widths[place] += max(0, longest + 2 - sum(widths[place : place + count]))
        width = sum(widths[place : place + count]) - 2
        names.append([f"{line:^{width}}" for line in wrap(group, width, break_on_hyphens=False)])
        rules += "  " + ("─" if group else " ") * width
        # Where the name is shorter than others, empty lines come first: names stand on their rules.
        names[-1] = names[-1] or [" " * width]
        place += count
    height = max(map(len, names))
    padded = [[" " * len(lines[0])] * (height - len(lines)) + lines for lines in names]
    rows = ["".join(f"  {part}" for part in parts) for parts in zip(*padded, strict=True)]
    return [*((row, "italic") for row in rows), (rules, "dim")]


def _terminal_row(line: Line, first: int, widths: list[int]) -> Text:
    style = "dim" if line.published else ""
    row = Text(f"  {row_name(line)}".ljust(first), "yellow" if line.problem else style)
    for value, width in zip(line.values, widths, strict=True):
        # The space and the text are apart, so that only the digits are underlined.
        row.append(" " * (width - len(value.text)), "not underline")
        row.append(value.text, _TERMINAL_STYLES[value.mark])
    return row


def markdown(table: Table) -> str:
    """One table of GitHub's Markdown, and the notes as a list."""
    width = len(table.headings)
    # Markdown has no spans: the name stands over the first column of its group.
    groups = [cell for group, count in table.spans for cell in [group, *[""] * (count - 1)]]
    rows = [
        ["", *map(_md, groups), *([""] if table.averaged else [])],
        ["---", *["---:"] * width],
        ["Method", *(f"**{_md(heading)}**" for heading in table.headings)],
        ["*n*", *table.sizes],
    ]
    for block in table.blocks:
        rows.append([f"**{block.name}**", *[""] * width])
        for group, lines in block.groups:
            rows.append([f"*{_md(group)}*", *[""] * width])
            for line in lines:
                cells = [_MARKDOWN_MARKS[value.mark].format(value.text) for value in line.values]
                rows.append([_md(row_name(line)), *cells])
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = "".join(f"- {_md(note)}\n" for note in table.notes)
    return f"# {_md(table.title)}\n\n{text}\n\n{notes}"


def _md(text: str) -> str:
    # A line break would end the row.
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """A `table*` for a document that uses the package booktabs; the notes are its caption."""
    width = len(table.headings) + 1
    rules, place = [], 2  # LaTeX counts columns from 1, and the first has the names
    for group, count in table.spans:
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
        place += count
    groups = [rf"\multicolumn{{{count}}}{{c}}{{{_tex(group)}}}" for group, count in table.spans]
    # The sentences are joined by full stops, so each loses its own.
    sentences = [text.rstrip(".") for text in (table.title, *table.notes)]
    out = [
        r"% \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex('. '.join(sentences))}.}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        _tex_row(["", *groups, *([""] if table.averaged else [])]),
        *([" ".join(rules)] if rules else []),
        _tex_row(["Method", *map(_tex, table.headings)]),
        _tex_row([r"\textit{n}", *table.sizes]),
    ]
    for block in table.blocks:
        out += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textbf{{{block.name}}}}} \\"]
        for group, lines in block.groups:
            out.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(group)}}}}} \\")
            out += [_tex_row([_tex_name(line), *map(_tex_cell, line.values)]) for line in lines]
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _tex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex_name(line: Line) -> str:
    if line.published:
        return rf"{_tex(line.name)} \textsuperscript{{{PAPER}}}"
    return _tex(row_name(line))


def _tex_cell(value: Value) -> str:
    return _LATEX_MARKS[value.mark].format(_tex(value.text))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(results: Results) -> str:
    """Long form: a row for each method, data set (then their average) and coefficient, both PLCCs too.

    `source` is measured or paper. What is undefined or missing is an empty cell, and `problem` says why.
    """
    writer = csv.DictWriter(text := StringIO(), CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_measured_rows(results))
    writer.writerows(_published_rows(results))
    return text.getvalue()


def _measured_rows(results: Results) -> Iterator[dict[str, Any]]:
    for result in results.methods:
        row = {"method": result.name, "group": result.group, "source": "measured"}
        found: list[Agreement] = []
        for c in results.columns:
            cell = result.measured.get(c.name, Measured(None, result.problem))
            column = {"dataset": c.name, "dataset_group": c.group, "column": c.column}
            yield from _coefficients(row | column, cell.agreement, cell.problem)
            if cell.agreement is not None:
                found.append(cell.agreement)
        if len(results.columns) > 1:
            mean = average(found) if len(found) == len(results.columns) else None
            problem = None if mean else "not every data set has a number"
            yield from _coefficients(row | {"dataset": "average"}, mean, problem)


def _coefficients(
    row: dict[str, Any], found: Agreement | None, problem: str | None
) -> Iterator[dict[str, Any]]:
    """A row for each coefficient of a cell."""
    problems = [problem] if problem else []
    problems += found.problems if found else ()
    for key, name in COEFFICIENTS.items():
        more: dict[str, Any] = {"coefficient": name, "problem": "; ".join(problems)}
        if found is not None:
            more |= {"n": found.n, "n_unreadable": found.n_unreadable}
            for end, number in vars(getattr(found, key)).items():
                more[end] = "" if isnan(number) else f"{number:.6f}"
        yield row | more


def _published_rows(results: Results) -> Iterator[dict[str, Any]]:
    for method in results.paper:
        for coefficient, row in paper_tables().published(method).items():
            named = {"method": method, "group": row.group, "source": PAPER}
            named["coefficient"] = coefficient
            for c, number in zip(paper_tables().columns, row.cells, strict=True):
                column = {"dataset": c.dataset, "dataset_group": c.group, "column": c.name}
                # As printed: 0.43 is not 0.430.
                yield named | column | {"value": str(number), "n": c.images}
            yield named | {"dataset": "average", "value": str(row.average)}


def write_html(table: Table, output: Path) -> None:
    """A page that stands alone, light and dark. Raises UserError where it cannot be written."""
    from .page import (
        write_page,
    )  # brings matplotlib, which takes seconds and the other formats do not need

    write_page(output, "benchmark.html.jinja", title=table.title, notes=(), table=table)
