"""When to test and when to stop, besides the end of the budget, the steps or the pool."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Testing is off the clock, but people wait for it: under a budget it may add a tenth.
TESTING_SHARE = 0.1


@dataclass
class Evaluations:
    """What the tests of a run have shown so far; plain numbers, so that a checkpoint can hold them.

    Attributes:
        last: Accuracy of the latest test, 0 to 1; None before the first.
        best: The best accuracy so far; None before the first test.
        since_best: Tests after the one that was best.
        spent_s: Seconds that all tests took.
    """

    last: float | None = None
    best: float | None = None
    since_best: int = 0
    spent_s: float = 0.0

    def note(self, accuracy: float, seconds: float) -> None:
        """Enter a test's outcome and what it took."""
        better = self.best is None or accuracy > self.best
        self.since_best = 0 if better else self.since_best + 1
        self.best = accuracy if better else self.best
        self.last = accuracy
        self.spent_s += seconds

    def due(self, step: int, every: int | None, elapsed_s: float | None) -> bool:
        """Return whether to test after a step that does not end the run.

        Args:
            step: Its number, from 0.
            every: Test after every N steps; None: as often as time allows.
            elapsed_s: The budget clock; None in a run without a budget, in which nothing may
                depend on time and each step is tested.
        """
        if every is not None:
            return step % every == 0
        return elapsed_s is None or self.spent_s <= TESTING_SHARE * elapsed_s


@dataclass(frozen=True)
class Progress:
    """What a criterion may look at.

    Attributes:
        labelled: Labelled points.
        evaluations: Of the tests so far, the latest one included.
        uncertainty: Mean entropy of the candidates' softmax outputs, in nats, once this step
            has scored them; None before, or if nothing computed it.
    """

    labelled: int
    evaluations: Evaluations
    uncertainty: float | None = None


@dataclass(frozen=True)
class Criterion:
    """One way to stop.

    Attributes:
        reason: What the record says it ended by.
        met: `(limit, progress) -> bool`.
    """

    reason: str
    met: Callable[[Any, Progress], bool]


def _accurate(target: float, progress: Progress) -> bool:
    return progress.evaluations.last is not None and progress.evaluations.last >= target


def _certain(limit: float, progress: Progress) -> bool:
    return progress.uncertainty is not None and progress.uncertainty < limit


CRITERIA: dict[str, Criterion] = {
    "stop_labels": Criterion("label budget", lambda limit, now: now.labelled >= limit),
    "stop_accuracy": Criterion("accuracy reached", _accurate),
    "stop_uncertainty": Criterion("uncertainty low", _certain),
    "stop_plateau": Criterion("plateau", lambda tests, now: now.evaluations.since_best >= tests),
}
"""By the name of the option that sets the limit."""


def reason_to_stop(limits: Mapping[str, float | None], progress: Progress) -> str | None:
    """Return the reason of the first criterion that is met, or None.

    Args:
        limits: By key of `CRITERIA`; what is None or missing is not asked.
        progress: State of the run.
    """
    for name, criterion in CRITERIA.items():
        limit = limits.get(name)
        if limit is not None and criterion.met(limit, progress):
            return criterion.reason
    return None
