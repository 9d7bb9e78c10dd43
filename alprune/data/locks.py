"""Locks of the operating system: one process at a time, until it lets go or ends."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# Where a file system lacks locks, some versions leave a file instead, which outlives a process.
_KEPT = "fallback_to_soft"
_KNOWN = inspect.signature(FileLock.__init__).parameters
_OPTIONS: dict[str, Any] = {_KEPT: False} if _KEPT in _KNOWN else {}


def file_lock(path: Path, *, timeout: float = -1, thread_local: bool = True) -> FileLock:
    """Return the lock that a file stands for, not yet held.

    To acquire it raises OSError or NotImplementedError where the system has no locks.
    """
    return FileLock(path, timeout=timeout, thread_local=thread_local, **_OPTIONS)


@contextmanager
def held_if_possible(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock that a file stands for; without one where the system has none.

    Args:
        path: The file.
        waiting: Warning to give where another process holds it, before this one waits.
    """
    lock = file_lock(path)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warnings.warn(waiting, stacklevel=4)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
