"""How long the parts of a step may take, and how many points can be scored in that time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from alprune.training import FitReport
from alprune.training.budget import Budget


class Timing(Protocol):
    """Divides time between fitting and scoring.

    Attributes:
        budget: The clock. It runs while a step fits, scores and chooses; halting it ends the step.
    """

    budget: Budget

    def start(self) -> None:
        """Start the clock for a step."""

    def progress(self, step: int, done: float) -> float:
        """Return the share that is over, 0 to 1, which the learning rate follows.

        Args:
            step: Number of the step.
            done: Share of its fit that is done.
        """

    def over(self, step: int, report: FitReport) -> str | None:
        """Return why no points are to be acquired after a fit, or None."""

    def scoring_s(self, fit_s: float) -> float | None:
        """Return the seconds for scoring after a fit of `fit_s` seconds; None: no limit."""


class RunTiming:
    """One budget for all steps of a run, or a number of steps, or both.

    Args:
        limit_s: The budget; None for a run whose outcome must not depend on the clock.
        steps: Steps to make; None: no limit.
        share: Share of a step (fitting and scoring) that scoring may take, in (0, 1]; 1: no limit.
        now: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        limit_s: float | None,
        steps: int | None,
        share: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = Budget(limit_s, now=now)
        self._steps, self._share = steps, share

    def start(self) -> None:
        """Start the clock for a step."""
        self.budget.start()

    def progress(self, step: int, done: float) -> float:
        """Return the share of the run that is over."""
        by_clock = self.budget.fraction
        if self._steps is None:
            return by_clock
        return max(by_clock, (step + done) / (self._steps + 1))

    def over(self, step: int, report: FitReport) -> str | None:
        """Return "interrupted", "budget" or "steps" at the end of the run."""
        if report.stopped or self.budget.expired:
            return "interrupted" if self.budget.halted else "budget"
        return "steps" if self._steps is not None and step >= self._steps else None

    def scoring_s(self, fit_s: float) -> float | None:
        """Return the seconds that scoring may take."""
        if self.budget.limit_s is None or self._share >= 1:
            return None
        return fit_s * self._share / (1 - self._share)


@dataclass
class ScoringSpeed:
    """Turns seconds into a number of points to score, by the speed measured so far.

    Entropy on a random subset acquires nearly as well as on the whole pool, and on a CPU the
    whole pool would use up the budget: 49,000 images take as long to score as 15,000 to train on.

    Attributes:
        least: Minimum number of points, and the number as long as no speed is known.
        speed: Points scored per second, as last measured; None before.
    """

    least: int
    speed: float | None = None

    def size(self, seconds: float) -> int:
        """Return how many points to score in this time."""
        return self.least if self.speed is None else max(self.least, int(seconds * self.speed))

    def measured(self, points: int, seconds: float) -> None:
        """Note how long scoring took; the latest measurement counts half."""
        if points == 0 or seconds <= 0:
            return
        speed = points / seconds
        self.speed = speed if self.speed is None else 0.5 * (self.speed + speed)
