"""predictions.csv: written batch by batch, sound at any instant, resumable."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import Timeout

from alprune.data import atomic_io
from alprune.data.locks import file_lock
from alprune.data.safe_io import read_whole
from alprune.errors import StoreError, quoted
from alprune.loop import csv_tables
from alprune.runs.predict.classify import Classified, classify
from alprune.runs.predict.embedded import Kept
from alprune.runs.predict.files import Source
from alprune.training.classifier import Classifier

COLUMNS = ("path", "class", "probability", "confidence", "entropy", "label", "error")
_BYTES = 2**16  # of rows, a thousand or so, that are written and synced together
_SECONDS = 5.0  # after which fewer are
_MARK = b"\xef\xbb\xbf"  # without it spreadsheets take UTF-8 for something else
_STATE_MOST = 2**26


@dataclass
class Tally:
    """What has been classified so far.

    Attributes:
        images: Rows written.
        errors: Files that could not be read among them.
        classes: Images by predicted class.
        labelled: Images that were read and whose class was known from their folder.
        right: Of these, how many got that class.
        last: Path of the last row.
    """

    images: int = 0
    errors: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    right: int = 0
    last: str = ""

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled images that got their class, 0 to 1; None without such."""
        return self.right / self.labelled if self.labelled else None


class Table:
    """Writes rows and counts them.

    Args:
        classifier: Whose classes the columns are.
        every: Add a column for each class's probability.

    Attributes:
        header: The names of the columns.
        tally: Of the rows made so far.
    """

    def __init__(self, classifier: Classifier, every: bool) -> None:
        self._classes, self._every = classifier.classes, every
        self._calibrated = classifier.temperature is not None
        self.header = (*COLUMNS, *(f"p: {name}" for name in self._classes if every))
        self.tally = Tally(classes=dict.fromkeys(self._classes, 0))

    def rows(self, batch: Classified) -> Iterator[Sequence[Any]]:
        """Make a batch's rows."""
        best = batch.best
        columns = zip(
            best.tolist(),
            batch.softmax.gather(1, best[:, None])[:, 0].tolist(),
            batch.probabilities.gather(1, best[:, None])[:, 0].tolist(),
            batch.entropy.tolist(),
            batch.probabilities.tolist() if self._every else [()] * len(best),
            strict=True,
        )
        for entry in batch.entries:
            self.tally.images += 1
            self.tally.last = entry.shown
            if entry.error is not None:
                self.tally.errors += 1
                none = [""] * (len(self.header) - len(COLUMNS))
                yield [entry.shown, "", "", "", "", entry.label or "", entry.error, *none]
                continue
            place, probability, confidence, entropy, every = next(columns)
            name = self._classes[place]
            self.tally.classes[name] += 1
            if entry.label is not None:
                self.tally.labelled += 1
                self.tally.right += entry.label == name
            yield [
                entry.shown,
                name,
                f"{probability:.6f}",
                f"{confidence:.6f}" if self._calibrated else "",
                f"{entropy:.6f}",
                entry.label or "",
                "",
                *(f"{p:.6f}" for p in every),
            ]


def write_stream(
    classifier: Classifier,
    source: Source,
    out: BinaryIO,
    device: torch.device,
    every: bool,
    kept: Kept | None = None,
) -> Tally:
    """Write the table to a stream, such as the standard output; `kept` as for `classify`."""
    table = Table(classifier, every)
    out.write(csv_tables.table([table.header]))
    for batch in classify(classifier, source, device, kept=kept):
        out.write(csv_tables.table(table.rows(batch)))
    out.flush()
    return table.tally


def write_file(
    classifier: Classifier,
    source: Source,
    out: Path,
    device: torch.device,
    every: bool = False,
    resume: bool = False,
    tick: Callable[[Tally], None] = lambda tally: None,
    kept: Kept | None = None,
) -> Tally:
    """Write the table to a file.

    Beside it a hidden file says how far it is; that is gone when the table is complete. Whatever
    interrupts the work, even a kill, leaves whole rows behind and `resume` continues after them.

    Args:
        classifier: As it was trained.
        source: The images.
        out: The file.
        device: Where to compute.
        every: Add a column for each class's probability.
        resume: Continue a table that was interrupted.
        tick: Called at the start and after each batch.
        kept: As for `classify`.

    Raises:
        StoreError: The file is there already (without `resume`), is not that table, cannot be
            written, or another process writes it.
    """
    if out.is_dir():
        raise StoreError(f"{out} is a folder; name a file.")
    table = Table(classifier, every)
    identity = {"learner": _digest(classifier), "images": source.name, "columns": table.header}
    note = out.with_name(f".{out.name}.progress")
    try:
        atomic_io.make_folders(out.parent)
        with _alone(out):
            if resume and out.exists():
                length = _restored(table, out, note, identity)
                _check_same(source, table.tally, out)
            else:
                _check_free(out, note)
                header = _beginning(table)
                _write_note(note, identity, table.tally, len(header))
                atomic_io.replace(out, header)
                length = len(header)
            writer = _Writer(out, note, identity, length)
            tick(table.tally)
            try:
                for batch in classify(classifier, source, device, table.tally.images, kept):
                    writer.add(csv_tables.table(table.rows(batch)), table.tally)
                    tick(table.tally)
            finally:  # also what Ctrl-C ends
                writer.flush()
            note.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error}.") from error
    return table.tally


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a lock beside a table, where the system has locks."""
    place = out.with_name(f".{out.name}.lock")
    lock = file_lock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"another process is writing {out}. Nothing was changed. Wait until it has ended, or "
            "choose another --out."
        ) from error
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                place.unlink()
            lock.release()


class _Writer:
    """Appends rows, many at a time, each time with a note of how far the file is.

    A signal may come between any two steps: what was counted, what waits and what is written
    change together, and to write the same again at the same place does no harm.
    """

    def __init__(self, out: Path, note: Path, identity: dict[str, Any], length: int) -> None:
        self._out, self._note, self._identity = out, note, identity
        self._state: tuple[int, bytes, Tally | None] = (length, b"", None)
        self._written = time.monotonic()

    def add(self, rows: bytes, tally: Tally) -> None:
        length, pending, _ = self._state
        self._state = (length, pending + rows, replace(tally, classes=dict(tally.classes)))
        if len(pending) + len(rows) >= _BYTES or time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        length, pending, tally = self._state
        if pending and tally is not None:
            length = atomic_io.append(self._out, pending, length)
            _write_note(self._note, self._identity, tally, length)
            self._state = (length, b"", tally)
        self._written = time.monotonic()


def _check_free(out: Path, note: Path) -> None:
    if note.exists() and out.exists():
        raise StoreError(
            f"{out} holds predictions that were interrupted. To continue add --resume; to "
            "start over remove it, or choose another --out. Nothing was changed."
        )
    if out.exists():
        raise StoreError(
            f"{out} exists already. Remove it, or choose another --out. Nothing was changed."
        )


def _restored(table: Table, out: Path, note: Path, identity: dict[str, Any]) -> int:
    """Restore the state of an interrupted table; return its length in bytes."""
    if not note.exists():
        with open(out, "rb") as file:
            if file.read(len(_beginning(table))) == _beginning(table):
                raise StoreError(
                    f"{out} is complete: there is nothing to resume. To classify the images "
                    "again remove it, or choose another --out."
                )
        raise StoreError(f"{out} is not an interrupted table of predictions.")
    try:
        record = json.loads(read_whole(note, _STATE_MOST).decode())
        then, tally, length = dict(record["identity"]), Tally(**record["tally"]), record["bytes"]
        counts = [length, tally.images, tally.errors, tally.labelled, tally.right]
        counts += dict(tally.classes).values()
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"its counts are {quoted(counts)}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{note} is damaged: {error!r}. Remove it and {out}.") from error
    now = json.loads(json.dumps(identity))
    changed = [name for name in now if then.get(name) != now[name]]
    if changed or not tally.classes.keys() == table.tally.classes.keys():
        raise StoreError(
            f"{out} was begun with other {' and '.join(changed) or 'classes'}: "
            f"{quoted([then.get(name) for name in changed], 300)}. Give the same, or choose "
            "another --out."
        )
    table.tally = tally
    return length


def _check_same(source: Source, tally: Tally, out: Path) -> None:
    """Refuse to resume with images that are not where they were."""
    if not tally.images:
        return
    batches = source.batches(tally.images - 1)
    found = next(batches, None)
    if found is None or found.entries[0].shown != tally.last:
        raise StoreError(
            f"{out} was begun with other images: number {tally.images:,} was {tally.last!r} then. "
            "Files were added or removed since; remove the table, or choose another --out."
        )


def _write_note(note: Path, identity: dict[str, Any], tally: Tally, length: int) -> None:
    record = {"identity": identity, "tally": vars(tally), "bytes": length}
    atomic_io.replace(note, json.dumps(record))


def _digest(classifier: Classifier) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((classifier.inputs, classifier.temperature)).encode())
    for name, tensor in sorted(classifier.network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _beginning(table: Table) -> bytes:
    return _MARK + csv_tables.table([table.header])
