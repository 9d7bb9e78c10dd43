"""How good predictions are: accuracy, macro-F1, calibration; and the temperature that mends it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alprune.errors import DataError

ECE_BINS = 15
_CHUNK = 4096  # points turned into float64 at a time


@dataclass(frozen=True)
class Metrics:
    """What a set of predictions is worth.

    Attributes:
        accuracy: Share of right answers, 0 to 1.
        macro_f1: Mean over the classes of their F1 score, 0 to 1.
        ece: Expected calibration error, 0 to 1.
        nll: Mean negative log-likelihood of the true class, in nats.
        brier: Mean squared distance of the probabilities from the truth, 0 to 2.
        per_class_accuracy: Share of right answers among each class's points; None for a class
            without points.
    """

    accuracy: float
    macro_f1: float
    ece: float
    nll: float
    brier: float
    per_class_accuracy: tuple[float | None, ...]


def measure(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Metrics:
    """Measure predictions against the truth, in float64.

    Args:
        logits: `(n, classes)`, n >= 1, on any device.
        labels: True classes `(n,)`, int64.
        temperature: Divides the logits first; 1 leaves the probabilities as they are.

    Raises:
        DataError: The shapes do not fit, or there are no points.
    """
    _check(logits, labels)
    labels = labels.to(logits.device)
    classes = logits.shape[1]
    parts = [
        _measure(some.double() / temperature, true)
        for some, true in zip(logits.split(_CHUNK), labels.split(_CHUNK), strict=True)
    ]
    confidence, predicted, nll, brier = (torch.cat(column) for column in zip(*parts, strict=True))
    hits = predicted == labels
    points = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[hits], minlength=classes)
    pairs = zip(right.tolist(), points.tolist(), strict=True)
    return Metrics(
        accuracy=int(hits.sum()) / labels.numel(),
        macro_f1=macro_f1(right, points, torch.bincount(predicted, minlength=classes)),
        ece=expected_calibration_error(confidence, hits),
        nll=float(nll.mean()),
        brier=float(brier.mean()),
        per_class_accuracy=tuple(r / n if n else None for r, n in pairs),
    )


def _measure(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return confidence, predicted class, loss, squared distance of each point, `(b,)` each."""
    log_probabilities = logits.log_softmax(1)
    probabilities = log_probabilities.exp()
    true = labels[:, None]
    nll = -log_probabilities.gather(1, true).squeeze(1)
    # |p - onehot|^2 = |p|^2 - 2 p_true + 1
    brier = probabilities.square().sum(1) - 2 * probabilities.gather(1, true).squeeze(1) + 1
    return probabilities.amax(1), logits.argmax(1), nll, brier


def macro_f1(right: Tensor, points: Tensor, predicted: Tensor) -> float:
    """Average the F1 scores of the classes that occur among the labels or the predictions.

    Args:
        right: Points of each class that were predicted to be of it, `(classes,)`.
        points: Points of each class, `(classes,)`.
        predicted: Points that were predicted to be of each class, `(classes,)`.
    """
    everything = points + predicted  # 2 TP + FN + FP
    occurs = everything > 0
    return float((2 * right[occurs].double() / everything[occurs]).mean())


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = ECE_BINS) -> float:
    """Compare confidence with accuracy, in bins of equal width, weighted by their points.

    Args:
        confidence: Probability of the predicted class, `(n,)`, in (0, 1].
        right: Whether it is the true one, `(n,)` bool.
        bins: Bins over (0, 1]; a confidence on an edge belongs to the lower bin.

    Source: Guo et al. 2017, eq. 3; Naeini et al. 2015.
    """
    confidence = confidence.double()
    place = (confidence * bins).ceil().long().sub_(1).clamp_(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, place, right.double() - confidence)  # points x (accuracy - confidence)
    return float(gap.abs().sum() / confidence.numel())


LEAST_CALIBRATING = 20
"""Labels that people held out below which a temperature would be a guess."""


def fit_temperature(
    logits: Tensor, labels: Tensor, least: float = 0.05, most: float = 20.0
) -> float:
    """Find the temperature under which held-out points are most likely.

    The loss is convex in the inverse temperature, so bisecting its slope in float64 finds the
    minimum; where it lies outside the limits (all held-out points right, say), the limit is
    returned.

    Args:
        logits: `(n, classes)` of points that the learner was not trained on.
        labels: Their classes `(n,)`.
        least: Lower limit of the temperature, > 0.
        most: Upper limit.

    Returns:
        The temperature: above 1 for a learner too sure of itself.

    Raises:
        DataError: The shapes do not fit, or there are no points.

    Source: Guo et al. 2017, section 4.2.
    """
    _check(logits, labels)
    logits, labels = logits.double(), labels.to(logits.device)
    true = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        expected = ((inverse * logits).softmax(1) * logits).sum(1)
        return float((expected - true).mean())

    low, high = 1 / most, 1 / least
    if slope(low) >= 0:
        return most
    if slope(high) <= 0:
        return least
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low * high) ** -0.5


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.numel():
        raise DataError(
            f"logits must be (n, classes) and labels (n,), n >= 1; got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}."
        )
