"""Entry point of the `alprune` command: answers signals while the imports take their seconds."""

import contextlib
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Any

# What writing to a full disk, a closed pipe or a terminal that is gone answers.
_NO_OUTPUT = {errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EDQUOT}


def main() -> None:
    """Run the command line."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # closed by whoever started this
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console's code page lacks some letters
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr or open(os.devnull, "w"))  # type: ignore[assignment]
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    try:
        from alprune.cli import main as command

        try:
            command(prog_name="alprune")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_OUTPUT:
            raise
        # What was not written is let go of, or the interpreter would try once more at its end.
        sys.stdout = open(os.devnull, "w")
        if error.errno != errno.EPIPE:  # the reader of a pipe has seen enough
            print(f"Error: cannot write to the standard output: {error.strerror}.", file=sys.stderr)
        sys.exit(1)


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
    """Interrupt a command that works; end one that still imports, or has no use for SIGTERM.

    Nothing is written before the imports are over, and an exception could be swallowed by the
    package that is being imported.
    """
    if _importing(frame):
        os.write(sys.stderr.fileno(), b"Interrupted before the first step.\n")
    elif signum == signal.SIGINT:
        raise KeyboardInterrupt
    os._exit(128 + signum)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
