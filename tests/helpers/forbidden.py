"""A folder of another user, also for tests that root runs, who may read everything."""

import errno
import os
from pathlib import Path

import pytest


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nothing below a folder be found, listed or opened."""
    for name in ("stat", "open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, _refusing(getattr(os, name), folder, name.endswith("dir")))


def _refusing(real, folder, itself):
    def call(path=".", *args, **kwargs):
        if isinstance(path, str | Path):
            there = Path(path)
            if folder in there.parents or (itself and there == folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **kwargs)

    return call
