"""Numbers that say a run goes wrong while nothing fails: warned of, and written to the record."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_PATIENCE = 3  # steps in which the learner predicts a single class before it counts as collapsed


class Alarms:
    """Looks at what a step produced.

    Args:
        classes: Names of the classes.
        warn: Receives what a warning is about, in a word or two, and the message.

    Attributes:
        constant_steps: Steps in a row in which a single class was predicted.
    """

    def __init__(self, classes: Sequence[str], warn: Callable[[str, str], None]) -> None:
        self._classes, self._warn = classes, warn
        self.constant_steps = 0

    def labels(self, labels: Tensor) -> None:
        """Look for classes of which no labelled point is known, in `(m,)` labels."""
        counts = torch.bincount(labels, minlength=len(self._classes))
        missing = [self._classes[c] for c in torch.nonzero(counts == 0).flatten().tolist()]
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
            self._warn(
                "class never seen",
                f"{len(missing)} of {len(self._classes)} classes have no labelled point ({shown}): "
                "the learner cannot predict them. Raise --initial, or label examples of them.",
            )

    def predictions(
        self, counts: Sequence[int] | None, accuracies: Sequence[float | None] | None
    ) -> None:
        """Look for a collapsed network, which predicts one class.

        A network that tells classes apart in the test has not collapsed, even where the candidates
        are all of one class.

        Args:
            counts: Candidates predicted of each class; None where none were predicted.
            accuracies: Of each class in this step's test, None for a class without test images;
                None where there was no test. A single class that is always right while all others
                are always wrong is what is always predicted.
        """
        if counts is not None and sum(counts) < 2:
            counts = None
        of_class = {c: share for c, share in enumerate(accuracies or ()) if share is not None}
        if len(of_class) < 2:
            of_class = {}
        seen, found = [], set()
        if counts is not None:
            seen.append(f"all {sum(counts):,} candidates")
            found |= {c for c, count in enumerate(counts) if count}
        if of_class:
            seen.append("all test images")
            right = {c for c, share in of_class.items() if share > 0}
            always = len(right) == 1 and all(of_class[c] == 1 for c in right)
            found |= right if always else set(of_class)
        if not seen:
            return
        self.constant_steps = self.constant_steps + 1 if len(found) == 1 else 0
        if self.constant_steps == _PATIENCE:
            self._warn(
                "collapsed network",
                f"in {_PATIENCE} steps in a row the learner predicted a single class, this time "
                f"{self._classes[found.pop()]!r} for {' and '.join(seen)}: the network has "
                "collapsed. Lower --lr, add --warmup-batches, prune less (--flops-reduction) or "
                "raise --min-channels.",
            )
