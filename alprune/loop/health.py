"""Numbers that say a run goes wrong while nothing fails: warned of, and written to the record."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_PATIENCE = 3  # steps in which the learner predicts a single class before it counts as collapsed


class Alarms:
    """Looks at what a step produced.

    Args:
        classes: Names of the classes.
        warn: Is told what a warning is about, in a word or two, and the message.

    Attributes:
        constant_steps: Steps on end in which every candidate was predicted to be of one class.
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

    def predictions(self, counts: Sequence[int]) -> None:
        """Look for a collapsed network, which predicts one class: candidates predicted of each."""
        if sum(counts) < 2:
            return
        found = [c for c, count in enumerate(counts) if count]
        self._note("candidate", found[0] if len(found) == 1 else None)

    def tested(self, accuracies: Sequence[float | None]) -> None:
        """Look for the same in a test, where nothing was predicted for the candidates.

        Args:
            accuracies: Of each class, None for one that was not tested. A single class that is
                always right while all others are always wrong is what is always predicted.
        """
        of_class = {c: share for c, share in enumerate(accuracies) if share is not None}
        right = [c for c, share in of_class.items() if share > 0]
        constant = len(of_class) > 1 and len(right) == 1 and of_class[right[0]] == 1
        self._note("test image", right[0] if constant else None)

    def _note(self, what: str, only: int | None) -> None:
        self.constant_steps = 0 if only is None else self.constant_steps + 1
        if only is not None and self.constant_steps == _PATIENCE:
            self._warn(
                "collapsed network",
                f"in {_PATIENCE} steps running every {what} was predicted to be "
                f"{self._classes[only]!r}: the network has collapsed. Lower --lr, add "
                "--warmup-batches, prune less (--flops-reduction) or raise --min-channels.",
            )
