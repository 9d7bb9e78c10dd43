"""Locks of the operating system: one process at a time, until it lets go or ends."""

import inspect
from pathlib import Path
from typing import Any

from filelock import FileLock

# Where a file system lacks locks, some versions leave a file instead, which outlives a process.
_KEPT = "fallback_to_soft"
_KNOWN = inspect.signature(FileLock.__init__).parameters
_OPTIONS: dict[str, Any] = {_KEPT: False} if _KEPT in _KNOWN else {}


def file_lock(path: Path, *, timeout: float = -1, thread_local: bool = True) -> FileLock:
    """Return the lock that a file stands for, not yet held.

    To acquire it raises OSError or NotImplementedError where the system has no locks.
    """
    return FileLock(path, timeout=timeout, thread_local=thread_local, **_OPTIONS)
