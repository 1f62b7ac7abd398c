"""Tables keep the row numbers that an editor or a spreadsheet shows."""

import csv
import time
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlwt

from visualquality import parsing
from visualquality.data import tables
from visualquality.data.manifest import Manifest
from visualquality.data.tables import (
    csv_cell,
    csv_path,
    from_csv_cell,
    from_csv_path,
    read_table,
    to_number,
    write_table,
)


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


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "＠x"]


@pytest.mark.parametrize("text", [*FORMULAS, "'=1", "''@x", "- too dark", "-inf"])
def test_no_text_is_a_formula_and_each_comes_back(text):
    cell = csv_cell(text)
    assert cell == f"'{text}"
    assert from_csv_cell(cell) == text


@pytest.mark.parametrize(
    "text", ["", "a", "-1.5", "+3", "-1e-3", "'tis", "'", "a=b", "./=x", " =x"]
)
def test_other_texts_and_numbers_stay_as_they_are(text):
    assert csv_cell(text) == text
    assert from_csv_cell(text) == text


@pytest.mark.parametrize("name", ["=1.png", "@a/b.png", "-e.png", "./=1.png", "././+x.png"])
def test_a_guarded_file_name_is_the_same_file(name):
    cell = csv_path(name)
    assert Path("folder", cell) == Path("folder", name)
    assert cell.startswith("./")
    assert from_csv_path(cell) == name


@pytest.mark.parametrize("name", ["a.png", "photos/=1.png", "/=1.png", "./a.png", "../=x.png"])
def test_other_file_names_stay_as_they_are(name):
    assert csv_path(name) == from_csv_path(name) == name


def test_a_written_table_has_no_formula_and_is_read_back(tmp_path):
    columns = {"=name": [*FORMULAS, "plain"], "mos": [-1.5, *range(len(FORMULAS))]}
    write_table(tmp_path / "a.csv", columns)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell[0] in "=+@\t\r\n＝＠"] == []
    assert "-1.5" in cells
    table = read_table(tmp_path / "a.csv")
    assert table.header == ["=name", "mos"]
    assert [row[0] for _, row in table.rows] == columns["=name"]


def test_a_sheet_that_unpacks_to_too_much_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "MAX_ARCHIVE", 10_000_000)
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(11_000_000))
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="unpacks to 11,000,000 bytes"):
        read_table(path)


def test_a_parquet_of_too_many_rows_is_refused_at_once(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.nulls(11_000_000, pa.string())}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="11,000,000 rows"):
        read_table(path)


def test_a_parquet_of_one_long_text_in_all_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10_000_000)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["x" * 10_000] * 5000, "mos": [1.0] * 5000}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="more than 10,000,000 bytes"):
        read_table(path)


def test_many_columns_take_no_longer_than_their_cells(tmp_path):
    path = tmp_path / "a.csv"
    names = ",".join(f"x{n}" for n in range(50_000))
    path.write_text(f"image,mos,{names}\na.png,3{',1' * 50_000}\nb.png,2{',1' * 50_000}\n")
    started = time.perf_counter()
    assert len(Manifest.read(path, check_images=False)) == 2
    assert time.perf_counter() - started < 10


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
