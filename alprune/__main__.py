"""Entry point of the `alprune` command: answers signals while the imports take their seconds."""

import signal
import sys

_came: list[int] = []


def main() -> None:
    """Run the command line."""
    ours = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupted) for number in ours}
    try:
        from alprune.cli import main as command
    except BaseException:
        if not _came:
            raise
    if _came:  # even if a package that was being imported has swallowed it
        print("Interrupted before the first step.", file=sys.stderr)
        sys.exit(128 + _came[0])
    for number, handler in before.items():
        signal.signal(number, handler)
    command(prog_name="alprune")


def _interrupted(signum: int, frame: object) -> None:
    _came.append(signum)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
