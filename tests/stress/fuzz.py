"""Fuzz every parser: damaged and crafted files, out of which only an AlpruneError may come.

    python tests/stress/fuzz.py --minutes 60 --seed 0

or in two halves, which try different inputs:

    python tests/stress/fuzz.py --minutes 30 --seed 1
    python tests/stress/fuzz.py --minutes 30 --seed 2

Each parser gets its turns in a process of its own, which may take 4 GiB of addresses and 20 s a
case. Findings are other exceptions, crashes, hangs and cases that take more than 1 GB; their inputs
are kept in --out, one file each, and the exit code is 1. "Taken" counts the inputs that were read
without an error: a fuzzer whose inputs are all refused at the door finds nothing. Time in which the
processes are stopped (SIGSTOP) does not count. Ctrl-C or SIGTERM ends it after the current turn,
with the table of what was done until then.

Measured, one core of an Intel Xeon at 2.3 GHz which other work shared, --minutes 60 --seed 0:
822,433 cases of nine parsers, none a finding; the most memory taken 756 MB, by an image. All 17
beside one another where other programs left little of the processor: an hour with --seed 101,
145,251 cases, one finding (a tar record that states more bytes than 64 bits count, mended); 72
minutes with --seed 201, 78,345 cases, none; then records of PAX and headers of HTTP alone, 10
minutes each with --seed 202, 1,136 and 6,537 cases, none. Four of them an hour each, with --only,
beside one another and other work on two cores: plan 1,696,307 cases and events (JSON) 999,485 with
--seed 301, none a finding; shard 62,840 with --seed 302 and request 502,781 with --seed 303, none,
after two that the first minutes found were mended (a sparse file of negative size in a tar that was
read for ever, an address that is not UTF-8).
"""

import argparse
import math
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mutations import LARGEST, mutate
from parsers import Target, targets

from alprune.errors import AlpruneError

ROOM = 4 * 2**30  # bytes of addresses a parser may take, beside what importing takes
CASE_S = 20
CASE_MB = 1024


@dataclass
class Tally:
    """What came of a parser's cases."""

    cases: int = 0
    taken: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count another turn's cases too."""
        self.cases += other.cases
        self.taken += other.taken
        self.seconds += other.seconds
        self.peak_mb = max(self.peak_mb, other.peak_mb)
        self.findings += other.findings


class TooLong(BaseException):
    """A case takes longer than it may."""


class Seconds:
    """Seconds since it was made, but of those between two looks at it at most so many.

    So a process that was stopped for an hour, and its cases with it, did not take that long.
    """

    def __init__(self, most: float = CASE_S) -> None:
        self._last, self._sum, self._most = time.monotonic(), 0.0, most

    def __call__(self) -> float:
        """Look."""
        now = time.monotonic()
        self._sum += min(now - self._last, self._most)
        self._last = now
        return self._sum


class Patience:
    """Ends a case after `CASE_S` seconds of the processor, however busy the machine is."""

    def __init__(self) -> None:
        self.left = CASE_S
        signal.signal(signal.SIGPROF, self._tick)

    def __enter__(self) -> None:
        self.left = CASE_S
        signal.setitimer(signal.ITIMER_PROF, 1, 1)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _tick(self, *_: object) -> None:
        self.left -= 1
        if self.left <= 0:
            raise TooLong


def next_case(target: Target, pool: list[bytes], rng: random.Random) -> bytes:
    """Make an input from one that is known."""
    content = rng.choice(pool)
    if target.inner and rng.random() < 0.5:
        try:
            return target.inner(content, target.words, rng)[:LARGEST]
        except Exception:
            pass  # a container too damaged to be opened is damaged further
    return mutate(content, target.words, rng)


def try_case(target: Target, path: Path, patience: Patience) -> tuple[bool, str | None]:
    """Feed a file; return whether it was read without an error, and what is wrong with that."""
    before = peak_mb()
    finding, taken = None, False
    try:
        with patience:
            target.parse(path)
        taken = True
    except AlpruneError:
        pass
    except TooLong:
        finding = f"takes more than {CASE_S} s"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        finding = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    if peak_mb() - before > CASE_MB:
        finding = finding or f"takes more than {CASE_MB} MB"
    return taken, finding


def fuzz_for(
    seconds: float, target: Target, seed: int, box: mmap.mmap, where: Path, send: Any
) -> None:
    """Try cases for a time; each lies in `box` first, where it outlives a crash."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent answers them
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff has much to say
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    patience, clock = Patience(), Seconds()
    rng = random.Random(seed)
    pool, kept, tally = list(target.seeds), {}, Tally()
    floor = peak_mb()
    while clock() < seconds:
        content = next_case(target, pool, rng)
        box[: 4 + len(content)] = struct.pack("<I", len(content)) + content
        (where / "input").write_bytes(content)
        taken, finding = try_case(target, where / "input", patience)
        tally.cases += 1
        tally.taken += taken
        if taken and len(content) < 2**14 and len(pool) < 200:
            pool.append(content)  # what gets through is a good start for what gets further
        if finding:
            tally.findings[finding] += 1
            kept.setdefault(finding, content)
    tally.seconds, tally.peak_mb = clock(), peak_mb() - floor
    send.send((tally, kept))


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def turn(target: Target, seconds: float, seed: int) -> tuple[Tally, dict[str, bytes]]:
    """Fuzz one parser in a process of its own; return the tally and an input for each finding."""
    context = multiprocessing.get_context("fork")
    box = mmap.mmap(-1, LARGEST + 4)
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as where:
        arguments = (seconds, target, seed, box, Path(where), send)
        process = context.Process(target=fuzz_for, args=arguments)
        process.start()
        send.close()
        try:
            result = receive.recv() if patiently(receive, seconds + 3 * CASE_S) else None
        except EOFError:
            result = None
        if result is None:
            process.kill()
        process.join()
    if result is not None:
        return result
    finding = f"the process died, exit code {process.exitcode}"
    content = box[4 : 4 + struct.unpack("<I", box[:4])[0]]
    return Tally(1, 0, seconds, 0.0, Counter({finding: 1})), {finding: content}


def patiently(receive: Any, seconds: float) -> bool:
    """Wait for an answer so long, a second at a time: stopped with the child, it waits on."""
    return any(receive.poll(1) for _ in range(math.ceil(seconds)))


def table(tallies: dict[str, Tally]) -> None:
    """Print what came of each parser's cases."""
    print(f"{'parser':<14}{'cases':>10}{'taken':>10}{'minutes':>9}{'peak MB':>9}  findings")
    for name, tally in tallies.items():
        print(
            f"{name:<14}{tally.cases:>10,}{tally.taken:>10,}{tally.seconds / 60:>9.1f}"
            f"{tally.peak_mb:>9.0f}  {dict(tally.findings) or 'none'}",
            flush=True,
        )


def main() -> int:
    """Take turns until the time is up; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one parser, by name")
    parser.add_argument("--turn", type=float, default=10.0, help="seconds of a turn")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    chosen = {n: t for n, t in targets().items() if options.only in (None, n)}
    tallies = {name: Tally() for name in chosen}
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: stopping.append(signum))
    clock = Seconds(options.turn + CASE_S)
    end, seed = 60 * options.minutes, options.seed * 1_000_003
    while clock() < end and not stopping:
        for name, target in chosen.items():
            seconds = min(options.turn, end - clock())
            if seconds <= 0 or stopping:
                break
            seed += 1
            tally, kept = turn(target, seconds, seed)
            for finding, content in kept.items():
                if finding not in tallies[name].findings:
                    options.out.mkdir(parents=True, exist_ok=True)
                    file = options.out / f"{name.replace(' ', '-')}-{zlib.crc32(content):08x}"
                    file.write_bytes(content)
                    print(f"FINDING {name}: {finding}; the input is {file}", flush=True)
            tallies[name].add(tally)
        counts = ", ".join(f"{name} {tally.cases:,}" for name, tally in tallies.items())
        found = sum(tally.findings.total() for tally in tallies.values())
        print(f"{clock() / 60:5.1f} min: {counts}; {found} findings", flush=True)
    table(tallies)
    if stopping:
        print(f"STOPPED EARLY of {options.minutes:g} minutes")
    return 1 if any(tally.findings for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
