"""The run folder: the record of a run, written as it goes, sound at any instant."""

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alprune.data import atomic_io
from alprune.data.locks import file_lock
from alprune.data.safe_io import open_ordinary
from alprune.errors import StoreError
from alprune.loop.csv_tables import COLUMNS, LABELS, Row, table
from alprune.loop.event_log import (
    EVENTS,
    FILE_BYTES,
    LABELLING,
    LINE_BYTES,
    kind_of,
    resume_command,
)

CONFIG = "config.toml"
LOCK = ".lock"
_PATIENCE_S = 60.0  # for a thread that writes when the folder is closed
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_LOCK_S = 0.3  # to wait for a lock: `alprune watch` holds it for an instant to see if it is free


class RunFolder:
    """A folder that holds one run, to which one process at a time writes.

    Whatever is written is on the disk when the call returns. Files are replaced whole; lines are
    added at the end, and a line that could not be finished is cut off again. A folder that was
    removed meanwhile, and perhaps made again by another run, is not written to. Several threads
    may write; after `close` none of them can.

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
        self._closed, self._gate = False, threading.Lock()  # held by the thread that writes
        self._digest = hashlib.blake2b(digest_size=16)
        try:
            if not resume:
                atomic_io.make_folders(path)
            _check(path, resume)
            self._lock = _locked(path)
            try:
                self._place = _place(path)
                _check(path, resume)  # again: another process may just have finished there
                (path / EVENTS).touch()
                self.events_bytes = (path / EVENTS).stat().st_size
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise StoreError(f"cannot write a run to {path}: {error}.") from error

    @property
    def events_digest(self) -> str:
        """Hash of the content of events.jsonl since `rewind`."""
        return self._digest.hexdigest()

    def event(self, name: str, elapsed_s: float, **fields: Any) -> None:
        """Append one line to events.jsonl.

        Args:
            name: "start", "prune", "step", "end", ...
            elapsed_s: The budget clock.
            **fields: JSON values.

        Raises:
            StoreError: It cannot be written, or makes a line or record longer than those read.
        """
        event = {"event": name, "elapsed_s": round(elapsed_s, 3), **fields}
        line = (json.dumps(event) + "\n").encode()
        if len(line) > LINE_BYTES:
            raise StoreError(
                f"cannot write the event {name!r}: it takes {len(line):,} bytes, and at most "
                f"{LINE_BYTES:,} are read. Label fewer points at a time."
            )
        if self.events_bytes + len(line) > FILE_BYTES:
            raise StoreError(
                f"cannot write the event {name!r}: {self.path / EVENTS} would be longer than the "
                f"{FILE_BYTES:,} bytes that are read again. Begin in a new folder."
            )
        with self._writing(EVENTS):
            self.events_bytes = atomic_io.append(self.path / EVENTS, line, self.events_bytes)
        self._digest.update(line)

    def rewind(self, events_bytes: int, digest: str | None = None) -> None:
        """Cut off what was written to events.jsonl after a checkpoint.

        Args:
            events_bytes: The length.
            digest: Hash that the part before it must have; None: any.

        Raises:
            StoreError: The file is shorter than that, holds another record or cannot be written;
                it is as it was then.
        """
        with self._writing(EVENTS):
            kept, found = _hash(self.path / EVENTS, events_bytes)
            if found < events_bytes or digest not in (None, kept.hexdigest()):
                less = f" ({found:,} bytes of {events_bytes:,})" if found < events_bytes else ""
                raise StoreError(
                    f"{self.path / EVENTS} is not the record that the checkpoint was written "
                    f"with{less}: it was cut or changed, or one of them comes from "
                    "another run. Put the right one back. Nothing was changed."
                )
            self.events_bytes = atomic_io.append(self.path / EVENTS, b"", events_bytes)
        self._digest = kept

    def write(self, name: str, *content: str | bytes | memoryview) -> None:
        """Write a file whole or not at all.

        Args:
            name: Of the file.
            *content: Its pieces, text as UTF-8.

        Raises:
            StoreError: It cannot be written; what was there before still is.
        """
        with self._writing(name):
            atomic_io.replace(self.path / name, *content)

    def write_labels(self, rows: Iterable[Row]) -> None:
        """Write labels.csv: index, label, class name (see `to_cell`) and step per row.

        Raises:
            StoreError: As from `write`.
        """
        data = table([COLUMNS, *rows])
        self.write(LABELS, data)
        self._labels_bytes = len(data)

    def append_labels(self, rows: Iterable[Row]) -> None:
        """Add rows to labels.csv.

        Raises:
            StoreError: They cannot be written.
        """
        with self._writing(LABELS):
            data = table(rows)
            self._labels_bytes = atomic_io.append(self.path / LABELS, data, self._labels_bytes)

    def close(self) -> None:
        """Let another process write here, once no thread of this one writes any more."""
        if self._gate.acquire(timeout=_PATIENCE_S):  # a hung disk: the lock ends with the process
            self._closed = True
            self._gate.release()
            self._lock.release()

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Make an OSError a StoreError that names the file; refuse a folder that is not ours."""
        with self._gate:
            if self._closed:
                raise StoreError(f"cannot write {self.path / name}: the run is closed.")
            try:
                ours = _place(self.path) == self._place
            except OSError:
                ours = False
            if not ours:
                raise StoreError(
                    f"cannot write {self.path / name}: the folder, or the {LOCK} in it, was "
                    "removed or replaced during the run, and may be another run's by now."
                )
            try:
                yield
            except OSError as error:
                repaired = f"cannot write {self.path / name}: {error}. Once that is repaired"
                if isinstance(error, PermissionError):
                    repaired += (
                        " (another program, such as a spreadsheet, may have it open: close it "
                        "there)"
                    )
                if not self.events_bytes and not os.path.exists(self.path / CONFIG):
                    advice = "repeat the command."  # there is nothing to resume yet
                elif kind_of(self.path) is LABELLING:  # ask, tell and label carry on by themselves
                    advice = "repeat the command; the answers that were written before are kept."
                else:
                    advice = (
                        f"resume from the last state that was written: {resume_command(self.path)}"
                    )
                raise StoreError(f"{repaired}, {advice}") from error


class NullRunFolder(RunFolder):
    """The folder of a process that helps another one, which alone writes it: writes nothing.

    Args:
        path: The folder.
    """

    events_digest = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events_bytes = 0

    def event(self, name: str, elapsed_s: float, **fields: Any) -> None:
        """Write nothing."""

    def rewind(self, events_bytes: int, digest: str | None = None) -> None:
        """Cut off nothing."""

    def write(self, name: str, *content: str | bytes | memoryview) -> None:
        """Write nothing."""

    def write_labels(self, rows: Iterable[Row]) -> None:
        """Write nothing."""

    def append_labels(self, rows: Iterable[Row]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Hold no lock that could be released."""


def check_new(path: Path) -> None:
    """Refuse a folder that a new run cannot have; nothing is made or changed.

    Raises:
        StoreError: It holds a run (the message says how to resume it) or something else, or
            nothing can be written there.
    """
    try:
        if path.exists():
            _check(path, resume=False)
    except OSError as error:
        raise StoreError(f"cannot write a run to {path}: {error}.") from error
    place = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not place.is_dir():
        raise StoreError(f"cannot write a run to {path}: {place} is not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write a run to {path}: nothing can be written to {place}. "
            "Choose another --out."
        )


def _check(path: Path, resume: bool) -> None:
    for name in (EVENTS, LABELS, LOCK):  # what is written in place, through a link if it is one
        if (path / name).is_symlink():
            raise StoreError(
                f"{path / name} is a link, and a run would write to what it leads to. Remove it."
            )
    events = path / EVENTS
    # The options are written first: what was killed before that is not a run yet.
    holds_run = (path / CONFIG).exists() or (events.exists() and events.stat().st_size > 0)
    if resume and not (path / CONFIG).exists():
        raise StoreError(f"{path} holds no run to resume; start one with --out {path}.")
    if resume:
        return
    if holds_run:
        raise StoreError(
            f"{path} already holds a run. Nothing was changed. To resume it: "
            f"{resume_command(path)}. For a new run choose another --out, or move that run away."
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
    # Of the operating system: it ends with the process that holds it. Any thread may let it go.
    lock = file_lock(path / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=_LOCK_S, poll_interval=_LOCK_S / 10)
    except Timeout as error:
        raise StoreError(
            f"another process is writing its run to {path}. Nothing was changed. Wait until it "
            f"has ended, or choose another folder. If its machine is gone, remove {path / LOCK}."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise no_lock(f"cannot write a run to {path}", error) from error
    return lock


def is_written(path: Path) -> bool | None:
    """Tell whether a process writes to a run folder; None if that cannot be found out.

    The folder's lock is free once the process that held it has ended, however it ended. It is
    held here for an instant only, and a run that starts at that instant waits for it.
    """
    lock = path / LOCK
    try:
        if not lock.is_file():
            return False  # a process that writes makes it first
        with file_lock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder of another user, a disk without locks
        return None


def no_lock(what: str, error: Exception) -> StoreError:
    """Build the error for a folder that cannot be locked; `what` says what was to be done."""
    code = getattr(error, "errno", None)
    if code in _WITHOUT_LOCKS or isinstance(error, NotImplementedError):
        return StoreError(
            f"{what}: the system has no locks there ({error}), and without one two processes could "
            "write to it at once. Put the folder on a local disk, and copy it back afterwards."
        )
    return StoreError(f"{what}: {error}.")


def _place(path: Path) -> tuple[int, int]:
    """Return what tells a folder's lock from that of another folder of the same name."""
    found = (path / LOCK).stat()
    return found.st_dev, found.st_ino


def _hash(path: Path, length: int) -> "tuple[hashlib.blake2b, int]":
    """Hash the first bytes of a file, as many as there are; return how many that were."""
    digest = hashlib.blake2b(digest_size=16)
    with open_ordinary(path) as file:
        left = length
        while left > 0:
            part = file.read(min(left, 2**20))
            if not part:
                break
            digest.update(part)
            left -= len(part)
    return digest, length - left
