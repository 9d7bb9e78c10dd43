"""Training in passes over some images, with a warm-up and a cosine schedule; it can be resumed."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alprune.training.budget import Budget
from alprune.training.settings import SCHEDULES, Diverged

_CHECKED_EVERY = 20  # batches between looks at the loss, which waits for the device


class Passes(ABC):
    """The training of one network, a batch at a time; `state` and `restore` resume it.

    BatchNorms keep their statistics. A subclass sets `optimiser` and computes the loss.

    Args:
        network: Changed in place.
        count: Of the images to learn from, k >= 2.
        batch_size: Images per batch, at most.
        passes: Over the images, at most; a budget may end it before.
        warmup_batches: Batches over which the rates climb to their peaks.
        seed: Decides the order of the images, another one in each pass.

    Attributes:
        done: Batches so far.
        planned: Batches in all, unless the budget ends before.
        size: Images in a batch.
        optimiser: Its rates at the time of `run` are the peaks of its groups.
    """

    optimiser: torch.optim.Optimizer
    what = "the loss"  # in the message where it diverges

    def __init__(
        self,
        network: nn.Module,
        count: int,
        batch_size: int,
        passes: int,
        warmup_batches: int,
        seed: int,
    ) -> None:
        self.network, self._count, self._warmup, self._seed = network, count, warmup_batches, seed
        self.size = min(batch_size, count)
        self._per_pass = count // self.size
        self.done, self.planned = 0, passes * self._per_pass
        self._order = -1, torch.arange(0)
        self._peaks: list[float] = []

    @abstractmethod
    def loss(self, places: Tensor) -> Tensor:
        """Return the loss, a scalar, of the images at places `(b,)` among those to learn from."""

    def run(self, budget: Budget, tick: Callable[[float | None], None] = lambda loss: None) -> None:
        """Train until all passes are done or the budget is spent.

        Args:
            budget: Checked before every batch; the rates fall with it.
            tick: Called after each batch; with its loss after every 20th.

        Raises:
            Diverged: The loss became infinite or NaN.
        """
        self.network.eval()
        groups = self.optimiser.param_groups
        self._peaks = self._peaks or [group["lr"] for group in groups]
        while self.done < self.planned and not budget.expired:
            warm = min(1.0, (self.done + 1) / max(1, self._warmup))
            progress = max(self.done / self.planned, budget.fraction)
            share = warm * SCHEDULES["cosine"](progress)
            for group, peak in zip(groups, self._peaks, strict=True):
                group["lr"] = share * peak
            loss = self.loss(self._batch(self.done))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.done += 1
            found = None
            if self.done % _CHECKED_EVERY == 0:
                found = loss.item()
                if not math.isfinite(found):
                    what = f"{self.what} became infinite or NaN"
                    raise Diverged(what, self.done, share * self._peaks[0])
            tick(found)

    def _batch(self, number: int) -> Tensor:
        """Return the places of a batch."""
        turn, place = divmod(number, self._per_pass)
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed((self._seed + turn) % 2**63)
            self._order = turn, torch.randperm(self._count, generator=generator)
        return self._order[1][place * self.size : (place + 1) * self.size]

    def state(self) -> dict[str, Any]:
        """Return all that training changes: tensors and plain values."""
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "peaks": self._peaks,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the training to a state that `state` returned.

        Raises:
            RuntimeError, KeyError, ValueError: It belongs to another network.
        """
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._peaks, self.done = list(state["peaks"]), state["done"]
