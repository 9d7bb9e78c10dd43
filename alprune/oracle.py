"""Where labels come from."""

import torch
from torch import Tensor

from alprune.data import Dataset
from alprune.data.imperfect import wrong_labels
from alprune.errors import DataError


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
        self._classes = train.classes
        generator = torch.Generator().manual_seed(seed)
        self._labels = wrong_labels(train.y.to("cpu"), len(train.classes), noise, generator)

    @property
    def labels(self) -> Tensor:
        """Every answer, `(n,)` int64, for an initial set that is drawn by class."""
        return self._labels

    def __call__(self, indices: Tensor) -> Tensor:
        """Return the labels `(k,)` of the points `(k,)`."""
        return self._labels[indices]

    def balanced(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the first points with as many of each class as of any other.

        Args:
            count: Points in all. What does not divide by the classes goes to random classes,
                one more each.
            generator: Makes the draw, on the CPU.

        Returns:
            `(count,)` absolute indices, ascending.

        Raises:
            DataError: Too few points, in all or in a class.
        """
        classes = len(self._classes)
        if not classes <= count <= self._labels.numel():
            raise DataError(
                f"--initial {count} is not possible: it must be at least one a class "
                f"({classes}) and at most the training set ({self._labels.numel()})."
            )
        share = torch.full((classes,), count // classes)
        share[torch.randperm(classes, generator=generator)[: count % classes]] += 1
        drawn = [self._of_class(c, int(share[c]), generator) for c in range(classes)]
        return torch.cat(drawn).sort().values

    def _of_class(self, c: int, count: int, generator: torch.Generator) -> Tensor:
        members = torch.nonzero(self._labels == c).squeeze(1)
        if members.numel() < count:
            raise DataError(
                f"class {self._classes[c]!r} has {members.numel()} training points, but a "
                f"balanced start needs {count}. Lower --initial to at most "
                f"{members.numel() * len(self._classes)}."
            )
        return members[torch.randperm(members.numel(), generator=generator)[:count]]
