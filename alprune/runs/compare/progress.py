"""How a comparison shows itself: which run of how many, that run's bar, and when all are done."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from alprune.errors import printable
from alprune.loop import Session
from alprune.loop.events import Observer
from alprune.loop.observers import Several
from alprune.loop.progress import Bar, Lines, span
from alprune.loop.signals import Signals, Stopped
from alprune.runs.compare import ENDED, NEW, UNENDED, Cell, Forecast, Monitor, Outcome

_STATUS_S = (0.5, 60.0)  # between lines about runs side by side: on a terminal, elsewhere
_DAY_S = 20 * 3600  # from then on the day is named, too


class Overview(Monitor):
    """Shows a comparison and lets signals end its present run.

    Args:
        signals: Of the program.
        stream: Where to write; stderr if None.
    """

    def __init__(self, signals: Signals, stream: TextIO | None = None) -> None:
        self._signals = signals
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._forecast = Forecast()
        self._names: list[str] = []
        self._jobs = 1
        self._shares: dict[str, float] = {}  # done of the runs that are made side by side
        self._over = 0
        self._status_s = float("-inf")

    def checks(self, cell: Cell) -> None:
        """Say which run is set up beforehand."""
        self._say(f"Checking that {cell.name} can be set up")

    def chose(self, cell: Cell, choice: str) -> None:
        """Say what "auto" removes."""
        self._say(f"{cell.name} and runs like it: {choice}")

    def planned(self, planned: Sequence[tuple[Cell, str]], jobs: int) -> None:
        """Say how many runs there are and what is done with them."""
        self._forecast.planned(planned, jobs)
        self._names, self._jobs = [cell.name for cell, _ in planned], jobs
        states = Counter(state for _, state in planned)
        told = {ENDED: "kept", UNENDED: "to resume", NEW: "to begin"}
        counts = ", ".join(f"{states[s]} {what}" for s, what in told.items() if states[s])
        self._say(f"{len(planned)} runs in {planned[0][0].path.parent}: {counts}{self._end()}")

    def begins(self, cell: Cell, state: str) -> Observer:
        """Say which run begins, and return what shows it."""
        if self._signals.exit_code and self._jobs == 1:  # it came when the last one was over
            raise Stopped(self._signals.exit_code - 128, "Interrupted between two runs.")
        follower = self._forecast.begins(cell, state)
        if state == ENDED:
            return follower
        number = f"{self._names.index(cell.name) + 1}/{len(self._names)} {cell.name}"
        going_on = " resumes" if state == UNENDED else ""
        if self._jobs > 1:
            self._say(f"{number}{going_on}")
            self._shares[cell.name] = 0.0
            return Several(follower, _Share(self, cell))
        if self._terminal:
            return Several(follower, Bar(cell.config, self._stream, f"{number} ", self._notes))
        self._say(f"{number}{going_on}{self._end()}")
        return Several(follower, Lines(self._stream))

    def opened(self, session: Session | None) -> None:
        """Let signals end this session."""
        self._signals.end(session)
        if session is not None and self._signals.exit_code:
            session.interrupt()  # the signal came just before

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """Say what came of a run."""
        self._forecast.ended(cell, outcome)
        self._shares.pop(cell.name, None)
        self._over += 1
        if outcome.state == "waiting":
            return
        what = f"FAILED: {outcome.error}" if outcome.error else outcome.state
        if result := outcome.result:
            accuracy = result.test_accuracy
            tested = "not tested" if accuracy is None else f"{accuracy:.2%}"
            what += f", {result.reason}, {tested} with {result.labelled} labels"
        self._say(f"{cell.name}: {what}")

    def follow(self, cell: Cell, share: float) -> None:
        """Show now and then how far the runs are that are made side by side."""
        self._shares[cell.name] = share
        if time.monotonic() - self._status_s < _STATUS_S[0 if self._terminal else 1]:
            return
        self._status_s = time.monotonic()
        runs = ", ".join(f"{name} {share:.0%}" for name, share in self._shares.items())
        line = f"{self._over} of {len(self._names)} over; {runs}{self._end()}"
        if self._terminal:
            print(f"\r\033[K{line}", end="", file=self._stream, flush=True)
        else:
            self._say(line)

    def _notes(self) -> dict[str, str]:
        left_s = self._forecast.left_s
        return {} if left_s is None else {"all": f"{span(left_s)} left"}

    def _end(self) -> str:
        left_s = self._forecast.left_s
        if not left_s:
            return "."
        form = "%H:%M" if left_s < _DAY_S else "%a %H:%M"
        at = time.strftime(form, time.localtime(time.time() + left_s))
        return f"; about {span(left_s)} left, until {at}."

    def _say(self, text: str) -> None:
        start = "\r\033[K" if self._terminal and self._jobs > 1 else ""
        print(start + printable(text), file=self._stream, flush=True)


class _Share(Observer):
    """Tells how much of a run is done."""

    def __init__(self, overview: Overview, cell: Cell) -> None:
        self._overview, self._cell = overview, cell

    def event(self, name: str, fields: dict[str, Any]) -> None:
        config = self._cell.config
        if config.budget is not None:
            self._overview.follow(self._cell, min(1.0, fields["elapsed_s"] / config.budget))
        elif config.steps is not None and name == "step":
            self._overview.follow(self._cell, (fields["step"] + 1) / (config.steps + 1))

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        if self._cell.config.budget is not None:
            self.event("tick", {"elapsed_s": elapsed_s})
