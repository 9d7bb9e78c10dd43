"""Open the page in the browser of this machine without showing its token to other users."""

import contextlib
import html
import os
import threading
import webbrowser
from pathlib import Path

_NAME = "open-page.html"


def open_browser(folder: Path, url: str) -> None:
    """Open a browser, in a thread of its own: some keep the caller until they are closed.

    A command line can be read by every user of a machine, so the browser is given a file that only
    its owner can read and that leads to the page.

    Args:
        folder: Takes the file; not a hidden one, which confined browsers cannot read.
        url: With a token that works once.
    """
    threading.Thread(target=_open, args=(folder / _NAME, url), daemon=True).start()


def remove_opener(folder: Path) -> None:
    """Remove the file that led to the page."""
    with contextlib.suppress(OSError):
        (folder / _NAME).unlink()


def _open(path: Path, url: str) -> None:
    with contextlib.suppress(Exception):  # no browser, or a disk that is full: the address helps
        write_opener(path, url)
        webbrowser.open(path.resolve().as_uri())


def write_opener(path: Path, url: str) -> None:
    """Write the file; only the user who runs this can read it.

    Raises:
        OSError: It cannot be written.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(
            "<!doctype html><meta charset=utf-8><title>alprune</title>"
            f'<meta http-equiv=refresh content="0; url={html.escape(url)}">'
            f'<a href="{html.escape(url)}">Open the page</a>\n'
        )
