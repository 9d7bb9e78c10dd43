"""Knowledge distillation: a small network learns the embeddings that a large one computes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ConfigError
from alprune.training.augment import normalise
from alprune.training.budget import Budget
from alprune.training.settings import SCHEDULES, Diverged

_CHECKED_EVERY = 20  # batches between looks at the loss, which waits for the device


@dataclass(frozen=True)
class DistilSettings:
    """How a small network is taught: AdamW on the squared error of embeddings, cosine schedule.

    Attributes:
        lr: Peak learning rate.
        batch_size: Images per batch.
        passes: Over the images, at most; a budget may end it before.
        warmup_batches: Batches over which the rate climbs to `lr`.
        weight_decay: Of AdamW.
    """

    lr: float = 3e-4
    batch_size: int = 32
    passes: int = 10
    warmup_batches: int = 50
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.batch_size < 2 or self.passes < 1:
            raise ConfigError(
                f"teaching needs lr > 0, batch_size >= 2 and passes >= 1; got {self}."
            )


class Distillation:
    """The teaching of one network, a batch at a time; `state` and `restore` resume it.

    Args:
        student: Maps normalised images `(b, c, h, w)` to embeddings `(b, d)`; on the device, and
            changed in place.
        x: Images `(n, h, w, c)`, as they are stored.
        rows: Those to learn from, `(k,)` int64, k >= 2.
        targets: Returns the embeddings that the large network gave for rows, `(b, d)`.
        mean: Of each channel, see `alprune.training.augment.normalise`.
        std: Likewise.
        seed: Decides the order of the images.
        settings: How it is taught.

    Attributes:
        done: Batches so far.
        planned: Batches in all, unless the budget ends before.
        size: Images in a batch.
    """

    def __init__(
        self,
        student: nn.Module,
        x: Tensor,
        rows: Tensor,
        targets: Callable[[Tensor], Tensor],
        mean: Tensor,
        std: Tensor,
        seed: int,
        settings: DistilSettings | None = None,
    ) -> None:
        self.settings = settings or DistilSettings()
        self._student, self._x, self._rows, self._targets = student, x, rows, targets
        self._device = next(student.parameters()).device
        self._mean, self._std, self._seed = mean.to(self._device), std.to(self._device), seed
        self.size = min(self.settings.batch_size, len(rows))
        self._per_pass = len(rows) // self.size
        self.done, self.planned = 0, self.settings.passes * self._per_pass
        sample = targets(rows[torch.linspace(0, len(rows) - 1, min(len(rows), 1000)).long()])
        spread = (sample.float() - sample.float().mean(0)).square().sum(1).mean()
        self._unit = spread.clamp_min(1e-12).to(self._device)
        self._order = -1, rows
        self._optimiser = torch.optim.AdamW(
            student.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay
        )

    def run(
        self, budget: Budget, tick: Callable[[float | None], None] = lambda error: None
    ) -> None:
        """Teach until all passes are done or the budget is spent.

        BatchNorms keep their statistics: those of a reconstructed network fit its weights, and by
        the statistics of each batch its error is twice as large.

        Args:
            budget: Checked before every batch; the learning rate falls with it.
            tick: Called after each batch; with its error, in units of the embeddings' variance,
                after every 20th.

        Raises:
            Diverged: The error became infinite or NaN.
        """
        self._student.eval()
        while self.done < self.planned and not budget.expired:
            warm = min(1.0, (self.done + 1) / max(1, self.settings.warmup_batches))
            progress = max(self.done / self.planned, budget.fraction)
            rate = self.settings.lr * warm * SCHEDULES["cosine"](progress)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            loss = self._step(self._batch(self.done))
            self.done += 1
            error = None
            if self.done % _CHECKED_EVERY == 0:
                error = loss.item()
                if not math.isfinite(error):
                    raise Diverged(
                        "the error of the embeddings became infinite or NaN", self.done, rate
                    )
            tick(error)

    def _step(self, rows: Tensor) -> Tensor:
        embedded = self._student(self._images(rows))
        wanted = self._targets(rows).to(self._device).float()
        loss = (embedded - wanted).square().sum(1).mean() / self._unit
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.detach()

    def _batch(self, number: int) -> Tensor:
        """Return the rows of a batch; each pass has an order of its own, which the seed gives."""
        turn, place = divmod(number, self._per_pass)
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed((self._seed + turn) % 2**63)
            order = torch.randperm(len(self._rows), generator=generator)
            self._order = turn, self._rows[order]
        return self._order[1][place * self.size : (place + 1) * self.size]

    def _images(self, rows: Tensor) -> Tensor:
        images = self._x.index_select(0, rows.to(self._x.device)).to(self._device)
        return normalise(images, self._mean, self._std)

    def state(self) -> dict[str, Any]:
        """Return all that teaching changes: tensors and plain values."""
        return {
            "done": self.done,
            "student": self._student.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the teaching to a state that `state` returned.

        Raises:
            RuntimeError, KeyError, ValueError: It belongs to another student.
        """
        self._student.load_state_dict(state["student"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]


__all__ = ["DistilSettings", "Distillation"]
