"""Open files from untrusted sources: ordinary ones, up to a size."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_ordinary(path: str | Path) -> BinaryIO:
    """Open an ordinary file to read bytes; a pipe or a device is refused, not waited for.

    Raises:
        OSError: It is not there, not readable or no ordinary file.
    """
    try:
        file = open(path, "rb", opener=_without_waiting)
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, no ordinary file", str(path))
    return file


def read_whole(path: str | Path, most: int) -> bytes:
    """Read a whole ordinary file of at most `most` bytes.

    Raises:
        OSError: As from `open_ordinary`, or it is longer.
    """
    with open_ordinary(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is longer than the {most:,} bytes that are read", str(path))
    return content


def user_path(text: str | Path) -> Path:
    """Return a path that a user wrote, with `~` expanded where there is such a home."""
    return Path(os.path.expanduser(text))


def no_folder(root: Path) -> str:
    """Say that a folder is missing, and where it was looked for if its path is relative."""
    where = "" if root.is_absolute() else f" in {os.getcwd()!r}"
    return f"there is no folder {str(root)!r}{where}."


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows lacks the flag
