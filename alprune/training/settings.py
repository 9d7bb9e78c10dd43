"""How a fit is asked for, and what it says: settings, report and the error of one that diverged."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from alprune.errors import ConfigError, TrainError

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 + 0.5 * math.cos(math.pi * progress),
}


@dataclass(frozen=True)
class FitSettings:
    """How a learner is trained: SGD with Nesterov momentum on softmax cross-entropy.

    Attributes:
        lr: Peak learning rate.
        momentum: Of SGD.
        weight_decay: On every parameter with more than one dimension.
        batch_size: Examples a batch; all batches are of this size, or of all labelled points.
        label_smoothing: Share of the target spread over the classes.
        warmup_batches: Batches over which the rate climbs to `lr`, once at the beginning.
        schedule: How the rate falls over the run: "constant", "linear" or "cosine".
        averaging: Decay a batch of the averaged weights that score and evaluate; 0 for none.
        pad: Pixels of padding for the random crop; 0 for none.
        flip: Random horizontal flips.
    """

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    label_smoothing: float = 0.0
    warmup_batches: int = 0
    schedule: str = "linear"
    averaging: float = 0.99
    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"unknown schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}.")
        if not self.lr > 0:
            raise ConfigError(f"lr must be more than 0, got {self.lr:g}.")
        if self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, got {self.batch_size}.")
        for name in ("momentum", "label_smoothing", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name):g}.")


@dataclass(frozen=True)
class FitReport:
    """What one fit did.

    Attributes:
        loss: Mean over its batches; None if there were none.
        epochs: Passes over the labelled points.
        batches: Batches done.
        stopped: Whether time ran out.
    """

    loss: float | None
    epochs: float
    batches: int
    stopped: bool


class Diverged(TrainError):
    """Training produced numbers that are not finite.

    Args:
        what: Became what.
        batch: The batch of the run after which it was seen, counted from 1.
        lr: Peak learning rate.
        points: Absolute indices of that batch, if it is known to be the one, `(b,)`.
    """

    def __init__(self, what: str, batch: int, lr: float, points: Tensor | None = None) -> None:
        self.batch, self.lr = batch, lr
        self.points: list[int] = [] if points is None else points.tolist()
        shown = ", ".join(map(str, self.points[:5])) + (", ..." if len(self.points) > 5 else "")
        super().__init__(
            f"{what} in batch {batch}" + (f" (points {shown})" if shown else "") + f", at a rate "
            f"of {lr:g}. Lower --lr (a tenth is a good try) or add --warmup-batches."
        )
