"""Tables that spreadsheets can open: cells that compute nothing, and labels.csv of a run."""

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alprune.data.safe_io import read_whole

LABELS = "labels.csv"
COLUMNS = ("index", "label", "class", "step")
_FILE_BYTES = 2**28  # of labels.csv: ten million rows
_END = 2**31  # of indices, labels and steps: what a pool can hold
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")

Row = tuple[int, int, str, int]
"""A labelled point: index, label, class name, step."""


def to_cell(text: str) -> str:
    """Write text so that a spreadsheet shows it and computes nothing.

    Spreadsheets take a cell that begins with one of = + - @, a tab or a line break for a formula,
    which can send a table's content away. An apostrophe in front marks it as text.

    Returns:
        `text`, with an apostrophe in front where it begins with one of these or with an
        apostrophe; `from_cell` takes it off.
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_cell(cell: str) -> str:
    """Return the text that `to_cell` was given."""
    return cell[1:] if cell.startswith("'") else cell


def table(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as a CSV file; text goes through `to_cell`."""
    text = io.StringIO()
    cells = ([to_cell(v) if isinstance(v, str) else v for v in row] for row in rows)
    csv.writer(text).writerows(cells)  # lines end in \r\n, so that both are quoted within a cell
    return text.getvalue().encode()


def label_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a run folder's labels.csv, unchecked, with their line numbers.

    The header is left out, and a last row that is half written: one without an end of line, where
    a field is missing. What is no UTF-8 is replaced, and where the file can be read no further,
    the row says why.
    """
    try:
        text = read_whole(path / LABELS, _FILE_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return
    last = text.rfind("\n") + 1
    whole = text if _is_row(text[last:]) else text[:last]
    rows = csv.reader(io.StringIO(whole, newline=""))
    try:
        for row in rows:
            if row and row != list(COLUMNS):
                yield rows.line_num, row
    except csv.Error as error:
        yield rows.line_num, [str(error)]


def _is_row(text: str) -> bool:
    """Tell whether a last line is whole but for its end, as some editors leave it."""
    try:
        row = next(csv.reader([text]), [])
    except csv.Error:
        return False
    return len(row) == len(COLUMNS) and row[-1].isdecimal()


def read_labels(path: Path) -> dict[int, tuple[int, int]]:
    """Read the labels in a run folder's labels.csv.

    Args:
        path: The run folder.

    Returns:
        `{index: (label, step)}`, without rows that are not labels.
    """
    known = {}
    for _, row in label_rows(path):
        with contextlib.suppress(ValueError, IndexError):
            index, label, step = int(row[0]), int(row[1]), int(row[3])
            if all(0 <= number < _END for number in (index, label, step)):
                known[index] = label, step
    return known
