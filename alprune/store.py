"""The run folder: the record of a run, written as it goes, sound at any instant."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alprune.errors import StoreError

EVENTS = "events.jsonl"
CONFIG = "config.toml"
LABELS = "labels.csv"
LOCK = ".lock"

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

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            StoreError: It cannot be written; what was there before still is.
        """
        data = content.encode() if isinstance(content, str) else content
        temporary = self.path / f".{name}.tmp"  # a killed process's is replaced by the next
        try:
            temporary.unlink(missing_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
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
        """Write labels.csv anew: index, label, class name, step a row.

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
    try:
        lines = (path / EVENTS).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} holds no readable run: {error}.") from error
    events = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is half
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise StoreError(f"{path / EVENTS} line {number} is damaged: {error}.") from error
    return events


def read_labels(path: Path) -> dict[int, tuple[int, int]]:
    """Read the labels in a run folder's labels.csv.

    Args:
        path: The run folder.

    Returns:
        `{index: (label, step)}`, without a half-written last row and rows that are no such.
    """
    try:
        text = (path / LABELS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    known = {}
    with contextlib.suppress(csv.Error):  # what stood before the damage is still good
        for row in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])):
            with contextlib.suppress(ValueError, IndexError):
                known[int(row[0])] = int(row[1]), int(row[3])
    return known


def _check(path: Path, resume: bool) -> None:
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
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
