"""How busy a machine was with other things while a run's clock went, where the system tells."""

import os
import time
from pathlib import Path
from typing import Any

OTHERS_MOST = 0.1
"""Share of a machine's processors that others may take before times on it are doubted."""

_SHORT_S = 10.0  # a run of less is not worth a warning


class MachineLoad:
    """Watches the processors from when it is made."""

    def __init__(self) -> None:
        self._begin_s, self._busy_s, self._own_s = time.monotonic(), _busy_s(), _own_s()

    def now(self) -> dict[str, Any]:
        """Return the load average of the last minute, as JSON; None where there is none."""
        return {"load_average": _load_average()}

    def ended(self) -> dict[str, Any]:
        """Return the load average, and the share that others took of our processors, 0 to 1."""
        busy_s, wall_s = _busy_s(), time.monotonic() - self._begin_s
        share = None
        if busy_s is not None and self._busy_s is not None and wall_s > 0:
            others_s = busy_s - self._busy_s - (_own_s() - self._own_s)
            share = round(min(1.0, max(0.0, others_s / (wall_s * len(_ours())))), 3)
        return self.now() | {"others_share": share}

    def doubt(self, share: float | None) -> str | None:
        """Return a warning where others took so much that times are not to be relied on."""
        if share is None or share <= OTHERS_MOST or time.monotonic() - self._begin_s < _SHORT_S:
            return None
        return busy_with_others(share)


def busy_with_others(share: float, budget: bool = True) -> str:
    """Say that others took a share of the processors during a run, under a budget or without."""
    harm = "it got less done in its budget" if budget else "it took more seconds"
    return (
        f"other processes took {share:.0%} of this machine's processors while the run's clock "
        f"went: {harm} than it would have alone."
    )


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows has none
        return None


def _busy_s() -> float | None:
    """Return the seconds in which our processors did anything since the machine was started."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            lines = [line.split() for line in file if line.startswith("cpu")]
        # Without idle and waiting for disks.
        found = [[int(word) for word in (*line[1:4], *line[6:9])] for line in lines]
        ticks = {line[0]: sum(each) for line, each in zip(lines, found, strict=True)}
        return sum(ticks[name] for name in _ours()) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, KeyError, AttributeError):  # only Linux counts there
        return None


def _ours() -> list[str]:
    """Return the processors that this process may use, which a cluster does not give others."""
    return [f"cpu{number}" for number in os.sched_getaffinity(0)]


def _own_s() -> float:
    """Return the seconds of this process and those below it, and of its run's others here."""
    parents, spent_s = _processes()
    if os.getpid() not in spent_s:
        own = os.times()
        return own.user + own.system + own.children_user + own.children_system
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1  # torchrun starts them all
    root = os.getppid() if beside else os.getpid()
    return sum(spent for process, spent in spent_s.items() if root in _line(process, parents))


def _line(process: int, parents: dict[int, int]) -> list[int]:
    """Return a process and those above it."""
    line = [process]
    while (parent := parents.get(line[-1])) is not None and parent not in line:
        line.append(parent)
    return line


def _processes() -> tuple[dict[int, int], dict[int, float]]:
    """Return parent and seconds by process, those of its ended children included; Linux only."""
    parents, spent_s = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces and brackets itself.
            _, parent, *fields = path.read_bytes().rpartition(b")")[2].split()
            ticks = sum(int(field) for field in fields[9:13])
        except (OSError, ValueError):  # ended meanwhile
            continue
        parents[int(path.parent.name)] = int(parent)
        spent_s[int(path.parent.name)] = ticks / os.sysconf("SC_CLK_TCK")
    return parents, spent_s
