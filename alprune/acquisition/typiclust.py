"""TypiClust: the most typical point of each cluster that has the fewest labels."""

from collections import deque

import torch
from torch import Tensor

from alprune.acquisition.distances import Points, gather, pick
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import assign, k_means

CLUSTERS, NEIGHBOURS = 500, 20
# Clusters of this many points or fewer come last: they are outliers.
SMALL = 5
# Pairs of points looked at a visit, beyond which only a random part of the cluster is judged, by
# all its points; and the smallest such part.
PAIRS, PART = 2**25, 256


def typiclust(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire the most typical candidate of each large cluster with few labelled points.

    Embeddings are scaled to length 1, those of labelled points and candidates are clustered by
    k-means into min(m + count, 500) clusters, and the clusters are visited by (fewest labelled
    points, then most points). Works without any labelled point.

    Computes: embeddings of the candidates and the labelled points.

    Time O((n + m) k d) for n candidates, m labelled points, k clusters and embeddings of d
    numbers, and O(s^2 d) a visit to a cluster of s candidates, of which a random part is judged
    where s^2 is above 2^25; memory O((n + m) d), a copy of the embeddings.

    Returns:
        `(count,)` absolute indices.

    Raises:
        AcquisitionError: An embedding is not finite.

    Source: Hacohen et al. 2022, algorithm 1, with the constants of the authors' code (500
    clusters, 20 neighbours, clusters of 5 and fewer left out).
    """
    points, labelled = gather(evidence, unit=True)
    clusters = min(labelled + count, CLUSTERS)
    groups = assign(points, k_means(points, clusters, generator).rows)
    known = groups[:labelled].bincount(minlength=clusters)
    chosen = typical(points[labelled:], groups[labelled:], known, count, generator)
    return pick(evidence, chosen)


def typical(
    points: Points,
    groups: Tensor,
    labelled: Tensor,
    count: int,
    generator: torch.Generator,
    neighbours: int = NEIGHBOURS,
) -> Tensor:
    """Choose the most typical remaining point of one cluster after the other, in rounds.

    Args:
        points: To choose from, `(n, d)`.
        groups: Their clusters, `(n,)`, from 0 to k - 1.
        labelled: Labelled points of each cluster, beside `points`, `(k,)`.
        count: Points wanted.
        generator: Draws the points that are judged in a cluster of more than 5792.
        neighbours: Nearest points whose mean distance is the inverse of typicality; half of the
            cluster's remaining points if these are fewer.

    Returns:
        `(min(count, n),)` distinct positions: clusters of more than 5 points until they are
        empty, then the others.
    """
    sizes = groups.bincount(minlength=len(labelled))
    members = list(groups.argsort(stable=True).split(sizes.tolist()))
    known, total = labelled.tolist(), (sizes + labelled).tolist()
    ranking = sorted(range(len(members)), key=lambda k: (known[k], -total[k]))
    chosen: list[Tensor] = []
    for small in (False, True):
        waiting = deque(k for k in ranking if (total[k] <= SMALL) == small and len(members[k]))
        while waiting and len(chosen) < count:
            cluster = waiting.popleft()
            rest = members[cluster]
            best = most_typical(points[rest], neighbours, generator)
            chosen.append(rest[best])
            members[cluster] = torch.cat([rest[:best], rest[best + 1 :]])
            if len(rest) > 1:
                waiting.append(cluster)
    return torch.stack(chosen)


def most_typical(points: Points, neighbours: int, generator: torch.Generator) -> int:
    """Return the position of the point with the least mean distance to its nearest neighbours."""
    nearest = min(neighbours, len(points) // 2)
    if not nearest:
        return 0
    judged = torch.arange(len(points))
    if len(points) ** 2 > PAIRS:
        order = torch.randperm(len(points), generator=generator, device=generator.device)
        judged = order[: max(PART, PAIRS // len(points))]
    judged = judged.to(points.norms.device)
    distance = torch.empty(len(judged), dtype=points.norms.dtype, device=judged.device)
    for part, squared in points[judged].blocks(points):
        squared.scatter_(1, judged[part, None], torch.inf)  # nobody is his own neighbour
        distance[part] = _smallest(squared, nearest).sqrt().mean(1)
    return int(judged[distance.argmin()])


def _smallest(values: Tensor, count: int) -> Tensor:
    """Return the smallest of each row in any order, `(n, count)`; may reorder the rows."""
    if values.device.type == "cpu":  # NumPy's selection takes half of topk's time there
        values.numpy().partition(count - 1, axis=1)
        return values[:, :count]
    return values.topk(count, largest=False, sorted=False).values
