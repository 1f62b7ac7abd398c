"""Tables keep the row numbers that an editor or a spreadsheet shows."""

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlwt

from visualquality.data.tables import read_table, to_number


def test_csv_rows_are_counted_as_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffname, mos\r\n"two\r\nlines",1\r\n\r\nshort\r\nlong,2,3\r\n'.encode())
    table = read_table(path)
    assert table.header == ["name", "mos"]
    assert table.rows == [
        (2, ["two\r\nlines", "1"]),
        (5, ["short"]),
        (6, ["long", "2", "3"]),
    ]


@pytest.mark.parametrize("suffix", ["xlsx", "xls"])
def test_excel_rows_are_counted_as_shown_and_cells_are_texts(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cells = {(0, 0): "name", (0, 1): "mos", (2, 0): "NA", (2, 1): 52.5, (4, 0): "b", (4, 1): 586.0}
    if suffix == "xls":
        old = xlwt.Workbook()
        sheet = old.add_sheet("first")
        for (row, column), value in cells.items():
            sheet.write(row, column, value)
        old.save(str(path))
    else:
        book = openpyxl.Workbook()
        for (row, column), value in cells.items():
            book.active.cell(row + 1, column + 1, value)
        book.save(path)
    table = read_table(path)
    assert table.header == ["name", "mos"]
    filled = [(number, *row) for number, row in table.rows if any(row)]
    assert filled == [(3, "NA", "52.5"), (5, "b", "586")]


def test_parquet_keeps_whole_numbers_beside_an_empty_cell(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": ["a", "b"], "level": [3, None]}), path)
    assert read_table(path) == (["name", "level"], [(2, ["a", 3]), (3, ["b", None])])
    assert repr(read_table(path).rows[0][1][1]) == "3"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b'x,y\n"open,1\n', "unexpected end of data"),
        ("a.csv", b"\n", "first line is empty"),
        ("a.xlsx", b"\xff\xfe no workbook", "Excel"),
        ("a.xls", b"\xff\xfe no workbook", "Excel"),
        ("a.parquet", b"PAR1 cut", "Parquet"),
        ("gone.csv", None, "No such file"),
        ("gone.parquet", None, "No such file"),
        ("gone.xlsx", None, "No such file"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_table(tmp_path / name)


def test_a_number_is_finite():
    assert to_number("1e2") == 100
    assert [to_number(text) for text in ("nan", "inf", "", "x")] == [None] * 4


ROWS = [("fläche 1.png", "4.1"), ("b;c,d.png", "3.9")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "sep={}\r\n"])
def test_a_csv_is_read_in_every_form_that_spreadsheets_write(tmp_path, encoding, delimiter, start):
    path = tmp_path / "a.csv"
    lines = [("image", "mos"), *ROWS]
    text = start.format(delimiter)
    text += "".join(f'"{name}"{delimiter}{mos}\r\n' for name, mos in lines)
    path.write_bytes(text.encode(encoding))
    table = read_table(path)
    assert table.header == ["image", "mos"]
    first = 3 if start else 2  # the line that an editor shows
    assert table.rows == [(first + i, list(row)) for i, row in enumerate(ROWS)]


def test_decimal_commas_are_read_where_a_comma_separates_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image;mos;note\na.png;4,1;3,5 or 4\nb.png; -0,25 ;1,000,5\nc.png;4.5;\n")
    assert [cells for _, cells in read_table(path).rows] == [
        ["a.png", "4.1", "3,5 or 4"],
        ["b.png", " -0.25 ", "1,000,5"],
        ["c.png", "4.5", ""],
    ]
    path.write_text('image,mos\na.png,"4,1"\n')
    assert read_table(path).rows == [(2, ["a.png", "4,1"])]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("image,mos,a;b;c\nx.png,1,2\n", ["image", "mos", "a;b;c"]),
        ("image;mos;a,b,c,d\nx.png;1;2\n", ["image", "mos", "a,b,c,d"]),
        ('"a,b";mos\nx.png;1\n', ["a,b", "mos"]),
        ("image\nx;y.png\n", ["image"]),
        ("image,mos\nx.png,1,2;3;4\n", ["image", "mos"]),
    ],
)
def test_the_separator_is_the_one_that_fits(tmp_path, content, header):
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    assert read_table(path).header == header
