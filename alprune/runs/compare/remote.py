"""A comparison whose runs an engine makes, on machines that share the disk of their folders."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from alprune.errors import AlpruneError, StoreError
from alprune.loop.event_log import EVENTS, events_since
from alprune.loop.events import Observer
from alprune.loop.run_folder import is_written
from alprune.loop.signals import Signals
from alprune.runs.compare.engines import Engine, Job, Lost
from alprune.runs.compare.forecast import Monitor
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.runs import DEATHS, ENDED, Outcome, SharedData, make, state_of

_LOOK_S = 10.0  # between looks at a run that another job makes
_SILENT_S = 3600.0  # in which it has told nothing, after which it is no longer waited for


@dataclass
class _Present:
    cell: Cell
    job: Job
    read: int  # bytes of its record that were told
    shown: Observer | None = None
    progressed: bool = False
    deaths: int = 0


@dataclass
class _Refused:
    """Stands for the job of a run that the engine did not take."""

    error: AlpruneError

    def done(self) -> bool:
        return True

    def outcome(self) -> Any:
        raise self.error

    def stop(self) -> None:
        pass


def make_elsewhere(
    planned: Sequence[tuple[Cell, str]],
    engine: Engine,
    monitor: Monitor,
    *,
    threads: int = 1,
    log: Sequence[str] = (),
    every_s: float = 1.0,
) -> list[Outcome]:
    """Give the runs of a comparison to an engine and follow them by their records.

    A run whose process or machine dies, or is told to end by a signal, is submitted again and
    resumes from its checkpoint; one that a job of an earlier comparison still makes is waited for.
    Under Ctrl-C the runs end soundly; a second one leaves them to the engine. A run that the
    engine does not take has failed, and the others go on.

    Args:
        planned: The runs and their states.
        engine: Is left open.
        monitor: Is told, in this process.
        threads: Of each run.
        log: Trackers that each run is entered in.
        every_s: Seconds between looks.

    Returns:
        What came of each run, in the order of `planned`.

    Raises:
        ConfigError: The engine does not even take the first one.
    """
    driver = _Driver(engine, monitor, threads, log)
    waiting = []
    for cell, state in planned:
        if state == ENDED:
            monitor.begins(cell, state)
            driver.ended(cell, make(cell, state, SharedData(), Observer(), lambda session: None))
        else:
            waiting.append(cell)
    try:
        for cell in waiting:
            driver.submit(cell)
        while driver.present:
            time.sleep(every_s)
            driver.look()
    except KeyboardInterrupt:
        driver.stop()
        while driver.present:
            time.sleep(every_s)
            driver.look()
    except Exception:  # nobody would follow those that were given out
        driver.stop()
        raise
    return [
        driver.outcomes.get(cell.name) or Outcome(cell.name, cell.values, cell.path, "waiting")
        for cell, _ in planned
    ]


class _Driver:
    def __init__(self, engine: Engine, monitor: Monitor, threads: int, log: Sequence[str]) -> None:
        self._engine, self._monitor = engine, monitor
        self._threads, self._log = threads, log
        self._stopping = self._given = False
        self.present: list[_Present] = []
        self.outcomes: dict[str, Outcome] = {}

    def submit(self, cell: Cell) -> None:
        self.present.append(_Present(cell, self._give(cell), _size(cell)))

    def look(self) -> None:
        """Tell what is new, and take up what is over."""
        for run in list(self.present):
            over = run.job.done()  # before its record is read, or its last lines might be missed
            self._tell(run)
            if over:
                self._over(run)

    def stop(self) -> None:
        """Give out no more, and ask what runs to end."""
        self._stopping = True
        for run in self.present:
            run.job.stop()

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.outcomes[cell.name] = outcome
        self._monitor.ended(cell, outcome)

    def _give(self, cell: Cell) -> Job:
        task = partial(make_there, cell, self._threads, self._log, os.getcwd())
        try:
            job = self._engine.submit(task, cell.name)
        except AlpruneError as error:
            if not self._given:
                raise  # its options are wrong, most likely, and none would be taken
            return _Refused(error)  # a limit, or a busy machine: the other runs go on
        self._given = True
        return job

    def _tell(self, run: _Present) -> None:
        lines, run.read = _more(run.cell, run.read)
        for line in lines:
            if run.shown is None:
                run.shown = self._monitor.begins(run.cell, "")
            name = line.pop("event")
            run.progressed |= name == "step"
            with suppress(StoreError):  # it lacks what is shown of such an event
                run.shown.event(name, line)

    def _over(self, run: _Present) -> None:
        cell = run.cell
        try:
            outcome = run.job.outcome()
            if outcome is not None and outcome.state == "interrupted" and self._again(run):
                return  # not by us: its machine is wanted for something else
        except Lost as lost:
            if self._again(run):
                return
            state = "interrupted" if self._stopping else "failed"
            outcome = Outcome(cell.name, cell.values, cell.path, state, error=str(lost))
        except Exception as error:  # of whatever kind, where the run was made
            said = f"{type(error).__name__}: {error}"
            outcome = Outcome(cell.name, cell.values, cell.path, "failed", error=said)
        self.present.remove(run)
        if outcome is not None:  # otherwise it had not begun, and waits
            if run.shown is None:
                self._monitor.begins(cell, "")
            self.ended(cell, outcome)

    def _again(self, run: _Present) -> bool:
        """Give a run out again, unless it has got nowhere too often."""
        run.deaths = 1 if run.progressed else run.deaths + 1
        if self._stopping or run.deaths >= DEATHS:
            return False
        run.progressed, run.job = False, self._give(run.cell)
        return True


def make_there(cell: Cell, threads: int, log: Sequence[str], place: str) -> Outcome:
    """Make or resume a run in the process that an engine gave it.

    Args:
        cell: Which.
        threads: That it may use.
        log: Trackers that it is entered in.
        place: The folder in which the comparison was begun: paths and modules are seen from there.
    """
    os.chdir(place)
    if place not in sys.path:
        sys.path.insert(0, place)
    torch.set_num_threads(threads)
    with Signals() as signals:
        try:
            _wait_for_others(cell)
            state = state_of(cell)
            load = SharedData(progress=False)
            return make(cell, state, load, Observer(), signals.end, log)
        except AlpruneError as error:
            said = f"{type(error).__name__}: {error}"
            return Outcome(cell.name, cell.values, cell.path, "failed", error=said)
        except KeyboardInterrupt:
            return Outcome(cell.name, cell.values, cell.path, "interrupted")


def _wait_for_others(cell: Cell) -> None:
    """Wait while a job of a comparison that was ended makes the run."""
    seen, since = -1, 0.0
    while is_written(cell.path):
        if (size := _size(cell)) != seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() - since > _SILENT_S:  # its machine may have left the lock behind
            return
        time.sleep(_LOOK_S)


def _size(cell: Cell) -> int:
    try:
        return (cell.path / EVENTS).stat().st_size
    except OSError:
        return 0


def _more(cell: Cell, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines of a record from a byte on, and where they end."""
    begin = min(begin, _size(cell))  # it may have gone on from an earlier checkpoint
    try:
        return events_since(cell.path, begin)
    except (OSError, StoreError):
        return [], begin
