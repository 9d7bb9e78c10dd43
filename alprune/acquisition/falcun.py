"""Falcun: uncertain points with unlike predictions, from probabilities alone."""

import torch
from torch import Tensor

from alprune.acquisition.distances import check_finite, pick
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import draw

# The paper's default: the larger, the less is left to chance.
GAMMA = 10.0


def falcun(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire at random by margin uncertainty plus distance to the predictions acquired.

    Computes: probabilities of the candidates.

    Time O(n classes count) for n candidates; memory O(n classes).

    Returns:
        `(count,)` absolute indices.

    Raises:
        AcquisitionError: A probability is not finite.

    Source: Gilhuber et al. 2024, section 3.
    """
    check_finite(evidence.probabilities, "probabilities")
    return pick(evidence, contrastive(evidence.probabilities, count, generator))


def contrastive(
    probabilities: Tensor, count: int, generator: torch.Generator, gamma: float = GAMMA
) -> Tensor:
    """Draw positions with probability proportional to (uncertainty + distance)^gamma.

    Uncertainty is one minus the difference of the two likeliest classes. Distance is the
    uncertainty at first, then the smallest of it and the L1 distances to the predictions drawn,
    scaled to 0..1 over the points left.

    Args:
        probabilities: `(n, classes)`.
        count: Points wanted.
        generator: Draws them.
        gamma: 0 draws uniformly; a large one takes the largest.

    Returns:
        `(min(count, n),)` distinct positions; uniform where every relevance is 0.
    """
    top = probabilities.topk(2, dim=1).values
    uncertainty = 1 - (top[:, 0] - top[:, 1])
    distance = uncertainty.clone()
    tiny = torch.finfo(distance.dtype).tiny
    left = torch.ones_like(uncertainty, dtype=torch.bool)
    chosen: list[Tensor] = []
    for _ in range(min(count, len(probabilities))):
        low, high = distance[left].aminmax()
        scaled = (distance - low) / (high - low).clamp_min(tiny)
        relevance = (uncertainty + scaled).clamp_min_(0).mul_(left)
        relevance /= relevance.max().clamp_min(tiny)  # or a large power would overflow
        drawn = draw(relevance.pow_(gamma).mul_(left), generator)
        if drawn is None:
            drawn = draw(left.float(), generator)
            assert drawn is not None  # the loop ends before nothing is left
        chosen.append(drawn)
        left[drawn] = False
        new = torch.cdist(probabilities, probabilities[drawn], p=1)[:, 0]
        torch.minimum(distance, new, out=distance)
    return torch.cat(chosen)
