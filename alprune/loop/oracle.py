"""Where labels come from."""

import torch
from torch import Tensor

from alprune.data import Dataset
from alprune.data.corruption import wrong_labels


class Simulation:
    """An oracle that knows every label already: the data set's own, or wrong ones for a share.

    A point's label is the same whenever it is asked for.

    Args:
        train: The training set.
        noise: Share of the points whose label is wrong, see `wrong_labels`.
        seed: Decides which points these are, and their labels.

    Raises:
        ConfigError: `noise` is not in [0, 1].
    """

    def __init__(self, train: Dataset, noise: float = 0.0, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._labels = wrong_labels(train.y.to("cpu"), len(train.classes), noise, generator)

    @property
    def labels(self) -> Tensor:
        """Every answer, `(n,)` int64, for an initial set that is drawn by class."""
        return self._labels

    def __call__(self, indices: Tensor) -> Tensor:
        """Return the labels `(k,)` of the points `(k,)`."""
        return self._labels[indices]
