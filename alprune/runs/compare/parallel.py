"""Runs side by side, each in a process that makes one after another."""

import os
import queue
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from alprune.data.spawning import GUARD
from alprune.errors import ConfigError
from alprune.loop.events import Observer
from alprune.loop.signals import Signals
from alprune.runs.compare.forecast import Monitor
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.processes import end_with_parent, start_process
from alprune.runs.compare.runs import DEATHS, ENDED, Outcome, SharedData, make, state_of

_TICK_S = 0.5  # between reports of how far a fit is
_STOP = "stop"  # sent in place of a run


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    cell: Cell | None = None
    shown: Observer | None = None
    progressed: bool = False


def side_by_side(
    planned: Sequence[tuple[Cell, str]], jobs: int, monitor: Monitor, log: Sequence[str]
) -> list[Outcome]:
    """Make runs in several processes, among which the threads of this one are divided.

    A run whose process dies is resumed by another one, unless `DEATHS` did in a row without a step.
    Under Ctrl-C the processes end their present runs soundly; a second one kills them.

    Args:
        planned: The runs and their states.
        jobs: Processes at most.
        monitor: Is told, in this process.
        log: Trackers that each run is entered in.

    Returns:
        What came of each run, in the order of `planned`.

    Raises:
        ConfigError: The processes cannot begin.
    """
    jobs = min(jobs, max(1, sum(state != ENDED for _, state in planned)))
    pool = _Pool(deque(planned), monitor, max(1, torch.get_num_threads() // jobs), log)
    try:
        try:
            for _ in range(jobs):
                pool.start()
            pool.drain()
        except KeyboardInterrupt:
            pool.stop()
            pool.drain()
    except BaseException:
        pool.kill()
        raise
    return [
        pool.outcomes.get(cell.name) or Outcome(cell.name, cell.values, cell.path, "waiting")
        for cell, _ in planned
    ]


class _Pool:
    def __init__(
        self,
        waiting: deque[tuple[Cell, str]],
        monitor: Monitor,
        threads: int,
        log: Sequence[str],
    ) -> None:
        self._waiting, self._monitor = waiting, monitor
        self._args = (threads, log)
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._begun = False
        self._stopping = False
        self.outcomes: dict[str, Outcome] = {}

    def start(self) -> None:
        """Start a process and give it a run."""
        worker = _Worker(*start_process(_work, *self._args))
        self._workers.append(worker)
        self._next(worker)

    def drain(self) -> None:
        """Follow the processes until all have ended."""
        while self._workers:
            for ready in wait([worker.connection for worker in self._workers]):
                worker = next(w for w in self._workers if w.connection is ready)
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, OSError):
                    self._died(worker)
                else:
                    self._begun = True
                    if kind != "begun":
                        self._hear(worker, kind, content)

    def stop(self) -> None:
        """Begin no more runs and ask the processes to end theirs."""
        self._stopping = True
        self._waiting.clear()
        for worker in self._workers:
            with suppress(OSError):  # it has died; its end is seen next
                worker.connection.send(_STOP)
            if os.name != "nt":  # there it would kill; elsewhere it ends imports, too
                worker.process.terminate()

    def kill(self) -> None:
        """End the processes at once; a run folder is sound at any instant."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def _next(self, worker: _Worker) -> None:
        task = self._waiting.popleft() if self._waiting else None
        worker.cell = worker.shown = None
        worker.progressed = False
        if task is not None:
            worker.cell, worker.shown = task[0], self._monitor.begins(*task)
        with suppress(OSError):  # it has died; its end is seen next
            worker.connection.send(task)

    def _hear(self, worker: _Worker, kind: str, content: Any) -> None:
        assert worker.cell is not None and worker.shown is not None
        if kind == "event":
            worker.progressed |= content[0] == "step"
            worker.shown.event(*content)
        elif kind == "tick":
            worker.shown.tick(*content)
        elif kind == "warning":
            warnings.warn(f"{worker.cell.name}: {content}", stacklevel=2)
        else:
            self._ended(worker.cell, content)
            if content.state == "interrupted" and not self._stopping:
                self.stop()
            self._next(worker)

    def _died(self, worker: _Worker) -> None:
        worker.process.join()
        self._workers.remove(worker)
        if worker.cell is None:
            return  # it had nothing left to do
        cell, code = worker.cell, worker.process.exitcode
        if self._stopping or code == -signal.SIGTERM:  # before there was a session to end
            self._ended(cell, Outcome(cell.name, cell.values, cell.path, "interrupted"))
            return
        if code == 1 and not self._begun:
            raise ConfigError(f"the processes that make the runs end before they begin: {GUARD}.")
        self._deaths[cell.name] = 1 if worker.progressed else self._deaths[cell.name] + 1
        if self._deaths[cell.name] < DEATHS:
            self._waiting.appendleft((cell, state_of(cell)))
            self.start()
            return
        error = f"its process ended with exit code {code}" + (
            " (killed, as the system does when memory runs out)" if code == -9 else ""
        )
        self._ended(cell, Outcome(cell.name, cell.values, cell.path, "failed", error=error))
        if self._waiting:
            self.start()

    def _ended(self, cell: Cell, outcome: Outcome) -> None:
        self.outcomes[cell.name] = outcome
        self._monitor.ended(cell, outcome)


class _Sender(Observer):
    """Tells the parent process of events, and now and then of how far a fit is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_s = 0.0

    def event(self, name: str, fields: dict[str, Any]) -> None:
        self._connection.send(("event", (name, fields)))

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        if time.monotonic() - self._told_s >= _TICK_S:
            self._told_s = time.monotonic()
            self._connection.send(("tick", (phase, done, planned, elapsed_s)))


def _receive(connection: Connection, tasks: "queue.Queue[Any]") -> None:
    """Hand on the runs that come through a connection; make a wish to stop this one's SIGTERM."""
    with suppress(EOFError, OSError):
        while (task := connection.recv()) is not None:
            if task == _STOP:
                signal.raise_signal(signal.SIGTERM)
            else:
                tasks.put(task)
    tasks.put(None)


def _work(connection: Connection, threads: int, log: Sequence[str]) -> None:
    """Make the runs that come through a connection, until None does."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    warnings.showwarning = lambda message, *_, **__: connection.send(("warning", str(message)))
    connection.send(("begun", None))
    load = SharedData(progress=False)
    with Signals() as signals, suppress(KeyboardInterrupt, EOFError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to end
        tasks: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
        while (task := tasks.get()) is not None:
            cell, state = task
            outcome = make(cell, state, load, _Sender(connection), signals.end, log=log)
            connection.send(("ended", outcome))
