"""Tests of a run's learner: when they are due, what they show, how they are recorded."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from alprune.data import Dataset
from alprune.errors import quoted
from alprune.loop.stopping import Evaluations
from alprune.training.budget import Budget
from alprune.training.interface import Trainable
from alprune.training.metrics import Metrics, fit_temperature, measure

_DIGITS = 6  # of the figures in the record


class TestSetEvaluation:
    """Tests a learner on the test set and remembers the outcomes.

    Args:
        learner: Its averaged network is tested.
        test: The test set.
        every: Test after every N steps; None: as time allows, see `Evaluations.due`.

    Attributes:
        past: What the tests so far have shown.
        step: The step after which the latest test was; None before the first.
        metrics: What the latest test showed; None before it, and in a run that was resumed.
    """

    def __init__(self, learner: Trainable, test: Dataset, every: int | None) -> None:
        self.past = Evaluations()
        self.step: int | None = None
        self.metrics: Metrics | None = None
        self._learner, self._test, self._every = learner, test, every

    @property
    def accuracy(self) -> float | None:
        """Of the latest test, 0 to 1; None before the first."""
        return self.past.last

    def due(self, step: int, budget: Budget) -> bool:
        """Tell whether to test after this step, if it does not end the run."""
        elapsed_s = None if budget.limit_s is None else budget.elapsed_s
        return self.past.due(step, self._every, elapsed_s)

    def take(self, step: int, halt: Budget) -> None:
        """Test the learner.

        Args:
            step: The step that it has just been fitted in.
            halt: A clock without limit; halting it ends the test.

        Raises:
            BudgetSpent: It was halted; the latest test is still the one before.
        """
        clock = Budget(None)
        clock.start()
        self.metrics = self._learner.evaluate(self._test, halt)
        self.step = step
        self.past.note(self.metrics.accuracy, clock.elapsed_s)

    def of_step(self, step: int) -> dict[str, Any]:
        """Return what the step's event says about its test; None where there was none."""
        tested = self.metrics if self.step == step else None
        return {
            "test_accuracy": tested and tested.accuracy,
            "macro_f1": tested and round(tested.macro_f1, _DIGITS),
            "ece": tested and round(tested.ece, _DIGITS),
        }

    def at_end(self, step: int, held_out: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return what the last event says of the test after the last step, calibrated and not.

        Args:
            step: The last step; if it was not tested there is nothing to say.
            held_out: Training images that the learner was not trained on, `(k,)` indices; none
                where no temperature is wanted.
            labels: Their classes, `(k,)`.
        """
        if self.metrics is None or self.step != step:
            return {}
        figures = asdict(self.metrics)
        del figures["accuracy"]
        temperature, calibrated = None, None
        if held_out.numel():
            temperature = fit_temperature(self._learner.logits(self._learner.x, held_out), labels)
            test = self._learner.logits(self._test.x)
            calibrated = measure(test, self._test.y, temperature).ece
        figures |= {"temperature": temperature, "ece_calibrated": calibrated}
        return {name: _rounded(value) for name, value in figures.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs of the tests so far, JSON values."""
        return asdict(self.past) | {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            KeyError, TypeError, ValueError: It is no such state.
        """
        past = Evaluations(**{name: value for name, value in state.items() if name != "step"})
        shares = [value for value in (past.last, past.best) if value is not None]
        counts = [past.since_best, 0 if state["step"] is None else state["step"]]
        right = all(isinstance(count, int) and count >= 0 for count in counts)
        if not (right and all(0 <= s <= 1 for s in shares) and 0 <= past.spent_s < math.inf):
            raise ValueError(f"{quoted(state)} is not a state of tests")
        self.step, self.past = state["step"], past


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return value if value is None else round(value, _DIGITS)
