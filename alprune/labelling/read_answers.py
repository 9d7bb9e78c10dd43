"""Read labels from the files that people send: spreadsheets' CSV and Label Studio's exports."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from alprune.data.safe_io import read_whole
from alprune.errors import DataError, quoted
from alprune.loop.run_folder import from_cell

FILE_BYTES = 2**27  # of a file of labels
SKIPS = ("skip", "unsure", "?")  # what stands for "I cannot tell"
_PATHS = ("path", "file", "filename", "image")  # names of columns, in order of preference
_LABELS = ("label", "class", "choice", "choices")


@dataclass(frozen=True)
class Given:
    """What a file says about an image, unchecked.

    Attributes:
        where: Place in the file, for messages.
        path: As written; `spellings` says which paths it may mean.
        label: As written, without spaces around it; "" where nothing was answered.
        skipped: Whether it says in another way than by the label that nobody could tell.
    """

    where: str
    path: str
    label: str
    skipped: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """What the label may mean: written for a spreadsheet, or plainly."""
        return from_cell(self.label), self.label


def read_answers(path: Path) -> list[Given]:
    """Read a CSV file (columns path, label) or an export of Label Studio (JSON, JSON-MIN, CSV).

    A CSV may be separated by commas, semicolons or tabs, with or without a byte order mark, in
    UTF-8, UTF-16 or a Western Windows code page, and its lines may end in any way.

    Raises:
        DataError: It cannot be read, or is none of these.
    """
    try:
        raw = read_whole(path, FILE_BYTES)
    except OSError as error:
        raise DataError(f"cannot read labels from {path}: {error.strerror or error}.") from error
    text = _decoded(raw)
    try:
        if text.lstrip()[:1] in ("[", "{") and path.suffix.lower() != ".csv":
            return list(_from_json(json.loads(text)))
        return list(_from_csv(text))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV or JSON: {error}.") from error


def spellings(path: str, root: Path) -> Iterable[str]:
    """Return what a path in somebody's file may be called below the folder of images.

    It may be absolute, have backslashes, be written for a spreadsheet, or be an address under
    which Label Studio serves it.
    """
    for text in dict.fromkeys((path, from_cell(path))):
        query = parse_qs(urlsplit(text).query).get("d") if "local-files" in text else None
        for name in (text, query[0] if query else None, unquote(text)):
            if name is None:
                continue
            plain = re.sub(r"^(\./)+", "", name.replace("\\", "/"))
            yield from (name, plain, _below(plain, root))


def _below(path: str, root: Path) -> str:
    """Take the folder of images off the front of a path, where it stands there."""
    for folder in (root.as_posix(), root.absolute().as_posix()):
        if path.startswith(f"{folder}/"):
            return path[len(folder) + 1 :]
    return path


def _decoded(raw: bytes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _from_csv(text: str) -> Iterable[Given]:
    if "\0" in text:
        raise DataError("it holds null characters: it is no text.")
    head = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    names: list[str] | None = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if names is None:
            names = [cell.strip().lower() for cell in row]
            where, what = _column(names, _PATHS, "path"), _column(names, _LABELS, "label")
            continue
        cells = row + [""] * (max(where, what) + 1 - len(row))
        yield _one(f"line {rows.line_num}", cells[where], cells[what])
    if names is None:
        raise DataError("it is empty; expected a line path,label and one line an image.")


def _column(names: list[str], wanted: tuple[str, ...], what: str) -> int:
    found = next((names.index(name) for name in wanted if name in names), None)
    if found is None:
        raise DataError(
            f"its first line names no column {what!r}: got {quoted(names)}. Expected path,label."
        )
    return found


def _one(where: str, path: Any, label: Any, skipped: bool = False) -> Given:
    """Make one entry of what stands in a cell; choices may come as JSON."""
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where} names no image.")
    if isinstance(label, str) and label.lstrip()[:1] in ("{", "["):
        with_choices = _parsed(label)
        label = label if with_choices is None else with_choices
    if isinstance(label, Mapping):
        label = label.get("choices")
    if isinstance(label, list):
        if len(label) > 1:
            raise DataError(f"{where} has {len(label)} labels for one image; one is expected.")
        label = label[0] if label else ""
    label = "" if label is None else label
    if not isinstance(label, str):
        raise DataError(f"{where}: the label must be text, got {quoted(label)}.")
    return Given(where, path.strip(), label.strip(), skipped)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_json(tasks: Any) -> Iterable[Given]:
    if isinstance(tasks, Mapping):
        tasks = [tasks]
    if not all(isinstance(task, Mapping) for task in tasks):
        raise DataError("it is no list of tasks, as Label Studio exports them.")
    for number, task in enumerate(tasks, start=1):
        where = f"task {task.get('id', number)}"
        if isinstance(task.get("data"), Mapping):
            yield from _annotated(where, task)
        else:  # JSON-MIN: data and result beside one another
            yield _one(where, _first(task, _PATHS), _first(task, _LABELS))


def _annotated(where: str, task: Mapping[str, Any]) -> Iterable[Given]:
    path = _first(task["data"], _PATHS)
    annotations = task.get("annotations", task.get("completions")) or []
    if not isinstance(annotations, list):
        raise DataError(f"{where}: its annotations are no list.")
    if not annotations:
        yield _one(where, path, "")
    for annotation in annotations:
        if not isinstance(annotation, Mapping):
            raise DataError(f"{where}: an annotation is no object.")
        cancelled = annotation.get("was_cancelled") is True
        results = annotation.get("result") or []
        if not isinstance(results, list):
            raise DataError(f"{where}: the results of an annotation are no list.")
        chosen = [_choices(where, part) for part in results]
        labels = [label for some in chosen for label in some]
        yield _one(where, path, [] if cancelled else labels, cancelled)


def _choices(where: str, part: Any) -> list[Any]:
    if not isinstance(part, Mapping) or not isinstance(part.get("value"), Mapping):
        raise DataError(f"{where}: a result is no object with a value.")
    if part.get("type", "choices") != "choices":
        raise DataError(f"{where} holds {quoted(part.get('type'))}; expected choices.")
    found = part["value"].get("choices", [])
    return found if isinstance(found, list) else [found]


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


__all__ = ["FILE_BYTES", "SKIPS", "Given", "read_answers", "spellings"]
