"""Fine-tuning: a pretrained network with a fitted head learns from the labels, backbone and all."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.errors import ConfigError
from alprune.training.augment import Augment, normalise
from alprune.training.embeddings import last_linear
from alprune.training.halves import halves
from alprune.training.passes import Passes

_KEPT_BYTES = 2**30  # of what the lower half makes of images


@dataclass(frozen=True)
class FineTuneSettings:
    """How a network is fine-tuned: AdamW on the cross-entropy, two rates, cosine schedule.

    Attributes:
        lr: Peak learning rate of the backbone.
        head_lr: Of the last layer.
        weight_decay: Of AdamW.
        batch_size: Labelled images per batch.
        passes: Over the labelled images, at most; a budget may end it before.
        warmup_batches: Batches over which the rates climb to their peaks.
        frozen_share: Share of the backbone's work that stays frozen, the layers next to the image.
        views: Random crops and flips of each image, for which the frozen part is run once.
        pad: Pixels by which a crop may be off, in relation to the image's side.
    """

    lr: float = 3e-4
    head_lr: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 32
    passes: int = 6
    warmup_batches: int = 20
    frozen_share: float = 0.35
    views: int = 4
    pad: float = 0.125

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.head_lr > 0) or self.batch_size < 2 or self.passes < 1:
            raise ConfigError(
                f"fine-tuning needs rates > 0, batch_size >= 2 and passes >= 1; got {self}."
            )
        if not 0 <= self.frozen_share <= 1 or self.views < 1:
            raise ConfigError(
                f"fine-tuning needs frozen_share in [0, 1] and views >= 1; got {self}."
            )


class Examples:
    """Images to learn from, augmented, by what a network's lower half makes of them.

    Each image has a fixed number of views, random crops and flips. The lower half does not learn,
    so what it makes of a view is kept where memory allows it.

    Args:
        x: Images `(n, h, w, c)`, as they are stored.
        rows: Those to learn from, `(k,)` int64.
        lower: The lower half, in eval mode.
        augment: Crops, flips and normalises.
        views: Of each image.
        seed: Decides the views.
    """

    def __init__(
        self, x: Tensor, rows: Tensor, lower: nn.Module, augment: Augment, views: int, seed: int
    ) -> None:
        self._x, self._rows, self._lower, self._augment = x, rows, lower, augment
        self._device = augment.mean.device
        self._views = views
        generator = torch.Generator().manual_seed(seed)
        self._draws = augment.draw(len(rows) * views, generator)
        self._kept: Tensor | None = None
        self._known = torch.zeros(len(self._draws), dtype=torch.bool)
        keeps = not isinstance(lower, nn.Identity)
        if keeps:
            made = self._made(torch.zeros(1, dtype=torch.int64))[0]
            keeps = 2 * made.numel() * len(self._draws) <= _KEPT_BYTES
        if keeps:  # memory is taken only where something is written
            self._kept = torch.empty((len(self._draws), *made.shape), dtype=torch.float16)

    def __call__(self, places: Tensor, view: Tensor) -> Tensor:
        """Return what the lower half makes of images.

        Args:
            places: Of the images among `rows`, `(b,)`.
            view: Which view of each, `(b,)`.
        """
        which = places * self._views + view
        if self._kept is None:
            return self._made(which)
        new = which[~self._known[which]].unique()
        if len(new):
            self._kept[new] = self._made(new).half().cpu()
            self._known[new] = True
        return self._kept[which].to(self._device).float()

    def _made(self, which: Tensor) -> Tensor:
        rows = self._rows[which // self._views]
        images = self._x.index_select(0, rows.to(self._x.device)).to(self._device)
        views = self._augment.apply(images, self._draws[which].to(self._device))
        with torch.no_grad():
            made: Tensor = self._lower(views)
        return made


class FineTuning(Passes):
    """The fine-tuning of one network, a batch at a time.

    BatchNorms keep their statistics, which are those of many more images than have labels.

    Args:
        network: Maps normalised images `(b, c, h, w)` to logits `(b, classes)` by a linear layer at
            its end; on the device, its head fitted, and changed in place.
        x: Images `(n, h, w, c)`, as they are stored.
        rows: The labelled ones to learn from, `(k,)` int64, k >= 2.
        labels: Their classes, `(k,)` int64.
        augment: Crops, flips and normalises, on the device.
        seed: Decides the order of the images and their views.
        settings: How it is fine-tuned.
    """

    what = "the loss of fine-tuning"

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        rows: Tensor,
        labels: Tensor,
        augment: Augment,
        seed: int,
        settings: FineTuneSettings | None = None,
    ) -> None:
        chosen = self.settings = settings or FineTuneSettings()
        super().__init__(
            network.eval(),
            len(rows),
            chosen.batch_size,
            chosen.passes,
            chosen.warmup_batches,
            seed,
        )
        self._labels = labels
        self._device = augment.mean.device
        network.requires_grad_(False)
        some = rows[torch.linspace(0, len(rows) - 1, 2).long()]
        images = x.index_select(0, some.to(x.device)).to(self._device)
        with torch.no_grad():
            still = normalise(images, augment.mean, augment.std)
            lower, self._upper = halves(network, still, chosen.frozen_share)
        self._upper.requires_grad_(True)
        self._examples = Examples(x, rows, lower, augment, chosen.views, seed)
        head = {id(p) for p in last_linear(network)[1].parameters()}
        parts: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter in self._upper.parameters():
            parts[id(parameter) in head].append(parameter)
        rates = chosen.lr, chosen.head_lr
        groups = [{"params": p, "lr": rate} for p, rate in zip(parts, rates, strict=True) if p]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=chosen.weight_decay)

    def loss(self, places: Tensor) -> Tensor:
        """Return the cross-entropy of one view of each image."""
        generator = torch.Generator().manual_seed((self._seed + self.done) % 2**63)
        views = torch.randint(self.settings.views, places.shape, generator=generator)
        logits = self._upper(self._examples(places, views))
        return F.cross_entropy(logits, self._labels[places].to(self._device))
