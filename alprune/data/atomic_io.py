"""Writing files so that a power cut, a full disk or a kill leaves the old content or the new."""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_WAITS_S = (0.01, 0.05, 0.2, 0.8)
# What systems answer that cannot write a folder through; Windows and some file systems.
_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}


def make_folders(path: Path) -> None:
    """Make a folder and those above it that are missing; they stay there after a power cut.

    Raises:
        OSError: It cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def free_path(path: Path) -> Path:
    """Return `path`, or the first of `path`-2, `path`-3, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def replace(path: Path, *content: str | bytes | memoryview) -> None:
    """Write a file whole or not at all: beside it, through to the disk, then renamed.

    Two processes must not write the same one at once.

    Args:
        path: The file.
        *content: Its pieces, text as UTF-8.

    Raises:
        OSError: It cannot be written; what was there before is kept.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # a killed process's is replaced by the next
    _patiently(lambda: temporary.unlink(missing_ok=True))
    try:
        with _patiently(lambda: open(temporary, "xb")) as file:
            for piece in content:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a file over another; one that a reader has open is waited for on Windows.

    Raises:
        OSError: It cannot be renamed, or is in use for longer than a second.
    """
    _patiently(lambda: os.replace(source, target))  # Windows replaces none that is open or mapped


def append(path: Path, data: bytes, length: int) -> int:
    """Write at the end of a file whose sound part has `length` bytes; return the new length.

    Raises:
        OSError: It is shorter than that, or cannot be written; the sound part is kept.
    """
    # r+: a file that has vanished is an error
    with _patiently(lambda: open(path, "r+b", buffering=0)) as file:
        found = file.seek(0, os.SEEK_END)
        if found < length:
            raise OSError(f"it has {found} bytes of {length}: another program has cut it")
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
    return length + len(data)


def _patiently(act: Callable[[], _T]) -> _T:
    """Do something again, up to a second, while another program has the file open on Windows."""
    for wait_s in _WAITS_S:
        try:
            return act()
        except PermissionError:
            time.sleep(wait_s)
    return act()


def sync_folder(path: Path) -> None:
    """Write a folder's list of names through to the disk, where the system can.

    Raises:
        OSError: The disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
