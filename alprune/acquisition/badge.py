"""BADGE: points whose gradients at the last layer are large and point in different directions."""

import torch
from torch import Tensor

from alprune.acquisition.distances import check_finite, make_points, pick
from alprune.acquisition.evidence import Evidence
from alprune.acquisition.kmeans import seeds


def badge(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Acquire by k-means++ seeding among the gradients of the last layer's weights.

    The gradient of candidate i, with its likeliest class taken for its label, is the outer
    product of `a_i = p_i - onehot(argmax p_i)` and its embedding.

    Computes: probabilities and embeddings of the candidates.

    Time O(n (classes + d) count) for n candidates and embeddings of d numbers; memory
    O(n classes) beside the evidence: the gradients themselves, n classes d, are never made.

    Returns:
        `(count,)` absolute indices; the first has the largest gradient, as in the authors'
        code, and the others are drawn.

    Raises:
        AcquisitionError: A probability or an embedding is not finite.

    Source: Ash et al. 2020, algorithm 1.
    """
    errors, embeddings = evidence.gradient_factors
    return pick(evidence, gradient_seeds(errors, embeddings, count, generator))


def gradient_seeds(
    errors: Tensor, embeddings: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Choose by k-means++ among outer products, from their factors.

    `|a b' - c d'|^2 = |a|^2 |b|^2 + |c|^2 |d|^2 - 2 (a.c)(b.d)`, a and c being errors, b and d
    embeddings.

    Args:
        errors: `(n, classes)`.
        embeddings: `(n, d)`.
        count: Points wanted.
        generator: Draws all but the first.

    Returns:
        `(min(count, n),)` distinct positions. Once every gradient coincides with a chosen one
        the rest is uniform.
    """
    count = min(count, len(errors))
    left, right = make_points(errors, "probabilities"), make_points(embeddings, "embeddings")
    norms = left.norms * right.norms
    check_finite(norms, "gradients")

    def squared_to(at: Tensor) -> Tensor:
        scale = norms + norms[at]
        product = torch.mv(errors, errors[at][0]).mul_(torch.mv(embeddings, embeddings[at][0]))
        squared = torch.add(scale, product, alpha=-2)
        rounding = 32 * torch.finfo(squared.dtype).eps
        return squared.masked_fill_(squared <= scale.mul_(rounding), 0)

    chosen = seeds(squared_to, norms.argmax(0, keepdim=True), count, generator)
    return torch.cat([chosen, _others(chosen, len(errors), count - len(chosen), generator)])


def _others(chosen: Tensor, total: int, count: int, generator: torch.Generator) -> Tensor:
    if not count:
        return chosen[:0]
    order = torch.randperm(total, generator=generator, device=generator.device).to(chosen.device)
    return order[~torch.isin(order, chosen)][:count]
