"""Acquisition by the uncertainty of the softmax: one score a candidate, larger is acquired.

Each costs one pass over the candidates, O(n classes) time and O(n) memory beside.
"""

import torch
from torch import Tensor

from alprune.acquisition.evidence import Evidence


def random(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Draw candidates uniformly; the learner computes nothing.

    Returns:
        `(count,)` absolute indices.
    """
    order = torch.randperm(evidence.candidates.numel(), generator=generator)
    return evidence.candidates[order[:count]]


def entropy(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by the entropy of the softmax, `-sum_i p_i log p_i`, in nats.

    Returns:
        `(n,)` scores.

    Source: van Amersfoort et al. 2020, appendix C.
    """
    return evidence.score(lambda probabilities: torch.special.entr(probabilities).sum(1))


def margin(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by how close the two likeliest classes are: minus their difference.

    Returns:
        `(n,)` scores, <= 0.

    Source: Scheffer et al. 2001.
    """

    def closeness(probabilities: Tensor) -> Tensor:
        top = probabilities.topk(2, dim=1).values
        return top[:, 1] - top[:, 0]

    return evidence.score(closeness)


def least_confidence(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
    """Score by one minus the likeliest class's probability.

    Returns:
        `(n,)` scores.

    Source: Lewis and Gale 1994.
    """
    return evidence.score(lambda probabilities: 1 - probabilities.max(1).values)
