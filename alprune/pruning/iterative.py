"""Prune in rounds: a little, score again what is left, a little more."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.pruning.criteria.base import Batch, Criterion, ScoreOptions, channel_scores
from alprune.pruning.graph import ChannelGraph
from alprune.pruning.graph.rebase import narrow_graph
from alprune.pruning.graph.surgery import narrow
from alprune.pruning.plan import Plan, Target, search


def search_in_rounds(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Batch | Sequence[Batch],
    criterion: Criterion,
    target: Target,
    options: ScoreOptions,
    rounds: int = 10,
) -> Plan:
    """Remove channels in rounds, each scored on the network that the rounds before left.

    One shot takes channels to matter independently of each other; the scores of many are wrong
    once the others are gone, and whole layers empty. After round k of n the share
    `(1 - reduction)^(k/n)` of the target's quantity is left, so each round removes the same
    share of what it finds. What is removed stays removed. The network is narrowed between
    rounds, with the weights it had, so later rounds cost less: n rounds to 80% fewer FLOPs cost
    about n / 2 passes of the dense network. With one round this is `search`.

    Args:
        model: Dense learner, left as found.
        graph: Channel groups of `model`.
        batches: Normalised inputs `(b, ...)` and labels `(b,)`, or several such pairs that the
            rounds take in turn.
        criterion: `(model, graph, batch, options) -> (channels,)`, larger is kept.
        target: What to reach; its floor and rounding hold in every round, for the widths in
            `graph`.
        options: Of the criterion.
        rounds: n, at least 1.

    Returns:
        The plan, in the channels of `graph`; `floored` names the groups whose floor bound in any
        round.

    Raises:
        PruneError: As `search` and the criterion; the message names the round.

    Source: the schedule and re-scoring are those of Verdenius et al. 2020 (SNAP-it, arXiv
    2006.00896) and de Jorge et al. 2021 (FORCE and iterative SNIP, arXiv 2006.09081), here for
    the structured score of van Amersfoort et al. 2020.
    """
    if rounds < 1:
        raise PruneError(f"pruning in rounds needs at least 1 round, got {rounds}.")
    given = cast(list[Batch], [batches] if isinstance(batches[0], Tensor) else list(batches))
    keep = graph.all_kept()
    floored: set[str] = set()
    for k in range(1, rounds + 1):
        rest = narrow_graph(graph, keep)
        small = model if keep.all() else narrow(model, graph, keep)
        found = channel_scores(criterion, small, rest, given[(k - 1) % len(given)], options)
        # what is gone leaves first again: floors and multiples are those of the whole layers
        scores = found.new_full((graph.channels,), torch.finfo(found.dtype).min)
        scores[keep] = found
        left = (1 - target.reduction) ** (k / rounds)
        share = 1 - left if k < rounds else target.reduction
        try:
            plan = search(graph, scores, replace(target, reduction=share))
        except PruneError as error:
            raise PruneError(
                f"round {k} of {rounds} towards a {target.quantity} reduction of "
                f"{target.reduction:g} failed: {error}"
            ) from error
        keep &= plan.keep(graph)
        floored.update(plan.floored)
    return Plan.of(graph, keep, tuple(g.name for g in graph.groups if g.name in floored))
