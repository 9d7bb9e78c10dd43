"""Entry point of the `alprune` command: answers signals while the imports take their seconds."""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

# What writing to a full disk, a closed pipe or a terminal that is gone answers.
_CLOSED = {errno.EPIPE, errno.EINVAL}  # a pipe whose reader is gone; the latter on Windows
_NO_OUTPUT = _CLOSED | {errno.ENOSPC, errno.EIO, errno.EDQUOT}


def main() -> None:
    """Run the command line."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # closed by whoever started this
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console's code page lacks some letters
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr or open(os.devnull, "w"))  # type: ignore[assignment]
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    sys.unraisablehook = _repeated
    try:
        from alprune.cli import main as command

        try:
            command(prog_name="alprune")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + getattr(interrupt, "signum", signal.SIGINT))
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_OUTPUT:
            raise
        # What was not written is let go of, or the interpreter would try once more at its end.
        sys.stdout = open(os.devnull, "w")
        if error.errno not in _CLOSED:  # the reader of a pipe has seen enough
            print(f"Error: cannot write to the standard output: {error.strerror}.", file=sys.stderr)
        sys.exit(1)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (_interrupted, _heard):
                signal.signal(number, _ended)


class _Forgiving:
    """The standard error, without which a run can do: what cannot be written is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """Interrupt a command that works, which removes what is temporary; end one that imports.

    An exception could be swallowed by the package that is being imported.
    """
    if _importing(frame):
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), b"Interrupted.\n")
        os._exit(128 + signum)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(signum, _heard)
    raise _Terminated


class _Terminated(KeyboardInterrupt):
    signum = signal.SIGTERM


def _heard(signum: int, frame: FrameType | None) -> None:
    """Let a second SIGTERM be the same wish again: supervisors send it to a group, too."""


def _repeated(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception came up in a destructor, where Python drops it."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = getattr(lost.exc_value, "signum", signal.SIGINT)
    again = threading.Timer(0.05, signal.raise_signal, [number])
    again.daemon = True
    again.start()


def _ended(signum: int, frame: FrameType | None) -> None:
    """End a process whose command is over and whose threads are not, with nothing left to say."""
    os._exit(128 + signum)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
