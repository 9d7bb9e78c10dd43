"""Resize images, also more than memory holds."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alprune.data.memmap import IN_MEMORY, parts, spool


def resize(x: Tensor, size: tuple[int, int] | None, in_memory: int = IN_MEMORY) -> Tensor:
    """Resize images `(n, h, w, c)` to `(n, *size, c)`, bilinear with antialiasing, type kept.

    A result of more than `in_memory` bytes, if it is on the CPU, is in a temporary file.

    Raises:
        DataError: The temporary file cannot be written.
    """
    if size is None or tuple(x.shape[1:3]) == tuple(size):
        return x
    shape = (len(x), *size, x.shape[3])
    resized = (_resized(x[part], size) for part in parts(x))
    if x.device.type == "cpu" and math.prod(shape) * x.element_size() > in_memory:
        return spool(resized, x.dtype, shape)
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    for part, images in zip(parts(x), resized, strict=True):
        out[part] = images
    return out


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    planes = x.permute(0, 3, 1, 2)
    return F.interpolate(planes, size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
