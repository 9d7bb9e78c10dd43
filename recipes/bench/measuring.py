"""What the benchmarks beside this share: a stopwatch and the memory that a process has held."""

import time
from collections.abc import Callable
from typing import Any

from alprune.loop.events import peak_resident


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and what it returned."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def peak_bytes() -> float:
    """Return the largest resident set so far."""
    peak = peak_resident()
    assert peak is not None, "the memory of this process is not known"
    return peak
