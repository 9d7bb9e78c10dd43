"""Run attacks in a process of their own, which may not take more than so much memory."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOM_MB = 6144  # of addresses, beside what importing takes: a blow-up ends in a MemoryError
SECONDS = 10  # of the processor, for one attack
WAIT_S = 900  # for one that waits, however busy the machine is

RUNNER = """
import json, resource, signal, sys
from pathlib import Path
from alprune import Plan, RunConfig
from alprune.data import load
from alprune.errors import AlpruneError
from alprune.loop.events import read_events

def high_water_mb():
    lines = Path("/proc/self/status").read_text().split("\\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

pages = int(Path("/proc/self/statm").read_text().split()[0])
room = pages * resource.getpagesize() + {room_mb} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))

def stop(*_):
    raise TooLong

class TooLong(BaseException):  # which nothing that reads files catches
    pass

for number in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(number, stop)
for code in json.load(sys.stdin):
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = high_water_mb()
    signal.setitimer(signal.ITIMER_PROF, {seconds})
    signal.alarm({wait_s})
    try:
        exec(code)
        said = "no error"
    except AlpruneError as error:
        said = f"{{type(error).__name__}}: {{error}}"
    except BaseException as error:
        said = f"CRASH {{type(error).__name__}}: {{error}}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    print(json.dumps([said, high_water_mb() - before]), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What an attack came to: the message or "no error", and the memory it took."""

    said: str
    peak_mb: float


def run_attacks(codes: list[str], where: Path) -> list[Outcome]:
    """Run lines of code one after the other."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc, which this system lacks")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER.format(room_mb=ROOM_MB, seconds=SECONDS, wait_s=WAIT_S)],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        cwd=where,
        errors="backslashreplace",
    )
    outcomes = [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]
    dead = Outcome(f"CRASH: exit {done.returncode}: {done.stderr[-1000:]}", 0)
    return outcomes + [dead] * (len(codes) - len(outcomes))
