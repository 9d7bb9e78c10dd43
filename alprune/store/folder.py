"""The run folder: the record of a run, written as it goes, sound at any instant."""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from filelock import FileLock, Timeout

from alprune.errors import StoreError, quoted
from alprune.files import open_ordinary, read_whole

EVENTS = "events.jsonl"
CONFIG = "config.toml"
LABELS = "labels.csv"
LOCK = ".lock"
LINE_BYTES = 2**24  # of an event: a million acquired points take half of it
FILE_BYTES = 2**28  # of events.jsonl and labels.csv: ten million rows

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")
_NUMBER = (int, float)
_FIELDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("elapsed_s fitted_s", _NUMBER, "a number"),
    ("test_accuracy", (*_NUMBER, NoneType), "a number or null"),
    ("step labelled", (int,), "a whole number"),
    ("steps", (int, NoneType), "a whole number or null"),
    ("reason acquisition device data_digest", (str,), "text"),
    ("acquired initial", (list,), "a list"),
    ("config versions", (dict,), "an object"),
)

Row = tuple[int, int, str, int]
"""A labelled point: index, label, class name, step."""


class RunFolder:
    """A folder that holds one run, to which one process at a time writes.

    Whatever is written is on the disk when the call returns. Files are replaced whole; lines are
    added at the end, and a line that could not be finished is cut off again.

    Args:
        path: The folder; made if missing.
        resume: Open the run that is there, instead of a new one.

    Attributes:
        path: As given.
        events_bytes: Length of events.jsonl, of whole lines.

    Raises:
        StoreError: It holds a run already (or none, with `resume`), another process writes to
            it, or it cannot be written.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self._labels_bytes = 0
        try:
            if not resume:
                path.mkdir(parents=True, exist_ok=True)
            _check(path, resume)
            self._lock = _locked(path)
            try:
                _check(path, resume)  # again: another process may just have finished there
                (path / EVENTS).touch()
                self.events_bytes = (path / EVENTS).stat().st_size
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise StoreError(f"cannot write a run to {path}: {error}.") from error

    def event(self, name: str, elapsed_s: float, **fields: Any) -> None:
        """Append one line to events.jsonl.

        Args:
            name: "start", "prune", "step", "end", ...
            elapsed_s: The budget clock.
            **fields: JSON values.

        Raises:
            StoreError: The line cannot be written.
        """
        line = json.dumps({"event": name, "elapsed_s": round(elapsed_s, 3), **fields}) + "\n"
        self.events_bytes = _append(self.path / EVENTS, line.encode(), self.events_bytes)

    def rewind(self, events_bytes: int) -> None:
        """Cut off what stands in events.jsonl past a length, written after a checkpoint.

        Raises:
            StoreError: The file is shorter than that, or cannot be written.
        """
        self.events_bytes = _append(self.path / EVENTS, b"", events_bytes)

    def write(self, name: str, *content: str | bytes | memoryview) -> None:
        """Write a file whole or not at all.

        Args:
            name: Of the file.
            *content: Its pieces, text as UTF-8.

        Raises:
            StoreError: It cannot be written; what was there before still is.
        """
        temporary = self.path / f".{name}.tmp"  # a killed process's is replaced by the next
        try:
            temporary.unlink(missing_ok=True)
            try:
                with open(temporary, "xb") as file:
                    for piece in content:
                        file.write(piece.encode() if isinstance(piece, str) else piece)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            _sync_directory(self.path)
        except OSError as error:
            raise StoreError(f"cannot write {self.path / name}: {error}.") from error

    def write_labels(self, rows: Iterable[Row]) -> None:
        """Write labels.csv anew: index, label, class name (see `to_cell`), step a row.

        Raises:
            StoreError: As from `write`.
        """
        data = _table([("index", "label", "class", "step"), *rows])
        self.write(LABELS, data)
        self._labels_bytes = len(data)

    def append_labels(self, rows: Iterable[Row]) -> None:
        """Add rows to labels.csv.

        Raises:
            StoreError: They cannot be written.
        """
        self._labels_bytes = _append(self.path / LABELS, _table(rows), self._labels_bytes)

    def close(self) -> None:
        """Let another process write here."""
        self._lock.release()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read the events of a run folder, also of one that is being written.

    Args:
        path: The run folder.

    Returns:
        One dictionary an event, in order. A last line that is half written is left out.

    Raises:
        StoreError: No run there, or a damaged line before the last.
    """
    events: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(_lines(path / EVENTS), start=1):
            try:
                events.append(_event(line))
            except (ValueError, RecursionError) as error:
                raise StoreError(f"{path / EVENTS} line {number} is damaged: {error}.") from error
    except OSError as error:
        raise StoreError(f"{path} holds no readable run: {error}.") from error
    return events


class Fields(dict[str, Any]):
    """A JSON object of an event; to ask for a field that it lacks is a StoreError."""

    def __missing__(self, name: str) -> Any:
        raise StoreError(
            f"an event lacks {name!r}: the run's {EVENTS} was changed, or written by another "
            "version of alprune."
        )


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


def read_labels(path: Path) -> dict[int, tuple[int, int]]:
    """Read the labels in a run folder's labels.csv.

    Args:
        path: The run folder.

    Returns:
        `{index: (label, step)}`, without a half-written last row and rows that are no such.
    """
    try:
        text = read_whole(path / LABELS, FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return {}
    known = {}
    with contextlib.suppress(csv.Error):  # what stood before the damage is still good
        for row in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])):
            with contextlib.suppress(ValueError, IndexError):
                known[int(row[0])] = int(row[1]), int(row[3])
    return known


def _lines(path: Path) -> Iterator[bytes]:
    with open_ordinary(path) as file:
        left = FILE_BYTES
        while line := file.readline(LINE_BYTES + 1):
            left -= len(line)
            if len(line) > LINE_BYTES or left < 0:
                raise StoreError(
                    f"{path} is no record of a run: it has a line of more than {LINE_BYTES:,} "
                    f"bytes, or more than {FILE_BYTES:,} in all."
                )
            if not line.endswith(b"\n"):
                return  # half written
            yield line


def _event(line: bytes) -> Fields:
    """Read one line and check the types of what is read from it elsewhere."""
    event = json.loads(line.decode(), object_hook=Fields)
    if not isinstance(event, Fields) or not isinstance(event.get("event"), str):
        raise ValueError("it is no JSON object with an 'event'")
    for names, kinds, what in _FIELDS:
        for name in names.split():
            value = event.get(name)
            odd = isinstance(value, bool) or not isinstance(value, kinds)
            if name in event and (odd or (isinstance(value, float) and not math.isfinite(value))):
                raise ValueError(f"{name!r} is {quoted(value)}, not {what}")
    return event


def _check(path: Path, resume: bool) -> None:
    for name in (EVENTS, LABELS, LOCK):  # what is written in place, through a link if it is one
        if (path / name).is_symlink():
            raise StoreError(
                f"{path / name} is a link, and a run would write to what it leads to. Remove it."
            )
    events = path / EVENTS
    # The options are written first: what was killed before that is no run yet.
    holds_run = (path / CONFIG).exists() or (events.exists() and events.stat().st_size > 0)
    if resume and not (path / CONFIG).exists():
        raise StoreError(f"{path} holds no run to go on with; start one with --out {path}.")
    if resume:
        return
    if holds_run:
        raise StoreError(
            f"{path} already holds a run. Nothing was changed. To go on with it: alprune run "
            f"--resume {path}. For a new run choose another --out, or move that run away."
        )
    ours = {EVENTS, LOCK, f".{CONFIG}.tmp"}
    found = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
    if found:
        raise StoreError(
            f"{path} is not empty (it holds {found[0]!r}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            + "), and a run would replace files there. Choose a new --out folder."
        )


def _locked(path: Path) -> FileLock:
    lock = FileLock(path / LOCK)  # of the operating system: it ends with the process that holds it
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(
            f"another process is writing its run to {path}. Nothing was changed. Wait until it "
            "has ended, or choose another folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise StoreError(f"cannot write a run to {path}: {error}.") from error
    return lock


def _append(path: Path, data: bytes, length: int) -> int:
    """Write at the end of a file whose sound part has `length` bytes; return the new length."""
    try:
        with open(path, "r+b", buffering=0) as file:  # r+: a file that has vanished is an error
            found = file.seek(0, os.SEEK_END)
            if found < length:
                raise OSError(f"it has {found} bytes of {length}: somebody has cut it")
            try:
                file.truncate(length)
                file.seek(length)
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}.") from error
    return length + len(data)


def _sync_directory(path: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot, and needs not
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _table(rows: Iterable[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    cells = ([to_cell(v) if isinstance(v, str) else v for v in row] for row in rows)
    csv.writer(text).writerows(cells)  # lines end in \r\n, so that both are quoted within a cell
    return text.getvalue().encode()
