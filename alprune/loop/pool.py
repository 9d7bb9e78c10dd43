"""Which points are labelled, with what, since which step, and which are kept from training."""

import torch
from torch import Tensor

from alprune.data.dataset import UNKNOWN
from alprune.errors import DataError

_ASIDE = -2


class LabelPool:
    """The labels known so far, over absolute indices of the training set.

    What a step does with it (`label`, `labelled`, `draw` of a small share) costs time that grows
    with the points labelled or drawn, not with the size of the pool. It takes 8 bytes per point.

    Args:
        size: Number of points, labelled and not.
        classes: Number of classes; labels are `0 .. classes - 1`.
        listed: Whether `draw` lists the unlabelled points, in time that grows with the pool.

    Attributes:
        labels: `(size,)` int32, -1 where unknown, -2 where none is wanted; see `label_of`.
        step_of: `(size,)` int32, the step at which a point was labelled, -1 where it was not.
        aside: Absolute indices of the points that are not to be labelled, ascending, int64.
        held: Absolute indices of the labelled points that are kept from training, int64.
    """

    def __init__(self, size: int, classes: int, listed: bool = False) -> None:
        self.classes, self._listed = classes, listed
        self.labels = torch.full((size,), UNKNOWN, dtype=torch.int32)
        self.step_of = torch.full((size,), UNKNOWN, dtype=torch.int32)
        self._labelled = torch.empty(0, dtype=torch.int64)  # ascending
        self.aside = torch.empty(0, dtype=torch.int64)
        self.held = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return self.labels.numel()

    @property
    def labelled(self) -> Tensor:
        """Absolute indices of the labelled points, ascending, `(labelled_count,)` int64."""
        return self._labelled.clone()

    @property
    def trained_on(self) -> Tensor:
        """Absolute indices of the labelled points without those held out, ascending, int64."""
        known = self.labelled
        return known[~torch.isin(known, self.held)] if self.held.numel() else known

    @property
    def unlabelled(self) -> Tensor:
        """Absolute indices of the points without a label, ascending, int64; looks at them all."""
        return torch.nonzero(self.labels == UNKNOWN).squeeze(1)

    @property
    def labelled_count(self) -> int:
        """Number of labelled points."""
        return self._labelled.numel()

    @property
    def unlabelled_count(self) -> int:
        """Number of points that have no label and may get one."""
        return len(self) - self.labelled_count - self.aside.numel()

    def label_of(self, indices: Tensor) -> Tensor:
        """Return the labels of points, `(k,)` absolute indices, as `(k,)` int64."""
        return self.labels[indices].long()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw unlabelled points, every set of them equally likely.

        Points are drawn from the whole pool and labelled ones and doubles thrown away, which
        costs time in proportion to `count`. Only where that would throw away too many, because
        most of the pool is labelled or wanted, the unlabelled points are listed.

        Args:
            count: Points wanted; all the unlabelled ones if there are fewer.
            generator: Source of randomness, on the CPU.

        Returns:
            Distinct absolute indices, ascending, `(min(count, unlabelled_count),)` int64.
        """
        left = self.unlabelled_count
        if count >= left:
            return self.unlabelled
        if self._listed or 2 * count > left or 2 * left < len(self):
            return self.unlabelled[torch.randperm(left, generator=generator)[:count]].sort().values
        drawn = torch.empty(0, dtype=torch.int64)
        while drawn.numel() < count:
            tries = 16 + (count - drawn.numel()) * len(self) * 9 // (left * 8)
            more = torch.randint(len(self), (tries,), generator=generator)
            drawn = _distinct(torch.cat([drawn, more[self.labels[more] == UNKNOWN]]))
        # The first to be drawn: the smallest would be a biased choice.
        return drawn[:count].sort().values

    def hold_out(self, indices: Tensor) -> None:
        """Keep labelled points, `(k,)` absolute indices, from training from now on."""
        self.held = indices

    def set_aside(self, indices: Tensor) -> None:
        """Take points without a label, `(k,)` absolute indices, out of the pool for good.

        Raises:
            DataError: One is out of range, doubled, labelled or set aside already; none is taken.
        """
        self._check(indices, torch.zeros_like(indices))
        self.labels[indices] = _ASIDE
        self.aside = torch.cat([self.aside, indices]).sort().values

    def label(self, indices: Tensor, labels: Tensor, step: int | Tensor) -> None:
        """Enter labels for points that have none.

        Args:
            indices: Absolute indices `(k,)`, distinct and unlabelled.
            labels: Their classes `(k,)`.
            step: The acquisition step, 0 for the first points; or one per point, `(k,)`.

        Raises:
            DataError: Shapes differ, an index is out of range, doubled or labelled already, or
                a label is not a class; nothing is entered then.
        """
        indices, labels = indices.to("cpu", torch.int64), labels.to("cpu", torch.int64)
        self._check(indices, labels)
        self.labels[indices] = labels.int()
        self.step_of[indices] = step.int() if isinstance(step, Tensor) else step
        self._labelled = torch.cat([self._labelled, indices]).sort().values

    def _check(self, indices: Tensor, labels: Tensor) -> None:
        if indices.ndim != 1 or indices.shape != labels.shape:
            raise DataError(
                f"indices and labels must both be (k,), got {tuple(indices.shape)} and "
                f"{tuple(labels.shape)}."
            )
        if not indices.numel():
            return
        if int(indices.min()) < 0 or int(indices.max()) >= len(self):
            raise DataError(
                f"indices must be in 0..{len(self) - 1}, got {int(indices.min())}.."
                f"{int(indices.max())}."
            )
        if indices.unique().numel() != indices.numel():
            raise DataError(f"{indices.numel()} indices contain duplicates.")
        known = indices[self.labels[indices] != UNKNOWN]
        if known.numel():
            raise DataError(
                f"point {int(known[0])} has a label already, or was set aside; of those given, "
                f"{known.numel()} do."
            )
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise DataError(
                f"labels must be in 0..{self.classes - 1}, got {int(labels.min())}.."
                f"{int(labels.max())}."
            )


def _distinct(values: Tensor) -> Tensor:
    """Drop all but the first of equal values and keep the order, `(n,)` to `(m,)`."""
    ordered, place = values.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return values[place[first].sort().values]


def drawn_to_hold_out(pool: LabelPool, count: int, seed: int) -> Tensor:
    """Draw points out of the first labels to hold out from training.

    Args:
        pool: Its first points are labelled.
        count: Points to hold out; 0 for none.
        seed: Decides which: they are the same at every step and after a restart.

    Returns:
        `(count,)` absolute indices.
    """
    known = pool.labelled if count else pool.labelled[:0]
    first = known[pool.step_of[known] == 0]
    order = torch.randperm(first.numel(), generator=torch.Generator().manual_seed(seed + 5))
    return first[order[:count]]
