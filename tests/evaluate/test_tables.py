"""The table of a benchmark: what is best, what is noted, and that each format holds the same numbers."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain
from math import nan
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualquality.evaluate.agreement import Agreement, Estimate
from visualquality.evaluate.benchmark import Column, Measured, Result, Results
from visualquality.evaluate.paper import paper_tables
from visualquality.evaluate.render import latex, markdown, terminal, to_csv, write_html
from visualquality.evaluate.tables import Cell, Line, Table, layout

PAPER = paper_tables()
PAPERS_COLUMNS = tuple(Column(c.name, c.group, c.name, c.images) for c in PAPER.columns.values())
PLAIN = (Column("A", "", None, 50), Column("B", "", None, 60))


def agreement(
    srcc: float, n: int = 50, left_out: int = 0, problems: tuple[str, ...] = ()
) -> Agreement:
    krcc, plcc, mapped = (
        Estimate(srcc - d, srcc - d - 0.02, srcc - d + 0.03) for d in (0.2, 0.1, 0.05)
    )
    return Agreement(n, left_out, replace(plcc, value=srcc), krcc, plcc, mapped, 10, 10, problems)


def method(
    name: str, *srcc: float | None, columns: Sequence[Column] = PLAIN, group: str = "G"
) -> Result:
    measured = {
        column.name: Measured(None, "no scores")
        if value is None
        else Measured(agreement(value, column.n))
        for column, value in zip(columns, srcc, strict=True)
    }
    return Result(name, group, {"model": name}, measured=measured)


def results(
    *methods: Result, columns: Sequence[Column] = PLAIN, paper: tuple[str, ...] = (), plcc="raw"
) -> Results:
    return Results("A title", plcc, tuple(columns), methods, paper)


def every_line(table: Table) -> list[list[Line]]:
    """The lines of each block."""
    return [list(chain.from_iterable(groups.values())) for groups in table.blocks.values()]


def cells_of(table: Table) -> list[Cell]:
    return [cell for block in every_line(table) for line in block for cell in line.cells]


def lines(table: Table, block: int = 0) -> dict[str, Line]:
    return {f"{line.name}{' paper' * line.published}": line for line in every_line(table)[block]}


def marks(table: Table, block: int = 0) -> dict[str, list[str]]:
    return {name: [cell.style for cell in line.cells] for name, line in lines(table, block).items()}


def test_figures_of_a_models_makers_have_a_row_of_their_own_and_are_not_ranked(tmp_path):
    claimed = replace(
        method("mine", 0.5, 0.5), published={"A": {"srcc": 0.99}}, trained_on="A and more"
    )
    found = results(claimed, method("other", 0.4, 0.6))
    table = layout(found)
    (_, card, _), (_, plcc, _) = every_line(table)
    assert (card.name, card.style) == ("mine", "card")
    assert [(cell.text, cell.style) for cell in card.cells] == [("0.990", ""), ("–", ""), ("–", "")]
    assert [cell.text for cell in plcc.cells] == ["–"] * 3
    assert marks(table)["other"] == ["second", "best", "best"]
    notes = " ".join(table.notes)
    assert "mine was trained on A and more." in notes
    assert "“published” are figures that the makers of a model publish" in notes
    assert "mine (published)" in markdown(table)
    assert "mine (published)" in str(terminal(table))
    assert r"mine \textsuperscript{published}" in latex(table)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    stated = [row for row in rows if row["source"] == "published"]
    assert [(row["dataset"], row["coefficient"], row["value"]) for row in stated] == [
        ("A", "SRCC", "0.99")
    ]
    write_html(table, tmp_path / "table.html")
    assert '<span class="tag">published</span>' in (tmp_path / "table.html").read_text()


def test_the_papers_own_marks_come_out_of_its_numbers():
    """The bold and underlined cells of Table 2, from page 7 of the paper, by column and then the average."""
    table = layout(results(columns=PAPERS_COLUMNS, paper=PAPER.methods(2)))
    best, second = "VisualQuality-R1† paper", "VisualQuality-R1 paper"
    insight, deqa, liqe = "Q-Insight† paper", "DeQA-Score paper", "LIQE paper"
    wanted = {
        (0, "best"): [best, best, best, best, insight, second, liqe, second, best],
        (0, "second"): [insight, insight, second, insight, best, best, deqa, best, second],
        (1, "best"): [best, best, best, best, best, second, deqa, second, best],
        (1, "second"): [insight, insight, second, insight, second, best, best, best, second],
    }
    for (block, mark), names in wanted.items():
        found = marks(table, block)
        for place in range(9):
            assert [name for name, row in found.items() if row[place] == mark] == [names[place]]
    assert [(group, len(rows)) for group, rows in table.blocks["SRCC"].items()] == [
        ("Handcrafted", 2),
        ("Discriminative Deep-Learning-based", 3),
        ("VLM-based", 8),
    ]
    assert [cell.text for cell in lines(table)["BRISQUE paper"].cells][-2:] == ["0.497", "0.430"]
    assert table.spans == [("Imaging-Related Distortion", 4), ("Processing-Related Distortion", 4)]


def test_equals_are_marked_together_by_their_printed_digits():
    table = layout(
        results(
            method("p", 0.7004, 0.5),
            method("q", 0.6996, 0.4),
            method("r", 0.2, 0.4),
            method("s", 0.1, 0.3),
        )
    )
    assert {name: row[:2] for name, row in marks(table).items()} == {
        "p": ["best", "best"],
        "q": ["best", "second"],
        "r": ["second", "second"],
        "s": ["", ""],
    }


def test_one_row_alone_is_not_best():
    assert set(marks(layout(results(method("p", 0.7, 0.5))))["p"]) == {""}


def test_what_is_undefined_or_missing_is_neither_ranked_nor_averaged():
    cells = {"A": Measured(agreement(nan)), "B": Measured(agreement(0.5))}
    odd = Result("odd", "G", {}, measured=cells)
    table = layout(
        results(
            odd,
            method("gap", 0.6, None),
            method("p", 0.3, 0.4),
            Result("far", "G", {}, "no weights"),
        )
    )
    texts = {name: [cell.text for cell in line.cells] for name, line in lines(table).items()}
    assert texts == {
        "odd": ["undefined", "0.500", "–"],
        "gap": ["0.600", "–", "–"],
        "p": ["0.300", "0.400", "0.350"],
        "far": ["–", "–", "–"],
    }
    assert marks(table)["gap"] == ["best", "", ""]
    assert "far is unavailable: no weights" in table.notes
    assert "gap has no number on B: no scores" in table.notes


def test_images_left_out_and_undefined_coefficients_are_noted():
    cell = Measured(
        agreement(0.5, 48, 2, ("PLCC (logistic): no fit", "PLCC: odd")), "x.png: too dark"
    )
    result = Result("p", "G", {}, measured={"A": cell, "B": cell})
    table = layout(results(result, plcc="logistic"))
    assert "p on A: 2 of 50 images have no score: x.png: too dark" in table.notes
    assert "p on A: PLCC (logistic): no fit" in table.notes
    assert "p on A: PLCC: odd" not in table.notes  # that one is not shown
    assert "p on A: PLCC: odd" in layout(results(result)).notes


@pytest.mark.parametrize(("n", "ranked"), [(2982, True), (2960, True), (1076, False)])
def test_published_numbers_are_ranked_only_on_as_many_images(n, ranked):
    columns = (Column("AGIQA-3K", "", "Image Gen.", n),)
    mine = method("NIQE", 0.6, columns=columns, group="Handcrafted")
    other = method("mine", 0.5, columns=columns, group="Ours")
    table = layout(results(other, mine, columns=columns, paper=("Q-Insight", "NIQE")))
    assert list(lines(table)) == [
        "NIQE",
        "NIQE paper",
        "Q-Insight paper",
        "mine",
    ]  # beside its namesake, by group
    wanted = ["second", "", "best", ""] if ranked else ["best", "", "", "second"]
    assert [row[0] for row in marks(table).values()] == wanted
    assert not table.averaged
    noted = any(f"AGIQA-3K {n} of 2982" in note for note in table.notes)
    assert noted == (n != 2982)
    assert any("they were not measured here" in note for note in table.notes)


def test_a_published_average_is_over_what_is_shown():
    columns = (PAPERS_COLUMNS[0], PAPERS_COLUMNS[1])
    row = lines(
        layout(results(method("p", 0.1, 0.2, columns=columns), columns=columns, paper=("NIQE",)))
    )["NIQE paper"]
    assert [cell.text for cell in row.cells] == [
        "0.515",
        "0.450",
        "0.482",
    ]  # (0.515 + 0.450) / 2 = 0.4825
    foreign = (*columns, Column("Mine", "Ours", None, 9))
    row = lines(layout(results(columns=foreign, paper=("NIQE",))))["NIQE paper"]
    assert [cell.text for cell in row.cells] == ["0.515", "0.450", "–", "–"]


@pytest.mark.parametrize(("plcc", "text"), [("raw", "0.600"), ("logistic", "0.650")])
def test_the_suite_says_which_plcc(plcc, text):
    table = layout(results(method("p", 0.7, 0.7), plcc=plcc))
    assert lines(table, 1)["p"].cells[0].text == text
    assert any(
        ("4-parameter" in note) == (plcc == "logistic")
        for note in table.notes
        if note.startswith("PLCC")
    )


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(*[st.floats(-1, 1).map(lambda x: round(x, 2))] * 2), min_size=1, max_size=5),
    st.randoms(),
)
def test_the_order_of_methods_changes_no_number_and_no_mark(scores, random):
    methods = [method(f"m{i}", *pair) for i, pair in enumerate(scores)]
    shuffled = random.sample(methods, len(methods))
    assert lines(layout(results(*methods))) == lines(layout(results(*shuffled)))


# What the formats have in common, on a table with every kind of row and names that need escaping.
NASTY = r"a|b_c & 50% <i> $x$ \y {z} #~^"


@pytest.fixture
def full() -> Results:
    columns = (
        *PAPERS_COLUMNS[:2],
        Column("Mine_1", "Ours", None, 9),
        replace(PAPERS_COLUMNS[7], n=1076),
    )
    rows = (
        method("NIQE", 0.5, 0.4, 0.3, 0.2, columns=columns, group="Handcrafted"),
        method(NASTY, 0.6, 0.5, 0.4, 0.3, columns=columns, group="VLM-based"),
        method("gap", 0.1, None, 0.2, 0.1, columns=columns, group="Others & more"),
        Result("far", "VLM-based", {}, "no <weights> & no_net"),
    )
    return results(*rows, columns=columns, paper=("NIQE", "Q-Insight†"))


def shown(table: Table) -> list[list[str]]:
    return [
        [cell.text for cell in line.cells]
        for block in every_line(table)
        for line in block
        if not line.problem
    ]


def test_the_terminal_has_the_numbers_in_columns(full):
    table = layout(full)
    text = terminal(table)
    rows = [re.split(r"\s{2,}", row.strip()) for row in text.plain.splitlines()]
    assert [
        row[1:]
        for row in rows
        if len(row) == 6 and re.match(r"-?0\.|–", row[1]) and "far" not in row[0]
    ] == shown(table)
    assert ["far (unavailable)", *"–––––"] in rows
    ends = {len(row) for row in text.plain.splitlines() if re.search(r"\d\.\d{3}$|–$|^─", row)}
    assert len(ends) == 1
    bold = {
        text.plain[span.start : span.end] for span in text.spans if span.style == "not dim bold"
    }
    assert bold == {cell.text for cell in cells_of(table) if cell.style == "best"}


def cells(row: str, separator: str) -> list[str]:
    return [cell.strip() for cell in re.split(rf"(?<!\\){separator}", row)]


def test_markdown_has_one_width_and_the_numbers(full):
    table = layout(full)
    text = markdown(table)
    rows = [cells(row, r"\|")[1:-1] for row in text.splitlines() if row.startswith("|")]
    assert {len(row) for row in rows} == {6}
    numbers = [[re.sub(r"\*\*|</?u>", "", cell) for cell in row[1:]] for row in rows]
    assert [row for row in numbers if re.match(r"-?0\.", row[0])] == shown(table)
    assert ["NIQE (paper)", "0.515", "0.450", "0.533", "–", "–"] in rows
    assert "<i>" not in text
    assert sum("**" in cell for row in rows for cell in row if "0." in cell) == 10


def test_latex_is_balanced_and_has_one_width(full):
    table = layout(full)
    text = latex(table)
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[$#~^†–|<>]", bare)
    (spec,) = re.findall(r"\\begin\{tabular\}\{(.*?)\}", text)
    assert spec == "lrrrrr"
    assert re.findall(r"\\begin\{(.*?)\}", text) == re.findall(r"\\end\{(.*?)\}", text)[::-1]
    rows = [row.removesuffix(r" \\") for row in text.splitlines() if row.endswith(r" \\")]
    for row in rows:
        spans = [int(span) - 1 for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        assert len(cells(row, "&")) + sum(spans) == 6
    numbers = [
        [
            re.sub(r"\\(textbf|underline)\{(.*?)\}", r"\2", c).replace("--", "–")
            for c in cells(row, "&")
        ]
        for row in rows
    ]
    assert [row[1:] for row in numbers if len(row) == 6 and re.match(r"-?0\.", row[1])] == shown(
        table
    )
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
    assert r"NIQE \textsuperscript{paper}" in text


def test_csv_is_long_and_has_both_plccs_with_intervals(full):
    rows = list(csv.DictReader(io.StringIO(to_csv(full))))
    assert len(rows) == 4 * 5 * 4 + 2 * 2 * 9
    by = {(row["method"], row["source"], row["dataset"], row["coefficient"]): row for row in rows}
    assert len(by) == len(rows)
    row = by[NASTY, "measured", "BID", "PLCC (logistic)"]
    assert [float(row[key]) for key in ("value", "low", "high", "n")] == pytest.approx(
        [0.55, 0.53, 0.58, 586]
    )
    assert float(by[NASTY, "measured", "BID", "PLCC"]["value"]) == pytest.approx(0.5)
    assert float(by[NASTY, "measured", "average", "SRCC"]["value"]) == pytest.approx(0.45)
    assert by["gap", "measured", "CLIVE", "SRCC"]["problem"] == "no scores"
    assert by["gap", "measured", "average", "SRCC"]["value"] == ""
    assert by["far", "measured", "BID", "KRCC"]["problem"] == "no <weights> & no_net"
    assert by["NIQE", "paper", "SPAQ", "SRCC"]["value"] == "0.676"
    assert by["NIQE", "paper", "average", "PLCC"]["value"] == "0.519"


class Page(HTMLParser):
    """Rows of cells as (text, columns it spans), the tags in use, and the page's text; refuses badly nested tags."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[tuple[str, int]]] = []
        self.tags: list[str] = []
        self.marked: dict[str, list[str]] = {"b": [], "u": []}
        self.text = ""
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "link"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append(("", int(dict(attrs).get("colspan", 1))))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in self.marked:
            self.marked[self.open[-1]].append(data)
        if {"td", "th"} & set(self.open) and "small" not in self.open and "tr" in self.open:
            text, span = self.rows[-1][-1]
            self.rows[-1][-1] = (" ".join(f"{text} {data}".split()), span)


def test_html_stands_alone_and_has_the_numbers(full, tmp_path: Path):
    table = layout(full)
    write_html(table, tmp_path / "table.html")
    source = (tmp_path / "table.html").read_text()
    page = Page(source)
    assert {sum(span for _, span in row) for row in page.rows} == {6}
    texts = [[text for text, _ in row] for row in page.rows]
    assert [row[1:] for row in texts if len(row) == 6 and re.match(r"-?0\.", row[1])] == shown(
        table
    )
    assert ["NIQE paper", "0.515", "0.450", "0.533", "–", "–"] in texts
    assert ["far", "unavailable: no <weights> & no_net"] in texts
    assert NASTY in page.text
    assert all(" ".join(note.split()) in " ".join(page.text.split()) for note in table.notes)
    for kind, tag in (("best", "b"), ("second", "u")):
        wanted = [cell.text for cell in cells_of(table) if cell.style == kind]
        assert page.marked[tag] == wanted
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|@import|<script", source)
