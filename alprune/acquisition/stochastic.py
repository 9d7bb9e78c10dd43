"""Batches sampled by score instead of taken from the top, so that they hold fewer near-doubles.

Each turns a score function into one that draws `count` points without replacement, by adding
Gumbel noise to a transform of the scores and taking the largest. Costs what the score costs and
O(n log n) time and O(n) memory beside, in float64 on the CPU.

Source: Kirsch et al. 2023, Stochastic Batch Acquisition, with their coldness beta = 1.
"""

import torch
from torch import Tensor

from alprune.acquisition.base import Acquisition, name_of, ranked, scores, wrap
from alprune.acquisition.evidence import Evidence
from alprune.errors import AcquisitionError


def power(score: Acquisition) -> Acquisition:
    """Sample in proportion to the score, which must not be negative; zeros come last.

    A score below zero by no more than rounding counts as zero.
    """

    def sampled(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        values = scores(score, evidence, count, generator).to("cpu", torch.float64)
        if values.min() < -1e-4:
            raise AcquisitionError(
                f"acquisition function {name_of(score)!r} scores down to {values.min():g}; "
                "sampling by power needs scores >= 0. Use softmax or softrank."
            )
        return values.clamp_min(torch.finfo(torch.float64).tiny).log() + _gumbel(values, generator)

    return _described("power", sampled, score, "in proportion to")


def softmax(score: Acquisition) -> Acquisition:
    """Sample in proportion to the exponential of the score."""

    def sampled(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        values = scores(score, evidence, count, generator).to("cpu", torch.float64)
        return values + _gumbel(values, generator)

    return _described("softmax", sampled, score, "by the softmax of")


def softrank(score: Acquisition) -> Acquisition:
    """Sample in proportion to 1 / rank, the highest score having rank 1; equals at random."""

    def sampled(evidence: Evidence, count: int, generator: torch.Generator) -> Tensor:
        values = scores(score, evidence, count, generator).to("cpu", torch.float64)
        order = ranked(values, generator)
        rank = torch.empty_like(values)
        rank[order] = torch.arange(1, values.numel() + 1, dtype=values.dtype)
        return _gumbel(values, generator) - rank.log()

    return _described("softrank", sampled, score, "by the rank of")


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, dtype=torch.float64, generator=generator)
    tiny = torch.finfo(torch.float64).tiny
    return -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()


def _described(kind: str, outer: Acquisition, inner: Acquisition, how: str) -> Acquisition:
    outer = wrap(kind, outer, inner)
    outer.__doc__ = f"Draw points {how} {name_of(inner).replace('_', ' ')} (Kirsch et al. 2023)."
    return outer
