"""A benchmark's table as text for the terminal, Markdown, LaTeX, CSV and an HTML page."""

import csv
import re
from collections.abc import Iterator
from io import StringIO
from math import isnan
from pathlib import Path
from textwrap import wrap

from rich.text import Text

from .agreement import COEFFICIENTS, Agreement, average
from .benchmark import Measured, Results
from .layout import Line, Table, Value
from .paper import paper_tables

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


def name_of(line: Line) -> str:
    """The label of a row where nothing but text can be told apart."""
    return (
        f"{line.name} ({PAPER})"
        if line.published
        else f"{line.name}{' (unavailable)' if line.problem else ''}"
    )


def terminal(table: Table) -> Text:
    """Lines of text with styles, as wide as they need be: groups of data sets are ruled, published rows are dim."""
    sizes = [*(str(column.n) for column in table.columns), *([""] if table.averaged else [])]
    lines = [line for block in table.blocks for line in block.lines]
    first = max(len("Method"), *(len(name_of(line)) + 2 for line in lines))
    widths = [
        max(map(len, [heading, size, *(line.values[i].text for line in lines)])) + 2
        for i, (heading, size) in enumerate(zip(table.headings, sizes, strict=True))
    ]
    spanned = _terminal_spans(table, widths)
    rule = Text("─" * (first + sum(widths)), "dim")
    out = [
        Text(table.title, "bold"),
        Text(),
        *(Text(" " * first).append(span, style) for span, style in spanned),
    ]
    for label, cells, style in (("Method", table.headings, "bold"), ("n", sizes, "dim")):
        aligned = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        out.append(Text(label.ljust(first) + aligned, style))
    for block in table.blocks:
        out += [rule, Text(block.name, "bold")]
        for group, rows in block.groups:
            out.append(Text(group, "italic"))
            out += [_terminal_row(row, first, widths) for row in rows]
    return Text("\n").join([*out, rule])


def _terminal_spans(table: Table, widths: list[int]) -> list[tuple[str, str]]:
    """The lines with the groups of data sets, and their rules, with styles. Widens `widths` where a word needs it."""
    wrapped, rules, place = [], "", 0
    for group, count in table.spans:
        longest = max((len(word) for word in group.split()), default=0)
        widths[place] += max(0, longest + 2 - sum(widths[place : place + count]))
        width = sum(widths[place : place + count]) - 2
        wrapped.append(
            [f"  {line:^{width}}" for line in wrap(group, width, break_on_hyphens=False)]
            or [" " * (width + 2)]
        )
        rules += "  " + ("─" if group else " ") * width
        place += count
    if not any(group for group, _ in table.spans):
        return []
    height = max(map(len, wrapped))
    padded = [[" " * len(lines[0])] * (height - len(lines)) + lines for lines in wrapped]
    return [*(("".join(parts), "italic") for parts in zip(*padded, strict=True)), (rules, "dim")]


def _terminal_row(line: Line, first: int, widths: list[int]) -> Text:
    row = Text(
        f"  {name_of(line)}".ljust(first),
        "yellow" if line.problem else "dim" if line.published else "",
    )
    for value, width in zip(line.values, widths, strict=True):
        row.append(" " * (width - len(value.text)), "not underline")
        row.append(
            value.text, {"best": "not dim bold", "second": "not dim underline", "": ""}[value.mark]
        )
    return row


def markdown(table: Table) -> str:
    """One table of GitHub's Markdown, and the notes as a list."""
    width = len(table.headings)
    heads = [cell for group, count in table.spans for cell in [group, *[""] * (count - 1)]]
    rows = [
        ["", *map(_md, heads), *([""] if table.averaged else [])],
        ["---", *["---:"] * width],
        ["Method", *(f"**{_md(heading)}**" for heading in table.headings)],
        ["*n*", *(str(column.n) for column in table.columns), *([""] if table.averaged else [])],
    ]
    for block in table.blocks:
        rows.append([f"**{block.name}**", *[""] * width])
        for group, lines in block.groups:
            rows.append([f"*{_md(group)}*", *[""] * width])
            rows += [[_md(name_of(line)), *map(_markdown_cell, line.values)] for line in lines]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"# {_md(table.title)}\n\n{text}\n\n" + "".join(
        f"- {_md(note)}\n" for note in table.notes
    )


def _markdown_cell(value: Value) -> str:
    return {"best": f"**{value.text}**", "second": f"<u>{value.text}</u>", "": value.text}[
        value.mark
    ]


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """A `table*` for a document that uses the package booktabs; the notes are its caption."""
    width = len(table.headings) + 1
    ruled, place = [], 2
    for group, count in table.spans:
        if group:
            ruled.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
        place += count
    heads = [rf"\multicolumn{{{count}}}{{c}}{{{_tex(group)}}}" for group, count in table.spans]
    sizes = [*(str(column.n) for column in table.columns), *([""] if table.averaged else [])]
    out = [
        r"% \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex('. '.join([table.title.rstrip('.'), *(n.rstrip('.') for n in table.notes)]))}.}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        _tex_row(["", *heads, *([""] if table.averaged else [])]),
        *([" ".join(ruled)] if ruled else []),
        _tex_row(["Method", *map(_tex, table.headings)]),
        _tex_row([r"\textit{n}", *sizes]),
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
    return (
        rf"{_tex(line.name)} \textsuperscript{{{PAPER}}}" if line.published else _tex(name_of(line))
    )


def _tex_cell(value: Value) -> str:
    text = _tex(value.text)
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[value.mark]


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(results: Results) -> str:
    """Long form: a row for each method, data set (then their average) and coefficient, both PLCCs too.

    `source` is measured or paper. What is undefined or not there is an empty cell, and `problem` says why.
    """
    writer = csv.DictWriter(text := StringIO(), CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_measured_rows(results))
    writer.writerows(_published_rows(results))
    return text.getvalue()


def _measured_rows(results: Results) -> Iterator[dict[str, object]]:
    for result in results.methods:
        by: dict[str, object] = {"method": result.name, "group": result.group, "source": "measured"}
        found: list[Agreement] = []
        for column in results.columns:
            cell = result.measured.get(column.name, Measured(None, result.problem))
            of: dict[str, object] = {
                "dataset": column.name,
                "dataset_group": column.group,
                "column": column.column,
            }
            yield from _coefficients(by | of, cell.agreement, cell.problem)
            found += [cell.agreement] if cell.agreement else []
        if len(results.columns) > 1:
            mean = average(found) if len(found) == len(results.columns) else None
            problem = None if mean else "not every data set has a number"
            yield from _coefficients(by | {"dataset": "average"}, mean, problem)


def _coefficients(
    by: dict[str, object], found: Agreement | None, problem: str | None
) -> Iterator[dict[str, object]]:
    told = "; ".join([*([problem] if problem else []), *(found.problems if found else ())])
    for key, name in COEFFICIENTS.items():
        row = by | {"coefficient": name, "problem": told}
        if found is not None:
            numbers = {
                end: "" if isnan(v) else f"{v:.6f}" for end, v in vars(getattr(found, key)).items()
            }
            row |= numbers | {"n": found.n, "n_unreadable": found.n_unreadable}
        yield row


def _published_rows(results: Results) -> Iterator[dict[str, object]]:
    for method in results.paper:
        for coefficient, row in paper_tables().published(method).items():
            by: dict[str, object] = {
                "method": method,
                "group": row.group,
                "source": PAPER,
                "coefficient": coefficient,
            }
            for column, number in zip(paper_tables().columns, row.cells, strict=True):
                of: dict[str, object] = {
                    "dataset": column.dataset,
                    "dataset_group": column.group,
                    "column": column.name,
                }
                yield by | of | {"value": str(number), "n": column.images}
            yield by | {"dataset": "average", "value": str(row.average)}


def write_html(table: Table, output: Path) -> None:
    """A page that stands alone, light and dark. Raises UserError where it cannot be written."""
    from .page import write_page  # matplotlib, which the other formats need not wait for

    write_page(output, "benchmark.html.jinja", title=table.title, notes=(), table=table)
