"""Tables as spreadsheets and programs save them."""

import csv
import io
import locale

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alprune.data.tables import Table, decode, other_readings, read_table
from alprune.errors import DataError


def read(raw: bytes | str, encoding: str | None = None) -> Table:
    return read_table(decode(raw.encode() if isinstance(raw, str) else raw, encoding))


def cells(table: Table) -> list[tuple[str, ...]]:
    return [row for _, row in table.rows]


ENCODINGS = {
    "cp1251": "кошка",
    "cp1250": "kočka",
    "cp1252": "Käse",
    "shift_jis": "猫",
    "gbk": "猫",
    "big5": "貓",
    "cp949": "고양이",
    "cp1253": "γάτα",
    "cp1255": "חתול",
    "cp1256": "قطة",
    "koi8-r": "кошка",
    "iso2022_jp": "猫",
    "hz": "猫",
    "utf-16-le": "cat",
    "utf-32-be": "猫",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_is_read_in_the_encoding_that_is_named(encoding: str) -> None:
    raw = f"path;label\r\na.png;{ENCODINGS[encoding]}\r\n".encode(encoding)
    table = read(raw, encoding)
    assert cells(table) == [("a.png", ENCODINGS[encoding])] and table.guess is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
@pytest.mark.parametrize("named", [None, "cp1251"])
def test_a_mark_and_utf8_are_known_whatever_is_named(encoding: str, named: str | None) -> None:
    table = read("path,label\na.png,猫 кошка\n".encode(encoding), named)
    assert cells(table) == [("a.png", "猫 кошка")] and table.guess is None


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "gbk", "cp1250", "cp1252", "big5"])
def test_a_code_page_that_nothing_names_is_a_guess_with_the_right_reading_among_others(
    encoding: str,
) -> None:
    table = read(f"path,label\na.png,{ENCODINGS[encoding]}\n".encode(encoding))
    assert table.guess is not None
    readings = other_readings(cells(table)[0][1], table.guess, most=99)
    assert any(repr(ENCODINGS[encoding]) in reading for reading in readings)


@pytest.mark.parametrize("label", ["café", "猫", "кошка", "α β γ", "é è ê", "cat", "ß-Meise"])
def test_utf8_is_no_guess_unless_it_is_a_letter_or_two(label: str) -> None:
    assert read(f"path,label\na.png,{label}\n").guess is None


def test_the_code_page_of_the_machine_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locale, "getencoding", lambda: "cp1251")
    table = read("path,label\na.png,кошка\n".encode("cp1251"))
    assert cells(table) == [("a.png", "кошка")] and table.guess is None


@pytest.mark.parametrize(
    ("raw", "encoding", "message"),
    [
        (b"PK\x03\x04rest", None, "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0rest", None, "old Excel workbook"),
        (b"PAR1", None, "parquet"),
        ("a,b\n".encode("utf-16-le"), None, "--encoding utf-16-le"),
        (b"a,\xff\n", "no-such-page", "not an encoding that Python knows"),
        (b"a,\xff\n", "zlib", "not an encoding that Python knows"),
        (b"a,\xff\n", "shift_jis", "it is not in shift_jis"),
        (b"\xff\xfea", None, "it is not in utf-16"),
        (b"", None, "it is empty"),
        (b"path,label\na,b.png,cat\n", None, "line 2 has 3 cells.*must be in quotes"),
    ],
)
def test_what_is_no_table_is_said(raw: bytes, encoding: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(raw, encoding)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("front", ["", "sep={}\r\n", "\r\n"])
def test_separators_are_known_by_the_first_line_or_by_excels(separator: str, front: str) -> None:
    text = front.format(separator) + f'path{separator}"a,b;c"{separator}label\r\nx{separator}y\r\n'
    assert cells(read(text)) == [("x", "y", "")]


def test_cells_beyond_128_kb_are_read() -> None:
    assert len(cells(read(f"path,other\na.png,{'x' * 500_000}\n"))[0][1]) == 500_000


def test_tables_that_were_joined_are_read_as_one() -> None:
    part = "\ufeffpath,label\r\na.png,cat\r\n"
    assert cells(read(part + part)) == [("a.png", "cat")] * 2


@pytest.mark.parametrize(
    "rows",
    ['a.png,cat\n"b.png,dog\nc.png,dog\n', 'a.png,cat\n"b.png,dog\n"c,d.png",dog\ne.png,dog\n'],
)
def test_a_quote_that_is_not_closed_takes_no_rows_with_it(rows: str) -> None:
    with pytest.raises(DataError, match=r"line 3: .*must end with one"):
        read(f"path,label\n{rows}")
    assert cells(read('path,label\na.png,7" nail\n')) == [("a.png", '7" nail')]


def test_empty_cells_behind_the_last_column_are_no_cells() -> None:
    assert cells(read("path,label\na.png,cat,,\n")) == [("a.png", "cat")]


def test_two_columns_of_one_name_or_with_different_labels_are_refused() -> None:
    with pytest.raises(DataError, match="two columns 'label'"):
        read("path,label,Label\na,b,c\n").column(("label",), "label")
    table = read("label,choice\ncat,\n,dog\n")
    assert table.filled([0, 1]) == 0
    assert read("label,choice\n,dog\n").filled([0, 1]) == 1
    with pytest.raises(DataError, match="line 2: the columns 'label' and 'choice' differ"):
        read("label,choice\ncat,dog\n").filled([0, 1])


texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@given(
    st.lists(st.tuples(texts, texts), max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8-sig", "utf-16"]),
    st.sampled_from(["\r\n", "\n"]),
)
def test_whatever_a_writer_of_csv_writes_is_read_back(
    rows: list[tuple[str, str]], separator: str, encoding: str, end: str
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=end).writerows([("path", "label"), *rows])
    kept = [row for row in rows if any(cell.strip() for cell in row)]
    kept = [
        row for row in kept if tuple(c.strip().strip("\ufeff") for c in row) != ("path", "label")
    ]
    assert cells(read(out.getvalue().encode(encoding))) == kept


@example(b'path,label\n"a.png,cat', None)
@given(st.binary(max_size=60), st.sampled_from([None, "gbk", "cp1251", "utf-16-le"]))
def test_any_bytes_are_a_table_or_refused(raw: bytes, encoding: str | None) -> None:
    try:
        table = read(raw, encoding)
    except DataError:
        return
    assert all(len(row) == len(table.columns) for _, row in table.rows)
