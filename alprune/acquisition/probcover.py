"""ProbCover: balls around the acquired points that cover as many others as possible."""

import torch
from torch import Tensor

from alprune.acquisition.distances import Points, gather, pick
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import assign, k_means

# The share of balls that should hold points of one cluster only, and the balls looked at.
PURITY, SAMPLE = 0.95, 2048
# Distances are counted in squares of this side: on a CPU, 1 MiB in float32 to stay in its cache.
TILE, GPU_TILE = 512, 8192


def probcover(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire greedily the candidate whose ball covers the most uncovered candidates.

    Embeddings are scaled to length 1. The balls' radius is the largest at which 95% of them
    (of a sample of 2048) are pure: hold points of one k-means cluster only, with as many
    clusters as classes. Works without any labelled point.

    Computes: embeddings of the candidates and the labelled points.

    Time O(n (n + m) d) for n candidates, m labelled points and embeddings of d numbers,
    however many are acquired; memory O((n + m) d), a copy of the embeddings: the graph of who
    covers whom is counted in blocks and never kept.

    Returns:
        `(count,)` absolute indices; ties, and all once everything is covered, are random.

    Raises:
        AcquisitionError: An embedding is not finite.

    Source: Yehuda et al. 2022, algorithm 1, and section 3.3 for the radius.
    """
    points, labelled = gather(evidence, unit=True)
    groups = assign(points, k_means(points, max(2, evidence.classes), generator).rows)
    limit = squared_radius(points, groups, generator)
    chosen = cover(points[labelled:], points[:labelled], limit, count, generator)
    return pick(evidence, chosen)


def squared_radius(
    points: Points,
    groups: Tensor,
    generator: torch.Generator,
    purity: float = PURITY,
    sample: int = SAMPLE,
) -> float:
    """Find the largest radius at which a share `purity` of open balls holds one group only.

    A ball is pure up to the distance of the nearest point of another group, so the radius is a
    quantile of those distances.

    Args:
        points: Centres and contents of the balls, `(n, d)`.
        groups: Cluster or label of each, `(n,)`.
        generator: Draws the centres where there are more than `sample`.
        purity: Share of pure balls, 0 to 1.
        sample: Balls looked at.

    Returns:
        The squared radius; inf if there is one group only.
    """
    order = torch.randperm(len(points), generator=generator, device=generator.device)
    centres = order[:sample].to(points.norms.device)
    pure = torch.empty(len(centres), dtype=points.norms.dtype, device=points.norms.device)
    for part, squared in points[centres].blocks(points):
        own = groups[centres[part], None] == groups
        pure[part] = squared.masked_fill_(own, torch.inf).amin(1)
    impure = int((1 - purity) * len(centres) + 1e-9)
    return float(pure.sort().values[min(impure, len(centres) - 1)])


def cover(
    points: Points, centres: Points, limit: float, count: int, generator: torch.Generator
) -> Tensor:
    """Choose points, each covering the most points that neither centres nor choices cover.

    A point covers those at a squared distance below `limit`. Its uncovered neighbours are
    counted once; each time points become covered, their neighbours' counts are lowered.

    Args:
        points: To choose from and to cover, `(n, d)`.
        centres: They cover already, `(m, d)`.
        limit: Squared radius.
        count: Points wanted.
        generator: Breaks ties.

    Returns:
        `(min(count, n),)` distinct positions.
    """
    open_ = points.nearest(centres) >= limit
    if 2 * int(open_.sum()) > len(points):
        gain = _degrees(points, limit) - _neighbours(points, points[~open_], limit)
    else:
        gain = _neighbours(points, points[open_], limit)
    chosen = []
    for _ in range(min(count, len(points))):
        best = _any_of(gain == gain.max(), generator)
        chosen.append(best)
        newly = open_ & (points.to(points[best])[:, 0] < limit)
        gain -= _neighbours(points, points[newly], limit)
        gain[best] = -len(points) - 1
        open_ &= ~newly
    return torch.cat(chosen)


def _degrees(points: Points, limit: float) -> Tensor:
    """Count the points within reach of each point, itself included: `(n,)` int64."""
    counts = torch.zeros(len(points), dtype=torch.int64, device=points.norms.device)
    tiles = _tiles(points)
    for number, rows in enumerate(tiles):
        counts[rows] += _reach(points[rows], points[rows], limit).sum(1).long()
        for columns in tiles[number + 1 :]:  # distances are symmetric: half the products do
            reach = _reach(points[rows], points[columns], limit)
            counts[rows] += reach.sum(1).long()
            counts[columns] += reach.sum(0).long()
    return counts


def _neighbours(points: Points, others: Points, limit: float) -> Tensor:
    """Count the others within reach of each point, `(n,)` int64."""
    counts = torch.zeros(len(points), dtype=torch.int64, device=points.norms.device)
    for columns in _tiles(others):
        for rows in _tiles(points):
            counts[rows] += _reach(points[rows], others[columns], limit).sum(1).long()
    return counts


def _tiles(points: Points) -> list[slice]:
    side = TILE if points.norms.device.type == "cpu" else GPU_TILE
    return [slice(begin, begin + side) for begin in range(0, len(points), side)]


def _reach(points: Points, others: Points, limit: float) -> Tensor:
    """Return 1.0 where a squared distance is below the limit and 0.0 elsewhere, `(n, m)`."""
    # |y|^2 / 2 - x.y < (limit - |x|^2) / 2, in place: this is where the time goes.
    half = torch.addmm(others.norms / 2, points.rows, others.rows.T, alpha=-1)
    return half.lt_((limit - points.norms[:, None]) / 2)


def _any_of(mask: Tensor, generator: torch.Generator) -> Tensor:
    positions = mask.nonzero()[:, 0]
    drawn = torch.randint(len(positions), (1,), generator=generator, device=generator.device)
    return positions[drawn.to(positions.device)]
