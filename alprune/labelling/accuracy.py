"""How good the learner is, without a test set: on images that it was not trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from alprune.labelling.images import ImagePool
from alprune.labelling.journal import Journal
from alprune.loop.stopping import Evaluations
from alprune.training.budget import Budget
from alprune.training.interface import Trainable
from alprune.training.metrics import LEAST_CALIBRATING, Metrics, fit_temperature, measure

_DIGITS = 4
_MEASURED = ("held_out_accuracy", "temperature", "test_accuracy")
_SCORE_95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A share of right answers, with its uncertainty.

    Attributes:
        right: Images for which the learner was right.
        of: Images that it was asked about.
        accuracy: Their share.
        low: Lower end of the 95% interval (Wilson's).
        high: Upper end.
    """

    right: int
    of: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.accuracy:.0%} of {self.of} (95% interval {self.low:.0%} to {self.high:.0%})"


def estimate(right: int, of: int) -> Estimate:
    """Return the share of right answers with Wilson's 95% interval; `of` is at least 1.

    Source: Wilson 1927.
    """
    share, z2 = right / of, _SCORE_95**2
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _SCORE_95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(right, of, *(round(v, _DIGITS) for v in (share, low, high)))


def guesses(journal: Journal) -> Estimate | None:
    """Compare the last round's guesses with the answers; drawn images left out.

    These images were chosen because the learner was unsure: it does better on others.
    """
    pairs = [
        (query.guess, journal.answers[query.content].label)
        for query in journal.pending
        if query.guess and query.why != "random" and query.content in journal.answers
    ]
    told = [(guess, label) for guess, label in pairs if label is not None]
    return estimate(sum(g == label for g, label in told), len(told)) if told else None


class HoldOutEvaluation:
    """Measures a round's learner on held-out images and on test images, where there are any.

    Args:
        learner: Measured after its fit.
        images: Today's.

    Attributes:
        past: Empty: a round of labelling has no stopping criteria.
        step: The step after which it was measured; None before.
        metrics: None: what a test on labelled test images shows is in `found`.
        found: What was measured, JSON values; None each where there are no such images.
    """

    def __init__(self, learner: Trainable, images: ImagePool) -> None:
        self.past = Evaluations()
        self.metrics: Metrics | None = None
        self.step: int | None = None
        self.found: dict[str, Any] = {}
        self._learner, self._images = learner, images

    def due(self, step: int, budget: Budget) -> bool:
        """Measure it in every round."""
        return True

    def take(self, step: int, halt: Budget) -> None:
        """Measure the learner.

        Raises:
            BudgetSpent: The clock `halt` was halted.
        """
        learner, held, test = self._learner, self._images.held, self._images.splits.test
        found: dict[str, Any] = dict.fromkeys(_MEASURED)
        if len(held):
            logits, labels = learner.logits(learner.x, held, halt), self._images.train.y[held]
            right = int((logits.argmax(1) == labels).sum())
            found["held_out_accuracy"] = asdict(estimate(right, len(held)))
            if len(held) >= LEAST_CALIBRATING:
                found["temperature"] = round(fit_temperature(logits, labels), _DIGITS)
        if len(test):
            figures = measure(learner.logits(test.x, budget=halt), test.y)
            found["test_accuracy"] = round(figures.accuracy, 6)
        self.step, self.found = step, found

    def of_step(self, step: int) -> dict[str, Any]:
        """Return what was measured after a step."""
        return dict(self.found)


def in_words(learnt: Mapping[str, Any]) -> dict[str, str]:
    """Say how good the learner is, and on what that was measured, `{title: sentence}`."""
    said = {}
    if learnt.get("test_accuracy") is not None:
        said["accuracy"] = f"{learnt['test_accuracy']:.1%} of the test images"
    if learnt.get("held_out_accuracy"):
        held = Estimate(**learnt["held_out_accuracy"])
        said["held out"] = f"right on {held}, drawn at random and not trained on"
    if learnt.get("guesses"):
        unsure = Estimate(**learnt["guesses"])
        said["guesses"] = f"right on {unsure} of which it was unsure; it does better on others"
    return said
