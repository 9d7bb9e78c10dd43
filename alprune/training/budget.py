"""The budget clock: what counts against the wall clock, and what does not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alprune.errors import ConfigError


class Budget:
    """A stopwatch that can be paused, with an optional limit in seconds.

    As in appendix C of the 3SP paper the clock starts once the first points are labelled and
    the learner is pruned. Training, scoring and acquiring count; evaluating and waiting for a
    person do not, and run inside `paused()`.

    Args:
        limit_s: Seconds until the budget is spent; None for no limit.
        spent_s: Seconds already spent, for a run that is resumed.
        now: A clock in seconds that never goes back.

    Attributes:
        now: The clock.
        halted: Whether `halt` was called.
    """

    def __init__(
        self,
        limit_s: float | None,
        spent_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit_s is not None and not limit_s > 0:
            raise ConfigError(f"the budget must be more than 0 seconds, got {limit_s:g}.")
        self.limit_s = limit_s
        self.now = now
        self._spent_s = spent_s
        self._since: float | None = None
        self.halted = False

    def start(self) -> None:
        """Let the clock run; no effect if it runs."""
        if self._since is None:
            self._since = self.now()

    def stop(self) -> None:
        """Hold the clock; no effect if it stands."""
        if self._since is not None:
            self._spent_s += self.now() - self._since
            self._since = None

    def spend(self, seconds: float) -> None:
        """Count seconds that were spent before, by a run that is resumed now."""
        self._spent_s += seconds

    def halt(self) -> None:
        """End the budget now, from a signal handler for example: it counts as spent from now on."""
        self.halted = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the clock for a block of work that does not count."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    @property
    def elapsed_s(self) -> float:
        """Seconds that have counted so far; never decreases."""
        running_s = 0.0 if self._since is None else self.now() - self._since
        return self._spent_s + running_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, at least 0; infinite without a limit."""
        if self.limit_s is None:
            return float("inf")
        return max(0.0, self.limit_s - self.elapsed_s)

    @property
    def expired(self) -> bool:
        """Whether the budget is spent, or was halted."""
        return self.halted or (self.limit_s is not None and self.elapsed_s >= self.limit_s)

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, 0 to 1; 0 without a limit."""
        if self.limit_s is None:
            return 0.0
        return min(1.0, self.elapsed_s / self.limit_s)


class Stopwatch:
    """Adds up the seconds of named parts of a step."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block and add it to `seconds[name]`."""
        begin = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - begin
