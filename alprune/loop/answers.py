"""Labels that somebody gave and that a run, set back to its last checkpoint, does not know yet."""

from pathlib import Path

import torch
from torch import Tensor

from alprune.data.dataset import UNKNOWN
from alprune.loop.pool import LabelPool
from alprune.loop.run_folder import read_labels


class Answers:
    """What labels.csv holds beyond the pool, so that nobody has to be asked twice.

    Args:
        pool: The labels in use.
    """

    def __init__(self, pool: LabelPool) -> None:
        self._pool = pool
        self._given: dict[int, tuple[int, int]] = {}

    def read(self, folder: Path) -> None:
        """Take up the labels of a run folder; those that cannot be labels are left out."""
        for index, (label, step) in read_labels(folder).items():
            if 0 <= index < len(self._pool) and 0 <= label < self._pool.classes:
                self._given[index] = (label, step)

    def to(self, asked: Tensor) -> Tensor | None:
        """Return the labels of `(k,)` points, `(k,)`; None unless all are known."""
        known = [self._given.get(index) for index in asked.tolist()]
        return None if None in known else torch.tensor([entry[0] for entry in known if entry])

    @property
    def spare(self) -> dict[int, tuple[int, int]]:
        """Those not in the pool: `{index: (label, step)}`."""
        self._given = {i: a for i, a in self._given.items() if self._pool.labels[i] == UNKNOWN}
        return self._given
