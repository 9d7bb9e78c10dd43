"""What the values of images say: mean and deviation, and whether two sets are in one unit."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alprune.data.memmap import rows_at_once

_STATISTICS_SAMPLE = 10_000  # images that mean and std are taken from, at most
_UNITS = 4.0  # times the deviation; more is hardly the same unit
_FEW = 10  # images whose values say little


def channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of images `(n, h, w, c)`.

    Units are those of `x / 255` for uint8 and of `x` for float. A channel that never changes gets
    a standard deviation of 1, so that normalising makes it zero.
    """
    taken = min(len(x), _STATISTICS_SAMPLE)
    rows = torch.arange(taken, device=x.device) * len(x) // taken
    # Few at a time: of a file the system also maps what surrounds each image.
    few = rows.split(-(-rows_at_once(x) // 16))
    is_bytes = x.dtype == torch.uint8
    mean, std = (_of_bytes if is_bytes else _of_floats)(x, few)
    unit = 255.0 if is_bytes else 1.0
    # Rounding alone gives a constant channel a tiny deviation: compare with the channel's size.
    constant = std <= 1e-7 * mean.abs()
    std = torch.where(constant, unit, std)
    return tuple((mean / unit).tolist()), tuple((std / unit).tolist())


def _of_bytes(x: Tensor, samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, by counting each value."""
    counts = torch.zeros(x.shape[3], 256, dtype=torch.float64, device=x.device)
    for some in samples:
        for count, values in zip(counts, x[some].flatten(0, 2).T, strict=True):
            count += torch.bincount(values.contiguous(), minlength=256)
    value = torch.arange(256, dtype=torch.float64, device=x.device)
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ value
    return mean, (shares * (value - mean[:, None]).square_()).sum(1).sqrt()


def _of_floats(x: Tensor, samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, in two passes."""
    zero = torch.zeros(x.shape[3], dtype=torch.float64, device=x.device)
    count = sum(map(len, samples)) * x.shape[1] * x.shape[2]

    def mean_of(value: Callable[[Tensor], Tensor]) -> Tensor:
        """Average over all pixels of the sample what `value` makes of `(pixels, c)` of them."""
        pixels = (x[some].flatten(0, 2).double() for some in samples)
        return sum((value(part).sum(0) for part in pixels), zero) / count

    mean = mean_of(lambda pixels: pixels)
    return mean, mean_of(lambda pixels: (pixels - mean).square_()).sqrt()


def warn_of_units(what: str, x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Warn if images are hardly in the unit of the training images.

    Args:
        what: Name of the images.
        x: Images `(n, h, w, c)`.
        mean: Of the training images, each channel, as of `channel_statistics`.
        std: Their standard deviation.
    """
    if len(x) < _FEW or x.shape[3] != len(mean):
        return
    here, there = ([sum(v) / len(v) for v in some] for some in (channel_statistics(x), (mean, std)))
    ratio, away = here[1] / there[1], abs(here[0] - there[0]) / there[1]
    if 1 / _UNITS < ratio < _UNITS and away < _UNITS:
        return
    unit = 255.0 if x.dtype == torch.uint8 else 1.0
    low, high = _extremes(x)
    warnings.warn(
        f"{what} have values of {low:g} to {high:g}, and training images a mean of "
        f"{there[0] * unit:.3g} and a deviation of {there[1] * unit:.3g}, as if these were in "
        "another unit: accuracy would mean nothing. Scale both alike.",
        stacklevel=4,
    )


def _extremes(x: Tensor) -> tuple[float, float]:
    taken = min(len(x), _STATISTICS_SAMPLE)
    some = x[torch.arange(taken, device=x.device) * len(x) // taken]
    return float(some.min()), float(some.max())
