"""Which labels look wrong: those that out-of-fold predictions contradict with confidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST = 5  # labels of a class below which its predictions say little


@dataclass(frozen=True)
class Suspects:
    """What confident learning says of labels.

    Attributes:
        quality: Of each label, 0 to 1, low where it looks wrong, `(n,)`.
        wrong: Whether it is counted as wrong, `(n,)` bool.
        checked: Whether every class had enough labels; if not, no label is counted as wrong.
    """

    quality: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    checked: bool


def find_suspects(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Suspects:
    """Find the labels that confident learning contradicts.

    Args:
        labels: Class numbers, `(n,)`, of at least two classes.
        probabilities: Predicted for each image by a learner that was not trained on it,
            `(n, classes)`; a class without labels is left out of account.

    Source: Northcutt et al. 2021, by cleanlab.
    """
    present, compact = np.unique(labels, return_inverse=True)
    shares = probabilities[:, present] + 1e-12
    shares /= shares.sum(1, keepdims=True)
    from cleanlab.filter import find_label_issues  # seconds to import, and seldom needed
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(compact, shares)
    if len(present) < 2 or np.bincount(compact).min() < _LEAST:
        return Suspects(quality, np.zeros(len(labels), dtype=bool), checked=False)
    wrong = find_label_issues(compact, shares, n_jobs=1, verbose=False)
    return Suspects(quality, wrong, checked=True)
