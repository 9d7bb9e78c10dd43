"""Entry point of the `alprune` command: answers signals while the imports take their seconds."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupted)
    try:
        from alprune.cli import main as command

        command(prog_name="alprune")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


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
