"""Knowledge distillation: a small network learns the embeddings that a large one computes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.errors import ConfigError
from alprune.training.augment import normalise
from alprune.training.passes import Passes


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


class Distillation(Passes):
    """The teaching of one network, a batch at a time.

    BatchNorms keep their statistics: those of a reconstructed network fit its weights, and by the
    statistics of each batch its error is twice as large.

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
    """

    what = "the error of the embeddings"

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
        chosen = self.settings = settings or DistilSettings()
        super().__init__(
            student, len(rows), chosen.batch_size, chosen.passes, chosen.warmup_batches, seed
        )
        self._x, self._rows, self._targets = x, rows, targets
        self._device = next(student.parameters()).device
        self._mean, self._std = mean.to(self._device), std.to(self._device)
        sample = targets(rows[torch.linspace(0, len(rows) - 1, min(len(rows), 1000)).long()])
        spread = (sample.float() - sample.float().mean(0)).square().sum(1).mean()
        self._unit = spread.clamp_min(1e-12).to(self._device)
        self.optimiser = torch.optim.AdamW(
            student.parameters(), chosen.lr, weight_decay=chosen.weight_decay
        )

    def loss(self, places: Tensor) -> Tensor:
        """Return the squared error of the embeddings, in units of their variance."""
        rows = self._rows[places]
        embedded = self.network(self._images(rows))
        wanted = self._targets(rows).to(self._device).float()
        return (embedded - wanted).square().sum(1).mean() / self._unit

    def _images(self, rows: Tensor) -> Tensor:
        images = self._x.index_select(0, rows.to(self._x.device)).to(self._device)
        return normalise(images, self._mean, self._std)
