"""Uncertain points of different clusters: CLUE and cluster-margin."""

from collections import deque

import torch
from torch import Tensor

from alprune.acquisition.distances import Points, check_finite, gather, make_points, pick
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import k_means

# Low-margin candidates a point acquired, and at most; average linkage needs their square.
MARGIN_FACTOR, MARGIN_LIMIT = 10, 4096
# Points a cluster, on average.
CLUSTER_SIZE = 10


def clue(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire the candidates nearest to the means of entropy-weighted k-means clusters.

    Computes: probabilities and embeddings of the candidates.

    Time O(n (classes + count d)) an iteration of k-means for n candidates and embeddings of d
    numbers; memory O((n + count) d), a copy of the embeddings.

    Returns:
        `(count,)` absolute indices. Of two means with the same nearest candidate the second
        takes its next nearest; if there are fewer distinct candidates than `count`, the most
        uncertain of the others follow.

    Raises:
        AcquisitionError: A probability or an embedding is not finite.

    Source: Prabhu et al. 2021, section 3.2, at softmax temperature 1.
    """
    points, _ = gather(evidence, labelled=False)
    check_finite(evidence.probabilities, "probabilities")
    uncertainty = torch.special.entr(evidence.probabilities).sum(1)
    means = k_means(points, count, generator, uncertainty)
    chosen = nearest_distinct(points, means)
    uncertainty[chosen] = -1
    others = uncertainty.topk(min(count, len(points)) - len(chosen)).indices
    return pick(evidence, torch.cat([chosen, others]))


def nearest_distinct(points: Points, centres: Points) -> Tensor:
    """Choose for each centre in turn the nearest point that no centre before it has taken.

    Args:
        points: `(n, d)`.
        centres: `(k, d)`, k <= n.

    Returns:
        `(k,)` distinct positions.
    """
    nearest = torch.cat([squared.argmin(1) for _, squared in centres.blocks(points)])
    taken = torch.zeros(len(points), dtype=torch.bool, device=nearest.device)
    for centre in range(len(centres)):
        if taken[nearest[centre]]:
            squared = points.to(centres[centre : centre + 1])[:, 0]
            nearest[centre] = squared.masked_fill_(taken, torch.inf).argmin()
        taken[nearest[centre]] = True
    return nearest


def cluster_margin(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire in turn from the clusters of the candidates with the lowest margins.

    The 10 count candidates (at most 4096, at least count) whose two likeliest classes are
    closest are clustered by average linkage into a tenth as many clusters; these are visited in
    rounds from the smallest to the largest, a random candidate at each visit. The source
    clusters the whole pool once, with the first learner's embeddings; here only the low-margin
    candidates are clustered, with the present ones, so that nothing grows with the pool.

    Computes: probabilities and embeddings of the candidates.

    Time O(n classes + s^2 d) for n candidates, s = 10 count and embeddings of d numbers; memory
    O(n + s^2), some 0.5 GB at s = 4096.

    Returns:
        `(count,)` absolute indices.

    Raises:
        AcquisitionError: A probability or an embedding is not finite.

    Source: Citovsky et al. 2021, algorithms 1 and 2, with its factor of 10 and its 10 points a
    cluster.
    """
    embeddings = evidence.embeddings  # first: the probabilities come with them
    check_finite(evidence.probabilities, "probabilities")
    top = evidence.probabilities.topk(2, dim=1).values
    size = max(count, min(MARGIN_FACTOR * count, MARGIN_LIMIT, len(top)))
    lowest = (top[:, 0] - top[:, 1]).topk(size, largest=False).indices
    if size == count:
        return pick(evidence, lowest)
    points = make_points(embeddings[lowest])
    groups = average_linkage(points, max(1, size // CLUSTER_SIZE))
    return pick(evidence, lowest[round_robin(groups, count, generator).to(lowest.device)])


def average_linkage(points: Points, clusters: int) -> Tensor:
    """Cluster by average linkage of Euclidean distances: `(n,)` int64 on the CPU, n > 1."""
    from sklearn.cluster import AgglomerativeClustering  # slow to import, and only needed here

    rows = points.rows - points.rows.mean(0)
    centred = make_points(rows)
    distances = centred.to(centred).sqrt_().cpu().numpy()
    linkage = AgglomerativeClustering(clusters, metric="precomputed", linkage="average")
    return torch.from_numpy(linkage.fit_predict(distances)).long()


def round_robin(groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw one member of each group in turn, from the smallest group to the largest, in rounds.

    Args:
        groups: `(n,)` int64 on the CPU.
        count: Members wanted.
        generator: Draws them.

    Returns:
        `(min(count, n),)` distinct positions.
    """
    order = torch.randperm(len(groups), generator=generator, device=generator.device).cpu()
    members: dict[int, list[int]] = {}
    for position, group in zip(order.tolist(), groups[order].tolist(), strict=True):
        members.setdefault(group, []).append(position)
    waiting = deque(sorted(members.values(), key=len))
    chosen: list[int] = []
    while waiting and len(chosen) < count:
        group = waiting.popleft()
        chosen.append(group.pop())
        if group:
            waiting.append(group)
    return torch.tensor(chosen)
