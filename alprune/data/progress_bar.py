"""Progress bars on standard error: alive on a terminal, a line a minute in a log."""

import sys
from typing import Any

from tqdm import tqdm

_LOG_S = 60.0  # between lines


def progress_bar(*args: Any, **options: Any) -> Any:
    """Return a bar of tqdm, which takes the arguments."""
    every_s = 0.1 if sys.stderr.isatty() else _LOG_S
    return tqdm(*args, file=sys.stderr, mininterval=every_s, maxinterval=10 + every_s, **options)
