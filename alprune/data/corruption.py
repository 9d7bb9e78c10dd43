"""Pools as users meet them, made from a clean data set: long-tailed classes, wrong labels."""

import torch
from torch import Tensor

from alprune.data.dataset import Dataset
from alprune.errors import ConfigError


def long_tail(train: Dataset, ratio: float, generator: torch.Generator) -> Dataset:
    """Thin out the classes so that their sizes fall exponentially, from the first to the last.

    Class c of C keeps `n * ratio^(-c / (C - 1))` points, rounded down, where n is the size of
    the largest class: with ratio 100 CIFAR-10 has 5000 points of its first class, 50 of its
    last and 12,406 in all. A class that has fewer than that keeps all of its points. Which
    points stay is drawn; the test set is none of this function's business and stays balanced.

    Args:
        train: Training set; it is left as it was.
        ratio: Largest class over smallest, at least 1.
        generator: Draws the points that stay, on the CPU.

    Returns:
        The points that stay, in their old order and renumbered; classes, mean and standard
        deviation are those of `train`.

    Raises:
        ConfigError: The ratio is below 1, or a class would be left without points.

    Source: Cui et al. 2019, section 5.1 (long-tailed CIFAR).
    """
    if not 1 <= ratio < float("inf"):
        raise ConfigError(f"imbalance must be a finite ratio of at least 1, got {ratio:g}.")
    classes = len(train.classes)
    labels = train.y.to("cpu")
    sizes = torch.bincount(labels, minlength=classes)
    largest = int(sizes.max())
    kept = []
    for c in range(classes):
        wanted = int(largest * ratio ** (-c / (classes - 1)) + 1e-9)
        if wanted < 1:
            raise ConfigError(
                f"imbalance {ratio:g} would leave class {train.classes[c]!r} without points: the "
                f"largest class has {largest}. Ask for at most {largest}."
            )
        members = torch.nonzero(labels == c).squeeze(1)
        kept.append(members[torch.randperm(members.numel(), generator=generator)[:wanted]])
    stay = torch.cat(kept).sort().values
    return train.select(stay)


def wrong_labels(labels: Tensor, classes: int, share: float, generator: torch.Generator) -> Tensor:
    """Exchange a share of the labels for wrong ones, uniformly over the other classes.

    Args:
        labels: True classes `(n,)`, int64, on the CPU; left as they are.
        classes: Number of classes, at least 2.
        share: Share of the points that get a wrong label, 0 to 1, to the nearest point.
        generator: Draws the points and their labels, on the CPU.

    Returns:
        `(n,)` int64; `labels` itself if none is to be wrong.

    Raises:
        ConfigError: The share is not a share.

    Source: symmetric noise as in Zhang et al. 2017, section 2.2, but without the true label
    among those drawn: `share` of the labels are wrong, not fewer.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"label_noise must be in [0, 1], got {share:g}.")
    if share == 0:
        return labels
    noisy = labels.clone()
    struck = torch.randperm(labels.numel(), generator=generator)[: round(share * labels.numel())]
    shift = torch.randint(1, classes, struck.shape, generator=generator)
    noisy[struck] = (labels[struck] + shift) % classes
    return noisy
