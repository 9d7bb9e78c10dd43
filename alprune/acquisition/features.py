"""Features of images learnt without labels, for choosing points before there is a learner."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alprune.acquisition.distances import make_points
from alprune.acquisition.kmeans import k_means

_SIDE = 32  # larger images are averaged down to this many pixels a side
_PATCH = 6
_CHUNK = 64
_SAMPLE = 4000  # images that patches, filters and principal components are learnt from
_PATCHES = 10_000
_DICTIONARY = 128


def patch_features(x: Tensor, generator: torch.Generator, dimensions: int = 64) -> Tensor:
    """Describe images by how much they resemble a dictionary of their own patches, by quadrant.

    Patches of 6x6 pixels are brought to mean 0 and deviation 1, whitened, and clustered into a
    dictionary of 128. Every second patch of an image is compared with all entries (how much
    closer than on average it is to each), the outcome is averaged within the image's quadrants,
    and principal components of that are kept.

    Time O(n * patches an image * 128 * patch size); memory O(n * dimensions) and one chunk.

    Args:
        x: Images `(n, h, w, c)`, uint8 or float, n >= 2.
        generator: Draws the images and patches to learn from, and the dictionary, on the CPU.
        dimensions: Components to keep, at most.

    Returns:
        `(n, d)` float32 on the CPU, rows of length 1 (or 0), d <= `dimensions`.

    Source: Coates, Ng and Lee 2011, sections 3.1 and 3.2 (k-means, triangle).
    """
    some = torch.randperm(len(x), generator=generator)[:_SAMPLE].sort().values
    encoder = _Encoder(x, some, generator)
    sample = torch.cat([encoder(x[part]) for part in some.split(_CHUNK)])
    mean = sample.mean(0)
    spread = (sample - mean).T @ (sample - mean) / len(sample)
    components = torch.linalg.eigh(spread.double()).eigenvectors.flip(1)[:, :dimensions].float()
    rows = [(encoder(chunk) - mean) @ components for chunk in x.split(_CHUNK)]
    return F.normalize(torch.cat(rows), dim=1)


class _Encoder:
    """Turns images `(b, h, w, c)` into `(b, 4 * dictionary)` responses, float32."""

    def __init__(self, x: Tensor, some: Tensor, generator: torch.Generator) -> None:
        height, width = (min(side, _SIDE) for side in x.shape[1:3])
        self.size = height, width
        self.patch = min(_PATCH, height), min(_PATCH, width)
        each = math.ceil(_PATCHES / len(some))
        drawn = [self._draw(self._patches(x[part]), each, generator) for part in some.split(_CHUNK)]
        patches = torch.cat(drawn)  # (patches, pixels)
        # Without this a patch of one colour would be blown up to noise.
        self.floor = 0.0025 * float(patches.var()) + torch.finfo(torch.float32).tiny
        patches = self._normalised(patches)
        self.mean = patches.mean(0)
        spread = torch.cov((patches - self.mean).T.double()).reshape(2 * (patches.shape[1],))
        values, vectors = torch.linalg.eigh(spread)
        scale = (values.clamp_min(0) + 0.1).rsqrt()
        self.whitening = (vectors * scale @ vectors.T).float()
        white = (patches - self.mean) @ self.whitening
        self.dictionary = k_means(make_points(white), _DICTIONARY, generator, iterations=10)

    def __call__(self, x: Tensor) -> Tensor:
        patches = self._patches(x)  # (b, rows, columns, pixels)
        white = (self._normalised(patches) - self.mean) @ self.whitening
        # |z - d| for each entry d; what is nearer than on average counts by how much.
        squared = torch.addmm(
            self.dictionary.norms, white.flatten(0, 2), self.dictionary.rows.T, alpha=-2
        )
        squared += white.flatten(0, 2).square().sum(1, keepdim=True)
        distance = squared.clamp_min_(0).sqrt_()
        near = (distance.mean(1, keepdim=True) - distance).relu_()
        near = near.view(*patches.shape[:3], -1).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(near, 2).flatten(1)

    def _patches(self, x: Tensor) -> Tensor:
        images = x.permute(0, 3, 1, 2).float()
        if tuple(images.shape[2:]) != self.size:
            images = F.adaptive_avg_pool2d(images, self.size)
        high, wide = self.patch
        stride = 2 if min(self.size) >= 16 else 1
        patches = images.unfold(2, high, stride).unfold(3, wide, stride)  # (b, c, r, q, high, wide)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3)

    def _draw(self, patches: Tensor, each: int, generator: torch.Generator) -> Tensor:
        every = patches.flatten(0, 2)
        wanted = min(len(every), each * len(patches))
        return every[torch.randperm(len(every), generator=generator)[:wanted]]

    def _normalised(self, patches: Tensor) -> Tensor:
        centred = patches - patches.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.floor).sqrt()
