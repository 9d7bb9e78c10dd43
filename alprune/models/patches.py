"""A shallow network whose filters are typical patches of the images: for few labels."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

_SIDE, _STRIDE, _GRID = 6, 2, 3  # pixels of a patch, between patches; cells a side
_THRESHOLD = 0.5  # of a response, in deviations
_FLAT = 0.05  # variance below which a patch's contrast is not raised, of that of all images
_PATCHES, _ROUNDS = 30_000, 10  # that filters are found from; of k-means
_NOISE = 0.1  # variance added before whitening, of the mean of all directions
_SCALE = 10.0  # squared length of the features, at which usual learning rates serve


class PatchNetwork(nn.Module):
    """Responses to filters at every place, averaged over the cells of a grid, and a linear layer.

    Each patch is brought to the same contrast first, and each filter responds to its pattern and,
    in another channel, to the negative of it.

    Args:
        channels: Of the images.
        classes: Outputs.
        filters: Number of filters.
    """

    def __init__(self, channels: int, classes: int, filters: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, _SIDE, _STRIDE, bias=False)
        self.bn = nn.BatchNorm2d(2 * filters)
        self.fc = nn.Linear(2 * filters * _GRID**2, classes)
        self.scale = (_SCALE / self.fc.in_features) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, c, h, w)` to logits `(b, classes)`."""
        response = self.conv(x) * _contrast(x)
        signs = (response - _THRESHOLD).relu(), (-response - _THRESHOLD).relu()
        cells = torch.cat([F.adaptive_avg_pool2d(sign, _GRID) for sign in signs], 1)
        features = self.bn((cells + 1e-4).sqrt()) * self.scale
        return self.fc(features.flatten(1))

    @torch.no_grad()
    def start_from_images(self, images: Tensor, generator: Generator) -> None:
        """Set the filters to typical patches of images, by k-means on whitened patches.

        Args:
            images: Normalised, `(n, c, h, w)`, on the CPU; labels are not needed.
            generator: On the CPU.

        Source: Coates and Ng 2012, "Learning feature representations with k-means".
        """
        patches = _patches(images, generator)
        patches = patches - patches.mean(1, keepdim=True)
        values, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        gain = (values.clamp(min=0) + _NOISE * values.mean() + 1e-12).rsqrt()
        whitening = directions * gain @ directions.T
        centres = _centres(
            F.normalize(patches @ whitening, dim=1), len(self.conv.weight), generator
        )
        filters = centres @ whitening
        filters = (filters - filters.mean(1, keepdim=True)).view_as(self.conv.weight)
        sample = images[:100]
        response = F.conv2d(sample, filters, stride=_STRIDE) * _contrast(sample)
        self.conv.weight.copy_(filters / (response.square().mean().sqrt() + 1e-12))


def _contrast(x: Tensor) -> Tensor:
    """Return the factor that brings each patch to unit variance, `(b, 1, h', w')`."""
    mean = F.avg_pool2d(x.mean(1, keepdim=True), _SIDE, _STRIDE)
    square = F.avg_pool2d(x.square().mean(1, keepdim=True), _SIDE, _STRIDE)
    return ((square - mean.square()).clamp(min=0) + _FLAT).rsqrt()


def _patches(images: Tensor, generator: Generator) -> Tensor:
    """Cut patches of equal contrast out of images at random, `(k, c * side * side)`."""
    windows = images.unfold(2, _SIDE, 1).unfold(3, _SIDE, 1)  # (n, c, rows, columns, side, side)
    n, _, rows, columns = windows.shape[:4]
    count = min(_PATCHES, n * rows * columns)
    at = (torch.randint(most, (count,), generator=generator) for most in (n, rows, columns))
    image, row, column = at
    cut = windows[image, :, row, column].flatten(1)
    return cut * (cut.var(1, correction=0, keepdim=True) + _FLAT).rsqrt()


def _centres(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Find directions `(count, d)` of unit length that points `(n, d)` lie along, either way."""
    order = torch.randperm(len(points), generator=generator)
    centres = points[order[torch.arange(count) % len(points)]]
    for _ in range(_ROUNDS):
        near = points @ centres.T
        best = near.abs().argmax(1)
        signed = points * near.gather(1, best[:, None]).sign()
        sums = torch.zeros_like(centres).index_add_(0, best, signed)
        centres = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), centres)
    return centres


def patches(classes: int, input_shape: tuple[int, int, int]) -> PatchNetwork:
    """256 filters of 6 x 6 pixels, taken from the images, over a grid of 3 x 3 cells.

    At 3x32x32 and 10 classes: 74,762 parameters, 5,465,088 multiply-accumulates. Takes
    `(b, c, h, w)` with h, w >= 10.

    Source: Coates and Ng 2012; two signs and the square root of the means are ours.
    """
    return PatchNetwork(input_shape[0], classes, filters=256)
