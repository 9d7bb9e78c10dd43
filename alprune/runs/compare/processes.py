"""Processes of this machine that work for this one."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from alprune.runs.compare.engines import Lost, Task


def start_process(target: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
    """Start a process that leaves Ctrl-C to this one; return it and this end of a pipe to it.

    Args:
        target: What it does; its first argument is the other end of the pipe.
        *args: The further ones.
    """
    context = get_context("spawn")  # a fork would share the threads and the CUDA context
    ours, theirs = context.Pipe()
    # No daemon: those cannot have processes of their own, which read large data sets.
    process = context.Process(target=target, args=(theirs, *args))
    with _without_interrupts():
        process.start()
    theirs.close()  # or its end would not be seen
    return process, ours


class Processes:
    """An engine that runs each task in a new process; each ends with this one, even if killed."""

    def submit(self, task: Task, name: str) -> "_LocalJob":
        """Start a process that runs a task."""
        return _LocalJob(*start_process(_work, task))

    def close(self) -> None:
        """Hold nothing: each job ends its process."""


class _LocalJob:
    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    def done(self) -> bool:
        return self._connection.poll()  # a result, or the end of the pipe

    def outcome(self) -> Any:
        try:
            failure, result = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise Lost(f"its process ended with exit code {self._process.exitcode}") from error
        self._process.join()
        if failure is not None:
            raise failure
        return result

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def _work(connection: Connection, task: Task) -> None:
    """Run a task, and send what it raised and what it returned."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    failure = result = None
    with suppress(KeyboardInterrupt):
        try:
            result = task()
        except Exception as error:
            failure = error
        connection.send((failure, result))


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end at once."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that starts here leave Ctrl-C to this one, its imports included."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
