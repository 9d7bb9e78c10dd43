"""k-means++ seeding and Lloyd's k-means in blocks, weighted, repeatable from a generator."""

from collections.abc import Callable

import torch
from torch import Tensor

from alprune.acquisition.distances import Points

# A fit looks at this many points a cluster, and seeds from this many: more add little.
FIT_POINTS, SEED_POINTS = 256, 32


def draw(weights: Tensor, generator: torch.Generator) -> Tensor | None:
    """Draw one position with probability in proportion to its weight, by inversion in float64.

    Args:
        weights: `(n,)`, finite, >= 0.
        generator: On any device.

    Returns:
        `(1,)` position on the weights' device; None if all weights are 0.
    """
    upto = weights.cumsum(0, dtype=torch.float64)
    if not upto[-1] > 0:
        return None
    share = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64)
    drawn = torch.searchsorted(upto, share.to(upto.device) * upto[-1], right=True)
    return drawn.clamp_max_(len(weights) - 1)


def seeds(
    squared_to: Callable[[Tensor], Tensor],
    first: Tensor,
    count: int,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> Tensor:
    """Choose positions by k-means++: each drawn by its squared distance to the nearest chosen.

    Args:
        squared_to: Maps a position `(1,)` to the squared distances of all points to it, `(n,)`.
        first: The first position, `(1,)`.
        count: Positions wanted.
        generator: Draws the others.
        weights: Factors on the squared distances, `(n,)`; 1 if None.

    Returns:
        `(k,)` distinct positions, 1 <= k <= count: fewer if every point of positive weight
        coincides with a chosen one.

    Source: Arthur and Vassilvitskii 2007, section 2.2.
    """
    chosen = [first]
    nearest = squared_to(first)
    nearest[first] = 0
    while len(chosen) < count:
        drawn = draw(nearest if weights is None else nearest * weights, generator)
        if drawn is None:
            break
        chosen.append(drawn)
        torch.minimum(nearest, squared_to(drawn), out=nearest)
        nearest[drawn] = 0
    return torch.cat(chosen)


def k_means(
    points: Points,
    count: int,
    generator: torch.Generator,
    weights: Tensor | None = None,
    iterations: int = 25,
) -> Points:
    """Cluster points by Lloyd's algorithm from k-means++ seeds.

    Time O(min(n, 256 count) count d) an iteration; memory O(count d) and one block beside the
    points (and a copy of 256 count of them if there are more).

    Args:
        points: Centred, `(n, d)`, n > 0. Above 256 a cluster a random part of them is used.
        count: Clusters wanted.
        generator: Draws that part and the seeds.
        weights: Of the points, `(n,)`, >= 0; equal if None or all 0.
        iterations: At most this many; it ends earlier once the centres' squared movement is
            below 1e-4 of a coordinate's variance.

    Returns:
        The centres, `(k, d)`, k <= count: fewer if there are fewer distinct points.

    Source: Lloyd 1982.
    """
    if weights is None or not weights.any():
        weights = torch.ones_like(points.norms)
    heavy = weights.nonzero()[:, 0]
    order = torch.randperm(len(heavy), generator=generator, device=generator.device)
    heavy = heavy[order[: FIT_POINTS * count].to(heavy.device)]
    some = heavy[: SEED_POINTS * count]
    start = _seed(points[some], weights[some], count, generator)
    if len(heavy) < len(points):
        points, weights = points[heavy], weights[heavy]
    return lloyd(points, start, weights, iterations)


def _seed(points: Points, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    first = draw(weights, generator)
    assert first is not None  # every weight is positive
    chosen = seeds(lambda at: points.to(points[at])[:, 0], first, count, generator, weights)
    return points.rows[chosen]


def lloyd(points: Points, centres: Tensor, weights: Tensor, iterations: int) -> Points:
    """Move centres to the weighted means of the points nearest to them, until they rest.

    Args:
        points: Centred, `(n, d)`.
        centres: Where to start, `(k, d)`; one without points stays where it is.
        weights: Of the points, `(n,)`.
        iterations: At most this many.

    Returns:
        The centres, `(k, d)`.
    """
    rest = 1e-4 * float(points.norms.mean()) / points.rows.shape[1]
    for _ in range(iterations):
        sums, mass = torch.zeros_like(centres), centres.new_zeros(len(centres))
        groups = assign(points, centres)
        for part in points.parts(points.rows.shape[1]):
            sums.index_add_(0, groups[part], points.rows[part] * weights[part, None])
            mass.index_add_(0, groups[part], weights[part])
        moved = torch.where(mass[:, None] > 0, sums / mass[:, None], centres)
        shift = (moved - centres).square().sum()
        centres = moved
        if shift <= rest:
            break
    return Points(centres, centres.square().sum(1))


def assign(points: Points, centres: Tensor) -> Tensor:
    """Return the nearest centre of each point, `(n,)` int64; of equally near ones the first."""
    half = centres.square().sum(1) / 2
    groups = torch.empty(len(points), dtype=torch.int64, device=centres.device)
    for part in points.parts(len(centres)):
        groups[part] = torch.addmm(half, points.rows[part], centres.T, alpha=-1).argmin(1)
    return groups
