"""Workers that decode side by side: threads of this process for few files, processes for many."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from alprune.data.image_cache.worker import (
    Batch,
    Outcome,
    Worker,
    batch_line,
    failed,
    order_line,
    read_answer,
)
from alprune.errors import DataError

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processors, in so many of the clock
# NumPy would start threads for all cores in each process.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from alprune.data.image_cache.worker import serve
serve()
"""


class Helper:
    """A process that does batches; started when needed, and again if a file has crashed it.

    Args:
        rows: File that the pixels go to.
        alone: Lock file that a process holds while it decodes a large image.
        size: `(h, w)` of the images.
        readers: How many such processes there are.
    """

    def __init__(self, rows: Path, alone: Path, size: tuple[int, int], readers: int) -> None:
        self._order = order_line(rows, alone, size, readers)
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def __call__(self, batch: Batch) -> list[Outcome]:
        """Do one batch; a file that ends the process counts as unreadable.

        Raises:
            OSError: Its rows cannot be written.
            DataError: No process can be started.
        """
        answer = self._ask(batch)
        if isinstance(answer, list):
            return answer
        if len(batch.paths) == 1:
            return [failed(f"decoding it ended the process, {answer}", lasting=False)]
        out: list[Outcome] = []
        for index, path in enumerate(batch.paths):
            first = batch.first + index if batch.first >= 0 else batch.first
            out += self(Batch(batch.number, batch.root, [path], first))
        return out

    def stop(self) -> None:
        """End the process, also in the middle of a batch."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Wait until the process has ended, and free what it held."""
        self.stop()
        if self._process is not None:
            self._process.communicate()

    def _ask(self, batch: Batch) -> list[Outcome] | str:
        """Return what the process answers; if it dies instead, how it did."""
        process = self._process if self._process is not None else self._start()
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):  # a broken pipe, in Windows' words, too
            process.stdin.write(batch_line(batch))
            process.stdin.flush()
        if line := process.stdout.readline():
            return read_answer(line)
        process.communicate()
        self._process = None
        if self._closed:
            raise DataError("reading was stopped.")
        status = process.returncode
        return f"by signal {-status}" if status < 0 else f"with status {status}"

    def _start(self) -> "subprocess.Popen[str]":
        paths = json.dumps([str(path) for path in sys.path])
        command = [sys.executable, "-c", _CHILD, paths]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=os.environ | _ONE_THREAD,
            )
        except OSError as error:
            raise DataError(f"no process can be started to decode images: {error}.") from error
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):  # a broken pipe, in Windows' words, too
            process.stdin.write(self._order)
            process.stdin.flush()
        if not process.stdout.readline():
            process.communicate()
            raise DataError(
                f"a process that decodes images ended at its start, with status "
                f"{process.returncode}; its message is above."
            )
        self._process = process
        return process


def cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    by_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if by_affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file; "max" where there is no quota
        quota, period = map(int, _QUOTA.read_text().split())
        count = min(count, max(1, -(-quota // period)))
    return count


def share_out(
    batches: Iterator[Batch], make: Callable[[], Worker], workers: int
) -> Generator[tuple[Batch, list[Outcome]], None, None]:
    """Let workers do batches side by side, and yield each with its outcomes when it is done.

    At most one batch per worker is taken ahead. Closing the generator stops them.

    Args:
        batches: What is to be done.
        make: Makes one worker.
        workers: How many there are.

    Raises:
        OSError, DataError: As from a worker.
    """
    taking, stop = threading.Lock(), threading.Event()
    done: queue.Queue[tuple[Batch, list[Outcome]] | BaseException | None] = queue.Queue(workers)
    made = [make() for _ in range(workers)]

    def work(worker: Worker) -> None:
        try:
            while not stop.is_set():
                with taking:
                    batch = next(batches, None)
                if batch is None:
                    break
                done.put((batch, worker(batch)))
            done.put(None)
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in made]
    for thread in threads:
        thread.start()
    try:
        working = workers
        while working:
            found = done.get()
            if found is None:
                working -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found
    finally:
        stop.set()
        _end(threads, made, done)


def _end(threads: list[threading.Thread], made: list[Worker], done: "queue.Queue[Any]") -> None:
    """Wait for the threads, which may be waiting to deliver a batch, and free what they hold."""
    for worker in made:
        worker.stop()
    for thread in threads:
        while thread.is_alive():
            with suppress(queue.Empty):
                done.get(timeout=0.05)
            thread.join(timeout=0.05)
    for worker in made:
        worker.close()
