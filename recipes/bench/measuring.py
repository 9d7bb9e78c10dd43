"""What the benchmarks beside this share: a stopwatch and the memory that a process has held."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and what it returned."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def peak_bytes() -> float:
    """Return the largest resident set so far.

    On Linux from /proc: getrusage counts what the process held that started this one, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        [peak_kib] = [line.split()[1] for line in status.open() if line.startswith("VmHWM:")]
        return int(peak_kib) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # bytes, elsewhere KiB
