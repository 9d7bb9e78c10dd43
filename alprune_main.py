"""Entry point of the `alprune` command: answers signals while the imports take their seconds."""

import signal
import sys


def main() -> None:
    """Run the command line."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        from alprune.cli import main as command
    except KeyboardInterrupt as interrupt:
        print("Interrupted before the first step.", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if interrupt.args else signal.SIGINT))
    signal.signal(signal.SIGTERM, before)
    command()


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt(signum)


if __name__ == "__main__":
    main()
