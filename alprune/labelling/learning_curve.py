"""What the next labels are expected to bring, from the accuracies of the rounds so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LATEST = 5  # rounds that the trend is taken from: accuracy levels off against log(labels)
_LEAST = 3  # rounds below which there is no trend
_SCORE_95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Measured:
    """Accuracy after one round.

    Attributes:
        labels: Labelled images that the learner was trained on.
        right: Images it was not trained on that it classified rightly.
        of: Their number.
    """

    labels: int
    right: int
    of: int


@dataclass(frozen=True)
class Gain:
    """A change of accuracy, as a share of all images, with its 95% interval."""

    labels: int
    gain: float
    low: float
    high: float


def expected_gain(rounds: Sequence[Measured], more: int) -> Gain | None:
    """Extrapolate the accuracies of the last rounds to `more` labels.

    Accuracy is fitted as a + b log(labels) by weighted least squares, each round weighted by the
    inverse variance of its share. Rounds measured on the same images have correlated errors, so the
    interval of b is wider than it need be.

    Args:
        rounds: In the order in which they were measured.
        more: Labels to come.

    Returns:
        The change to expect; None with fewer than three rounds of different numbers of labels.
    """
    latest = {entry.labels: entry for entry in rounds if entry.labels > 0 and entry.of > 0}
    used = sorted(latest.values(), key=lambda entry: entry.labels)[-_LATEST:]
    if len(used) < _LEAST:
        return None
    labels, right, of = np.array([(e.labels, e.right, e.of) for e in used], dtype=float).T
    # Agresti and Coull's share keeps the variance above zero where all or none are right.
    shares = (right + 2) / (of + 4)
    weights = (of + 4) / (shares * (1 - shares))
    logs = np.log(labels) - np.average(np.log(labels), weights=weights)
    spread = weights @ logs**2
    step = math.log1p(more / labels[-1])
    gain, half = (weights * logs) @ (right / of) / spread * step, _SCORE_95 / spread**0.5 * step
    return Gain(more, *(round(float(value), 4) for value in (gain, gain - half, gain + half)))
