"""Read labels from the files that people send: spreadsheets' CSV and Label Studio's exports."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from alprune.data.safe_io import read_whole
from alprune.data.tables import decode, read_table
from alprune.errors import DataError, quoted
from alprune.loop.csv_tables import from_cell

FILE_BYTES = 2**27  # of a file of labels
SKIPS = ("skip", "unsure", "?")  # what stands for "I cannot tell"
_PATHS = ("path", "file", "filename", "image")  # names of columns, in order of preference
_LABELS = ("label", "class", "choice", "choices")
_CHOICES = ("choice", "choices")  # of these, Label Studio's own
_GUESSES = ("confidence", "entropy")  # beside a column "class", in tables of predictions
_CONTENT = re.compile("[0-9a-f]{32}")
_COMMENTS = frozenset(("textarea", "rating", "number", "datetime", "relation"))
_UPLOADED = re.compile(r"(?:.*/)?data/upload/(?:\d+/)?[0-9a-f]{8}-(.+)")


@dataclass(frozen=True)
class Given:
    """What a file says about an image, unchecked.

    Attributes:
        where: Place in the file, for messages.
        path: As written; `spellings` says which paths it may mean.
        label: As written, without spaces around it; "" where nothing was answered.
        skipped: Whether it says in another way than by the label that nobody could tell.
        guess: Encoding in which the file was read, if that was guessed.
        content: Hash of the image file, in a table of ours such as labels.csv; "" elsewhere.
        predicted: Whether it comes from a table of predictions, whose paths are not parts of paths.
    """

    where: str
    path: str
    label: str
    skipped: bool = False
    guess: str | None = None
    content: str = ""
    predicted: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """What the label may mean: written for a spreadsheet, or plainly."""
        return from_cell(self.label), self.label


def read_answers(path: Path, encoding: str | None = None, column: str | None = None) -> list[Given]:
    """Read a CSV file (columns path, label) or an export of Label Studio (JSON, JSON-MIN, CSV).

    A CSV may be separated by commas, semicolons, tabs or bars and its lines may end in any way. It
    is read by its byte order mark, as UTF-8, or by `encoding`; see `alprune.data.tables.decode`.

    Args:
        path: The file.
        encoding: Of a file that is not UTF-8.
        column: Name of the column, or of Label Studio's control, that holds the label.

    Raises:
        DataError: It cannot be read, or is none of these.
    """
    try:
        raw = read_whole(path, FILE_BYTES)
    except OSError as error:
        raise DataError(f"cannot read labels from {path}: {error.strerror or error}.") from error
    names = _LABELS if column is None else (column,)
    try:
        text = decode(raw, encoding)
        if text.content.lstrip()[:1] in ("[", "{") and path.suffix.lower() != ".csv":
            return list(_from_json(json.loads(text.content), names))
        table = read_table(text)
        where, what = table.column(_PATHS, "path"), table.column(names, "label")
        ours = any(map(table.places, _GUESSES)) and not table.places("predicted")
        guesses = table.places("class") if ours else []
        contents = table.places("content")
        if column is None:  # a table of ours may come back from Label Studio with one more
            what = table.filled([what, *(i for name in _CHOICES for i in table.places(name))])
            if what in guesses:
                raise DataError(
                    "its column 'class' holds what the learner takes the images for, and it has no "
                    "column 'label'. Write labels into one, or pass --label-column class to take "
                    "all of these guesses for labels."
                )
        return [
            replace(
                _one(f"line {line}", row[where], row[what], guess=table.guess),
                content=next((row[i] for i in contents if _CONTENT.fullmatch(row[i])), ""),
                predicted=bool(guesses),
            )
            for line, row in table.rows
        ]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable as CSV or JSON: {error}.") from error


def spellings(path: str, root: Path) -> Iterable[str]:
    """Return what a path in a file of answers may be called below the folder of images.

    It may be absolute, have backslashes, be written for a spreadsheet, or be an address under
    which Label Studio or a web server serves it.
    """
    for text in dict.fromkeys((path, from_cell(path), path.strip())):
        names, address = [text], _address(text)
        if "local-files" in text and (query := parse_qs(address.query).get("d")):
            names.append(query[0])
        if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
            path = unquote(address.path)
            names += [path, path.lstrip("/")]  # of file:, the whole path
        for name in (*names, unquote(text)):
            plain = re.sub(r"^(\./)+", "", name.replace("\\", "/"))
            yield from (name, plain, _below(plain, root))


def _address(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # brackets in it hold no address of a machine
        return SplitResult("", "", "", "", "")


def uploaded_name(path: str) -> str | None:
    """Return the name of a file before it was uploaded to Label Studio; None of any other."""
    found = _UPLOADED.fullmatch(unquote(path.strip()))
    return found[1] if found else None


def as_uploaded(name: str) -> str:
    """Return a file's name as it becomes when it is uploaded, but for the digits in front."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _below(path: str, root: Path) -> str:
    """Take the folder of images off the front of a path, where it stands there."""
    for folder in (root.as_posix(), root.absolute().as_posix()):
        if path.startswith(f"{folder}/"):
            return path[len(folder) + 1 :]
    return path


def _one(
    where: str, path: Any, label: Any, skipped: bool = False, guess: str | None = None
) -> Given:
    """Make one entry of the content of a cell; choices may come as JSON."""
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
    return Given(where, path, label.strip(), skipped, guess)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_json(tasks: Any, names: Sequence[str]) -> Iterable[Given]:
    if isinstance(tasks, Mapping):
        tasks = [tasks]
    if not all(isinstance(task, Mapping) for task in tasks):
        raise DataError("it is not a list of tasks as Label Studio exports it.")
    short = [task for task in tasks if not isinstance(task.get("data"), Mapping)]
    if short and not any(name in task for task in short for name in names):
        fields = sorted({str(field) for task in short for field in task})
        raise DataError(
            f"no task has a field {' or '.join(map(repr, names))}: got {quoted(fields)}. Name the "
            "one that holds the label (--label-column)."
        )
    for number, task in enumerate(tasks, start=1):
        where = f"task {task.get('id', number)}"
        if isinstance(task.get("data"), Mapping):
            yield from _annotated(where, task, names)
        else:  # JSON-MIN: data and result beside one another
            yield _one(where, _first(task, _PATHS), _first(task, names))


def given_of_task(task: Mapping[str, Any]) -> list[Given]:
    """Return what the annotations of one task of Label Studio say.

    Raises:
        DataError: They are not choices.
    """
    return list(_annotated(f"task {task.get('id', '')}", task, _LABELS))


def _annotated(where: str, task: Mapping[str, Any], names: Sequence[str]) -> Iterable[Given]:
    """Yield what the annotators of a task agree on, or each of the labels that differ.

    One that is marked as ground truth counts alone; a label counts more than a skip.
    """
    path = _first(task["data"], _PATHS)
    if path is None and isinstance(task.get("file_upload"), str):
        path = f"/data/upload/{task['file_upload']}"
    annotations = task.get("annotations", task.get("completions")) or []
    if not isinstance(annotations, list):
        raise DataError(f"{where}: its annotations are not a list.")
    if not all(isinstance(annotation, Mapping) for annotation in annotations):
        raise DataError(f"{where}: an annotation is not an object.")
    given = [a for a in annotations if a.get("was_cancelled") is not True]
    given = [a for a in given if a.get("ground_truth") is True] or given
    labels = {str(found): found for a in given if (found := _chosen(where, a, names))}
    for found in labels.values():
        yield _one(where, path, found)
    if not labels:
        skipped = len(annotations) > len(given)
        yield _one(where, path, "", skipped)


def _chosen(where: str, annotation: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return the choices of the control that asks for the label."""
    results = annotation.get("result") or []
    if not isinstance(results, list):
        raise DataError(f"{where}: the results of an annotation are not a list.")
    found: dict[str, list[Any]] = {}
    others = set()
    for part in results:
        kind = part.get("type", "choices") if isinstance(part, Mapping) else None
        if not isinstance(kind, str | None):
            raise DataError(f"{where}: the type of a result is not text.")
        if kind != "choices" and kind is not None:
            others.add(kind)
            continue
        if not isinstance(part, Mapping) or not isinstance(part.get("value"), Mapping):
            raise DataError(f"{where}: a result is not an object with a value.")
        choices = part["value"].get("choices", [])
        asked = found.setdefault(str(part.get("from_name", "")), [])
        asked += choices if isinstance(choices, list) else [choices]
    if not found and not others <= _COMMENTS:
        strange = ", ".join(map(quoted, sorted(map(str, others - _COMMENTS))))
        raise DataError(f"{where} holds {strange}; expected choices.")
    if len(found) <= 1 and names == _LABELS:
        return next(iter(found.values()), [])
    for name in names:
        if name in found:
            return found[name]
    if len(found) > 1 and names == _LABELS:
        raise DataError(
            f"{where} answers several questions: {quoted(sorted(found))}. Name the one that asks "
            "for the label (--label-column)."
        )
    return []


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if name in record), None)
