"""Tables that spreadsheets may open: what they compute nothing of, and what is read back."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alprune.loop.csv_tables import LABELS, from_cell, label_rows, read_labels, table, to_cell

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_a_cell_that_a_spreadsheet_would_compute_is_marked_as_text(begin: str) -> None:
    assert to_cell(f"{begin}1+1") == f"'{begin}1+1"
    assert to_cell(f"1{begin}1") == f"1{begin}1"


@given(st.text())
@example("'a")
def test_what_is_written_is_read_back(text: str) -> None:
    assert from_cell(to_cell(text)) == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_a_row_survives_a_file(texts: list[str]) -> None:
    rows = [(number, text) for number, text in enumerate(texts)]
    found = list(csv.reader(io.StringIO(table(rows).decode(), newline="")))
    assert [(int(number), from_cell(cell)) for number, cell in found] == rows


def labels(folder: Path, content: str) -> dict[int, tuple[int, int]]:
    (folder / LABELS).write_bytes(content.encode())
    return read_labels(folder)


@pytest.mark.parametrize("torn", ["5", "51,1,", "51,1,a,", '51,1,"a,2', "51,1,a,2\0\0", "\0" * 9])
def test_a_half_written_last_row_is_left_out(tmp_path: Path, torn: str) -> None:
    content = f"index,label,class,step\r\n3,1,a,0\r\n\r\n4,0,b,1\r\n{torn}"
    assert labels(tmp_path, content) == {3: (1, 0), 4: (0, 1)}
    assert [line for line, _ in label_rows(tmp_path)] == [2, 4]
    assert labels(tmp_path, f"\ufeff{content}") == {3: (1, 0), 4: (0, 1)}
    assert [line for line, _ in label_rows(tmp_path)] == [2, 4]  # a mark is not an edit


@pytest.mark.parametrize("end", ["", "\r", "\n", "\r\n"])
def test_a_whole_last_row_counts_though_an_editor_left_its_end_out(
    tmp_path: Path, end: str
) -> None:
    content = f'index,label,class,step\r\n3,1,a,0\r\n4,0,"b, c",11{end}'
    assert labels(tmp_path, content) == {3: (1, 0), 4: (0, 11)}


def test_rows_before_damage_are_good(tmp_path: Path) -> None:
    before = csv.field_size_limit(100)
    try:
        content = f"3,1,a,0\n4,0,{'x' * 101},1\n5,0,b,1\n"
        assert labels(tmp_path, content) == {3: (1, 0)}
        assert [*label_rows(tmp_path)][1:] == [(2, ["field larger than field limit (100)"])]
    finally:
        csv.field_size_limit(before)


def test_rows_of_another_encoding_are_rows(tmp_path: Path) -> None:
    """A name that was cut within a letter, or saved by a spreadsheet, hides no other row."""
    assert read_labels(tmp_path) == {}
    (tmp_path / LABELS).write_bytes(b"3,1,a,0\r\n4,0,L\xf6we,1\r\n5,0,L\xc3")
    assert read_labels(tmp_path) == {3: (1, 0), 4: (0, 1)}


@pytest.mark.parametrize("row", ["-1,1,a,0", "3,-1,a,0", "3,1,a,-1", f"3,{2**31},a,0"])
def test_numbers_that_no_pool_holds_are_no_labels(tmp_path: Path, row: str) -> None:
    assert labels(tmp_path, f"{row}\n5,1,a,0\n") == {5: (1, 0)}
