"""The run folder of a process that only helps another one, which writes it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alprune.loop.run_folder import Row, RunFolder


class SilentFolder(RunFolder):
    """Takes whatever a `RunFolder` takes, and writes nothing.

    Args:
        path: The folder, which another process writes.
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
        """Hold no lock that could be let go."""
