"""SIGINT and SIGTERM end a run of the command line within a batch, with its state written."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from alprune.loop.event_log import resume_command

if TYPE_CHECKING:
    from alprune.loop import Session

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal that ends the program at once.

    Args:
        signum: Which.
        message: What to tell.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Signals:
    """Handles both signals inside a `with` block, and leaves them as they were after it.

    Before there is a session a signal ends the program at once: nothing is lost. Afterwards it
    ends the session, and a second SIGINT the program. A second SIGTERM is the same wish again,
    with a session or without: supervisors send it to a process and to its group.

    Attributes:
        exit_code: 128 plus the number of the signal that came, as shells have it; 0 without.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._session: Session | None = None
        self._resumed: Path | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self._before = {number: signal.signal(number, self._handle) for number in _HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end(self, session: "Session | None") -> None:
        """From now on let a signal end this session; None: the program, at once."""
        self._session = session

    def going_on(self, path: Path) -> None:
        """Note that there is a run already, for what is said before it has a session again."""
        self._resumed = path

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and self.exit_code == 128 + signum:
            return
        again = self.exit_code != 0
        self.exit_code = 128 + signum
        if self._session is None:
            done = "before it was resumed" if self._resumed else "before the first step"
            advice = f" {how_to_resume(self._resumed)}" if self._resumed else ""
            raise Stopped(signum, f"Interrupted {done}.{advice}")
        path = self._session.record.folder.path
        if again and signum == signal.SIGINT:
            raise Stopped(signum, f"Stopped at once. {how_to_resume(path)}")
        if not again:
            self._session.interrupt()
            # Not print: this may have interrupted one.
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), b"\nEnding after this batch. Ctrl-C: at once.\n")


def how_to_resume(path: Path) -> str:
    """Return the advice that names the command to resume a run."""
    return f"To resume: {resume_command(path)}"
