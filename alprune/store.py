"""The run folder: the record of a run, written as it goes."""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alprune.errors import StoreError

EVENTS = "events.jsonl"


class RunFolder:
    """A folder that holds one run and refuses to hold another.

    Args:
        path: The folder; made if missing.

    Raises:
        StoreError: It holds a run already, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path)
            # "x" makes claiming the folder one indivisible act.
            self._events = open(path / EVENTS, "x", encoding="utf-8")
        except FileExistsError as error:
            raise StoreError(
                f"{path} already holds a run, or is not a folder. Nothing was changed. Choose "
                "another --out, or move that run away."
            ) from error
        except OSError as error:
            raise StoreError(f"cannot write a run to {path}: {error}.") from error

    def event(self, name: str, elapsed_s: float, **fields: Any) -> None:
        """Append one line to events.jsonl and flush it.

        Args:
            name: "start", "prune", "step" or "end".
            elapsed_s: The budget clock.
            **fields: JSON values.

        Raises:
            StoreError: The line cannot be written.
        """
        line = json.dumps({"event": name, "elapsed_s": round(elapsed_s, 3), **fields})
        try:
            self._events.write(line + "\n")
            self._events.flush()
        except OSError as error:
            raise StoreError(f"cannot write {self.path / EVENTS}: {error}.") from error

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            StoreError: It cannot be written.
        """
        data = content.encode() if isinstance(content, str) else content
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
            temporary = None
        except OSError as error:
            raise StoreError(f"cannot write {self.path / name}: {error}.") from error
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def write_labels(self, rows: Iterator[tuple[int, int, str, int]]) -> None:
        """Write labels.csv: index, label, class name, step a row."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["index", "label", "class", "step"])
        table.writerows(rows)
        self.write("labels.csv", text.getvalue())

    def close(self) -> None:
        """Close events.jsonl."""
        self._events.close()


def _refuse_foreign(path: Path) -> None:
    found = sorted(entry.name for entry in path.iterdir() if entry.name != EVENTS)
    if found and not (path / EVENTS).exists():
        raise StoreError(
            f"{path} is not empty (it holds {found[0]!r}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            + "), and a run would replace files there. Choose a new --out folder."
        )


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
