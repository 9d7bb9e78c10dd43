"""The core set: candidates that leave no point far from a labelled one."""

import torch
from torch import Tensor

from alprune.acquisition.distances import Points, gather, pick
from alprune.acquisition.evidence import Evidence


def k_center(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire greedily the candidate farthest from all labelled and acquired points.

    Computes: embeddings of the candidates and the labelled points.

    Time O(n d (m + count)) for n candidates, m labelled points and embeddings of d numbers;
    memory O(n d), a copy of the embeddings.

    Returns:
        `(count,)` absolute indices, farthest first.

    Raises:
        AcquisitionError: An embedding is not finite.

    Source: Sener and Savarese 2018, algorithm 1 (k-center-greedy, within twice the optimum).
    """
    points, labelled = gather(evidence)
    chosen = farthest_first(points[labelled:], points[:labelled], count, generator)
    return pick(evidence, chosen)


def farthest_first(
    points: Points, centres: Points, count: int, generator: torch.Generator
) -> Tensor:
    """Choose points, each the farthest from the centres and from those chosen before.

    Args:
        points: To choose from, `(n, d)`.
        centres: Covered already, `(m, d)`; if there are none the first choice is random.
        count: Points wanted; all, in this order, if there are fewer.
        generator: Draws the first choice where there are no centres.

    Returns:
        `(min(count, n),)` positions; of equally far points the first.
    """
    count = min(count, len(points))
    nearest = points.nearest(centres)
    farthest = nearest.argmax(0, keepdim=True)
    if not len(centres):
        farthest = torch.randint(len(points), (1,), generator=generator, device=generator.device)
    chosen = []
    for _ in range(count):
        chosen.append(farthest.to(nearest.device))
        torch.minimum(nearest, points.to(points[chosen[-1]])[:, 0], out=nearest)
        nearest[chosen[-1]] = -1
        farthest = nearest.argmax(0, keepdim=True)
    return torch.cat(chosen)
