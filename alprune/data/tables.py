"""Tables of text as spreadsheets save them: any separator, any line ending, any code page."""

import codecs
import csv
import io
import locale
import re
from collections.abc import Iterator
from dataclasses import dataclass

from alprune.errors import DataError, quoted

_MARKS = (  # byte order marks; that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a workbook or another zip file; save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV (UTF-8)"),
    (b"PAR1", "a parquet file; parquet:FILE names one as a data set"),
    (b"\x1f\x8b", "compressed; unpack it"),
    (b"%PDF", "a PDF"),
)
_GUESS = "cp1252"
# Code pages of the world, for people to recognise their own names in.
_PAGES = ("cp1252", "cp1250", "cp1251", "cp932", "gbk", "big5", "cp949", "cp1253", "cp1255",
          "cp1256", "cp1254", "cp1257", "cp874", "koi8-r", "mac-roman")  # fmt: skip
_SEPARATORS = ",;\t|"
_LONGEST_CELL = 2**27

csv.field_size_limit(_LONGEST_CELL)  # of the csv module: 128 KB, which annotations exceed


@dataclass(frozen=True)
class Text:
    """A decoded file.

    Attributes:
        content: The text; undecodable bytes are surrogates, where the encoding is guessed.
        guess: The encoding, if nothing says that it is this one; None if it is known.
    """

    content: str
    guess: str | None = None


def decode(raw: bytes, encoding: str | None = None) -> Text:
    """Decode text by its byte order mark, as UTF-8, by `encoding`, or by the code page in use.

    Args:
        raw: The file's bytes.
        encoding: As named by the user; None: that of the locale, if it is a code page.

    Raises:
        DataError: It is not text, or not in this encoding.
    """
    for start, what in _NO_TEXT:
        if raw.startswith(start):
            raise DataError(f"it is not text but {what}.")
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return Text(_strictly(raw, name))
    text = _as_utf8(raw)
    # Some encodings of Asia take ASCII only, and some of their words are UTF-8 by chance.
    if text is not None and (encoding is None or not (raw.isascii() or _is_by_chance(text))):
        return Text(text, "utf-8" if _is_by_chance(text) else None)
    if encoding is not None:
        return Text(_strictly(raw, encoding))
    page = codecs.lookup(locale.getencoding()).name
    if page not in ("utf-8", "ascii"):
        try:
            return Text(raw.decode(page))
        except UnicodeDecodeError:
            pass
    return Text(raw.decode(_GUESS, errors="surrogateescape"), _GUESS)


def _as_utf8(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_by_chance(text: str) -> bool:
    """Tell whether another encoding may have made this UTF-8: two letters of two bytes at most."""
    letters = {letter for letter in text if not letter.isascii()}
    if not letters or len(letters) > 2 or max(letters) > "\u07ff":
        return False
    # A cell of Latin letters with an accent among them is hardly a word of Asia.
    cells = re.split(r"[,;\t|\r\n]", text)
    return not any(re.search("[A-Za-z]", cell) for cell in cells if not cell.isascii())


def other_readings(text: str, guess: str, most: int = 6) -> list[str]:
    """Return how text whose encoding was guessed reads in several: `["cp1251 'кошка'"]`."""
    raw = text.encode(guess, errors="surrogateescape")
    found: dict[str, str] = {}
    for page in ("utf-8", *_PAGES):
        try:
            text = raw.decode(page)
        except UnicodeDecodeError:
            continue
        if text not in found.values() and any(map(str.isalpha, text)):
            if all(letter.isalnum() or letter in " -_.'" for letter in text):
                found[page] = text
    return [f"{page} {text!r}" for page, text in found.items()][:most]


def _strictly(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except LookupError as error:
        raise DataError(
            f"{encoding!r} is not an encoding that Python knows; examples: utf-8, "
            f"{', '.join(_PAGES)}."
        ) from error
    except UnicodeError as error:
        raise DataError(f"it is not in {encoding}: {error}.") from error


@dataclass(frozen=True)
class Table:
    """A table with a line of column names.

    Attributes:
        columns: The names, without spaces around them.
        rows: Each row's line number and its cells, one for each column.
        guess: As of `Text`.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    guess: str | None

    def column(self, names: tuple[str, ...], what: str) -> int:
        """Return the position of the column of one of these names, the first name first.

        Raises:
            DataError: There is none, or there are two of this name.
        """
        found = next((places[0] for name in names if (places := self.places(name))), None)
        if found is None:
            raise DataError(
                f"its first line names no column {what!r}: got {quoted([*self.columns])}. Expected "
                f"{' or '.join(names)}."
            )
        return found

    def places(self, name: str) -> list[int]:
        """Return the position of the column of a name, in upper or lower case, if it is there.

        Raises:
            DataError: There are two.
        """
        found = [i for i, column in enumerate(self.columns) if column.lower() == name.lower()]
        if len(found) > 1:
            raise DataError(f"it has two columns {name!r}. Remove one.")
        return found

    def filled(self, columns: list[int]) -> int:
        """Return the one of some columns that is not empty; the first if all are.

        Raises:
            DataError: Two are filled in, and differ.
        """
        filled = [place for place in columns if any(row[place].strip() for _, row in self.rows)]
        for number, row in self.rows:
            if len(different := {row[place].strip() for place in filled} - {""}) > 1:
                names = " and ".join(repr(self.columns[place]) for place in filled)
                raise DataError(
                    f"line {number}: the columns {names} differ: {quoted(sorted(different))}. "
                    "Remove all but one, or name one (--label-column)."
                )
        return (filled or columns)[0]


def read_table(text: Text) -> Table:
    """Read a table separated by commas, semicolons, tabs or bars.

    A line `sep=;` in front, as Excel writes, says which. Empty lines, and the line of names where
    tables were joined, are left out.

    Raises:
        DataError: It is empty, binary, a quote is not closed, or a row has more cells than there
            are columns.
    """
    content = text.content.lstrip("\ufeff")
    if "\0" in content:
        raise DataError(
            "it holds null characters: it is not text, or UTF-16 without a mark (--encoding "
            "utf-16-le or utf-16-be)."
        )
    separator = None
    if stated := re.match(r"\s*sep=(.)\r?\n?", content, re.IGNORECASE):
        separator, content = stated[1], content[stated.end() :]
    head = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", content.lstrip("\r\n"), maxsplit=1)[0])
    separator = separator or max(_SEPARATORS, key=head.count)
    columns: tuple[str, ...] | None = None
    rows = []
    for line, row in _rows(content, separator):
        if not any(cell.strip() for cell in row):
            continue
        names = tuple(cell.strip().strip("\ufeff") for cell in row)
        if columns is None:
            columns = names
            continue
        if names == columns:
            continue
        if any(cell.strip() for cell in row[len(columns) :]):
            raise DataError(
                f"line {line} has {len(row)} cells and the first line names "
                f"{len(columns)} columns: a cell that holds {separator!r} must be in quotes."
            )
        cells = (*row, *[""] * (len(columns) - len(row)))[: len(columns)]
        rows.append((line, cells))
    if columns is None:
        raise DataError("it is empty; expected a line of column names and one line per image.")
    return Table(columns, tuple(rows), text.guess)


def _rows(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, with the number of its last line.

    Strictly: a quote that is not closed would take the rows that follow into its cell.
    """
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    begin = 1
    try:
        for row in reader:
            yield reader.line_num, row
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"line {begin}: {error}. A cell that begins with a quote must end with one, and a "
            "quote within it must be doubled."
        ) from error
