"""Scoring a pool that stays in a file: time and memory against the pool's size."""

import contextlib
import copy
import mmap
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alprune.acquisition import ACQUISITIONS, Evidence, acquire
from alprune.data.memmap import map_images
from alprune.runs.bench.rounds import Tell
from alprune.runs.bench.subjects import Subject

PART = 20  # the large pool is so many times the small one
_BLOCK = 1000  # images written at once


@dataclass(frozen=True)
class PoolCost:
    """What scoring a large pool takes.

    Attributes:
        points: Of the large pool.
        seconds: To score it.
        growth: Times what a twentieth of it takes.
        added_bytes: Resident memory at its peak beyond that before; None where the system does
            not say.
    """

    points: int
    seconds: float
    growth: float
    added_bytes: int | None


def score_a_pool(it: Subject, points: int, tell: Tell) -> PoolCost:
    """Score images in a memory-mapped file, all of them and a twentieth.

    Args:
        it: Whose network scores, and whose images fill the file, over and over; 50 points are
            chosen by entropy.
        points: Size of the large pool, at least 20.
        tell: Receives progress messages.
    """
    with tempfile.TemporaryDirectory(prefix="alprune-bench-", ignore_cleanup_errors=True) as folder:
        tell(f"pool: writing {points:,} images")
        learner = copy.copy(it.learner)
        learner.x = _mapped(it.learner.x[:_BLOCK], points, Path(folder) / "images")
        small = torch.arange(points // PART)

        def score(candidates: Tensor) -> float:
            begin = time.perf_counter()
            nobody = torch.empty(0, dtype=torch.int64)
            evidence = Evidence(learner, candidates, nobody, nobody, it.pool.classes)
            count = min(50, candidates.numel())
            acquire(ACQUISITIONS["entropy"], evidence, count, torch.Generator().manual_seed(0))
            return time.perf_counter() - begin

        score(small)  # warms up
        tell(f"pool: scoring {points // PART:,} and {points:,} images")
        small_s = [score(small) for _ in range(3)]
        with _watched() as peak:
            all_s = score(torch.arange(points))
        small_s += [score(small) for _ in range(3)]
        learner.x = it.learner.x  # Windows removes no file that is mapped
        growth = all_s / statistics.median(small_s)
        return PoolCost(points, all_s, growth, max(peak) - peak[0] if peak else None)


def _mapped(block: Tensor, points: int, path: Path) -> Tensor:
    block = block.cpu().contiguous()
    content = block.view(-1).view(torch.uint8).numpy().tobytes()
    size = len(content) // len(block)
    with path.open("w+b") as file:
        for begin in range(0, points, len(block)):
            file.write(content[: size * (points - begin)])
        file.flush()
        return map_images(file, 0, block.dtype, (points, *block.shape[1:]))


@contextlib.contextmanager
def _watched() -> Iterator[list[int]]:
    """Sample the process's resident memory meanwhile; what is yielded begins with that before."""
    samples: list[int] = []
    with contextlib.suppress(OSError):
        samples.append(_resident_bytes())
    ended = threading.Event()

    def watch() -> None:
        while samples and not ended.wait(0.02):
            samples.append(_resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        watcher.join()


def _resident_bytes() -> int:
    """Read this process's resident memory, mapped files included; OSError but on Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
