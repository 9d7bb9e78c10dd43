"""When pruning may begin: the structure of a sub-network, how it moves, and how fast to cut.

Source: "When to Prune" (Shen et al. 2022), equations 4 to 6 and algorithms 1 and 2; what the
paper leaves open is settled in `alprune.pruning.epi`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from alprune.pruning.graph.channels import ChannelGraph


def structure(graph: ChannelGraph, keep: Tensor) -> Tensor:
    """Count the channels that each group keeps.

    Args:
        graph: The channels.
        keep: `(N,)` bool.

    Returns:
        `(groups,)` int64, with `sum = keep.sum()`.
    """
    return torch.bincount(graph.group_of[graph.check(keep)], minlength=len(graph.groups))


def similarity(first: Tensor, second: Tensor) -> float:
    """Compare two structures, `(groups,)` each: 1 where equal, down to 0 (equations 4, 5).

    A layer that is empty in both does not differ.
    """
    total = (first + second).clamp_min(1)
    return 1 - float(((first - second).abs().double() / total).mean())


def indicator(structures: Sequence[Tensor], past: int = 5) -> float | None:
    """Return the Early Pruning Indicator: mean similarity of the newest structure to older ones.

    Args:
        structures: One an epoch, `(groups,)` each, the newest last.
        past: r of equation 6.

    Returns:
        0 to 1; None before there are r older structures.
    """
    if len(structures) <= past:
        return None
    older = structures[-past - 1 : -1]
    return sum(similarity(structures[-1], other) for other in older) / past


def settled(history: Sequence[float | None], threshold: float, rising: int = 5) -> bool:
    """Whether pruning may begin (algorithm 2, line 9).

    Args:
        history: EPI of each epoch, the newest last; None where it is not defined.
        threshold: tau.
        rising: How many past values the newest must not be below; all must be defined.
    """
    recent = [value for value in history[-rising - 1 :] if value is not None]
    return len(recent) == rising + 1 and recent[-1] >= max(threshold, *recent)


def removal_schedule(reduction: float, steps: int) -> tuple[float, ...]:
    """Return the share removed after each step: what is left shrinks by the same factor.

    Source: the exponential scheduler of FORCE (de Jorge et al. 2020), `k_t = exp(t/T log k +
    (1 - t/T) log m)`, which algorithm 1 uses.
    """
    kept = [(1 - reduction) ** (step / steps) for step in range(1, steps)]
    return (*(1 - share for share in kept), reduction)
