"""A network that sees images smaller than they are stored."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Resize(nn.Module):
    """Resizes normalised images as stored ones are resized, but for the rounding.

    Args:
        size: Their `(h, w)` afterwards.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return images `(b, c, *size)` of images `(b, c, h, w)`."""
        if tuple(images.shape[2:]) == self._size:
            return images
        small = F.interpolate(images.float(), self._size, mode="bilinear", antialias=True)
        return small.to(images.dtype).contiguous(memory_format=torch.channels_last)


def seeing(network: nn.Module, size: tuple[int, int]) -> nn.Sequential:
    """Return a network that resizes its images to `(h, w)` first; it shares all parameters."""
    return nn.Sequential(Resize(size), network)
