"""What the loop needs of a learner: any class with these members can be trained and asked."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alprune.data import Dataset
from alprune.pruning.epi import EarlyPruner
from alprune.training.budget import Budget
from alprune.training.distributed import Team
from alprune.training.metrics import Metrics
from alprune.training.settings import FitReport


class Trainable(Protocol):
    """A learner over one training set, as the loop and the acquisition functions use it.

    Attributes:
        x: The training images `(n, h, w, c)`; indices are rows of it.
        device: Where it computes.
        precision: Type of its matrix products.
        team: The processes that train it together.
        early: What prunes it during training; None for a network that stays.
        lr: Peak learning rate.
        batches: Batches that it was trained on so far.
        snapshots: The networks of past fits, see `keep_snapshots`.
        averaged: The network that predicts; its weights are what a run leaves.
    """

    x: Tensor
    device: torch.device
    precision: torch.dtype
    team: Team
    early: EarlyPruner | None
    lr: float
    batches: int
    snapshots: deque[nn.Module]
    averaged: nn.Module

    @property
    def network(self) -> nn.Module:
        """What `predict` runs, in eval mode; hooks on its layers see every prediction."""

    def keep_snapshots(self, count: int) -> None:
        """Keep the networks as they were after each of the last `count` fits."""

    def fit(
        self,
        indices: Tensor,
        labels: Tensor,
        epochs: float,
        generator: torch.Generator,
        budget: Budget | None = None,
        progress: Callable[[float], float] = lambda done: 0.0,
        tick: Callable[[int, int], None] | None = None,
    ) -> FitReport:
        """Train further on points `(n,)` with classes `(n,)`; see `Learner.fit`."""

    def predict(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        budget: Budget | None = None,
        network: nn.Module | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Stream logits over images; see `Learner.predict`."""

    def logits(
        self, x: Tensor, indices: Tensor | None = None, budget: Budget | None = None
    ) -> Tensor:
        """Return the logits of images in one piece, `(n, classes)`, on the CPU."""

    def evaluate(self, test: Dataset, budget: Budget | None = None) -> Metrics:
        """Measure the predictions on a test set."""

    def gathered(self, rows: Tensor | None, count: int) -> Tensor:
        """Return the rows of all processes; see `Learner.gathered`."""

    def state(self) -> dict[str, Any]:
        """Return all that training changes: tensors and plain values, for a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring it to a state that `state` returned."""
