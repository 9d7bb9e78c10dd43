"""Who watches a comparison, and how long it will still take."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from alprune.loop import Session
from alprune.loop.events import Observer
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.runs import ENDED, Outcome


class Monitor:
    """Is told how a comparison goes, to show it; does nothing itself."""

    def checks(self, cell: Cell) -> None:
        """Hear of a run that is set up to see whether it can be, before the first begins."""

    def chose(self, cell: Cell, choice: str) -> None:
        """Hear what "auto" removes from a run and those like it, and why."""

    def planned(self, planned: Sequence[tuple[Cell, str]], jobs: int) -> None:
        """Hear of all runs and whether each is "new", "unended" or "ended" before the first."""

    def begins(self, cell: Cell, state: str) -> Observer:
        """Return an observer for the events of a run that now begins."""
        return Observer()

    def opened(self, session: Session | None) -> None:
        """Hear of the session that now runs in this process, None once it is over."""

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """Hear what came of a run."""


@dataclass
class _Present:
    begin: float
    elapsed_s: float = 0.0
    spent_s: float = 0.0  # on the clock when it went on
    first: int = 0  # step with which it began or went on
    step: int = -1  # the last that is done


class Forecast(Monitor):
    """Estimates how long a comparison will still take.

    A run is expected to take as long as those of its kind took, other seeds. Before one has
    ended: its budget and the time off the clock that others needed; without a budget, what its
    own steps so far or the runs of other kinds tell.

    Args:
        now: A clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._jobs = 1
        self._waiting: dict[str, Cell] = {}
        self._present: dict[str, tuple[Cell, _Present]] = {}
        self._walls: dict[str, list[float]] = {}
        self._off_clock: list[float] = []

    def planned(self, planned: Sequence[tuple[Cell, str]], jobs: int) -> None:
        """Take up what is to be done."""
        self._jobs = jobs
        self._waiting = {cell.name: cell for cell, state in planned if state != ENDED}

    def begins(self, cell: Cell, state: str) -> Observer:
        """Start a run's stopwatch and return what follows it."""
        self._waiting.pop(cell.name, None)
        if state == ENDED:
            return Observer()
        present = _Present(self._now())
        self._present[cell.name] = cell, present
        return _Follower(present)

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """Learn from a run that is done."""
        self._waiting.pop(cell.name, None)
        _, present = self._present.pop(cell.name, (cell, None))
        if present is None or outcome.state != "done" or outcome.result is None:
            return
        wall_s = self._now() - present.begin
        self._off_clock.append(max(0.0, wall_s - (outcome.result.elapsed_s - present.spent_s)))
        if not present.first:
            self._walls.setdefault(cell.kind, []).append(wall_s)

    @property
    def left_s(self) -> float | None:
        """Seconds until the last run is done; None while nothing is known."""
        present = [self._rest(cell, now) for cell, now in self._present.values()]
        parts = present + [self._whole(cell) for cell in self._waiting.values()]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return max([sum(known) / self._jobs, *known], default=0.0) if known else 0.0

    def _whole(self, cell: Cell) -> float | None:
        if cell.kind in self._walls:
            return mean(self._walls[cell.kind])
        if cell.config.budget is not None:
            return cell.config.budget + self._overhead
        known = [wall for walls in self._walls.values() for wall in walls]
        for other, present in self._present.values():
            step_s = self._step_s(present)
            if step_s is not None and other.config.steps is not None:
                known.append(step_s * (other.config.steps + 1))
        return mean(known) if known else None

    def _rest(self, cell: Cell, present: _Present) -> float | None:
        wall_s = self._now() - present.begin
        if cell.config.budget is not None and cell.kind not in self._walls:
            off_clock_s = wall_s - (present.elapsed_s - present.spent_s)
            left_s = cell.config.budget - max(present.elapsed_s, present.spent_s)
            return max(0.0, left_s) + max(0.0, self._overhead - off_clock_s)
        step_s = self._step_s(present)
        if cell.config.steps is not None and step_s is not None:
            return step_s * (cell.config.steps - present.step)
        whole = self._whole(cell)
        return None if whole is None else max(0.0, whole - wall_s)

    def _step_s(self, present: _Present) -> float | None:
        """Return what a step took so far; None before the first."""
        done = present.step + 1 - present.first
        return None if done < 1 else (self._now() - present.begin) / done

    @property
    def _overhead(self) -> float:
        return mean(self._off_clock) if self._off_clock else 0.0


class _Follower(Observer):
    def __init__(self, present: _Present) -> None:
        self._present = present

    def event(self, name: str, fields: dict[str, Any]) -> None:
        present = self._present
        if name == "resume":
            present.spent_s, present.first = fields["elapsed_s"], fields["step"]
            present.step = present.first - 1
        present.elapsed_s = fields["elapsed_s"]
        if name == "step":
            present.step = fields["step"]

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        self._present.elapsed_s = elapsed_s
