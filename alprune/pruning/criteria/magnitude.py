"""Criteria that look at no loss: chance and the size of weights."""

import torch
from torch import Tensor, nn

from alprune.pruning.criteria.base import Batch, ScoreOptions, channel_sums
from alprune.pruning.graph.channels import ChannelGraph
from alprune.pruning.graph.surgery import registered


def uniform(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Draw each channel's score from U(0, 1): removing those below p removes each with chance p.

    Args:
        model: Ignored.
        graph: Channel groups of the learner.
        batch: Ignored.
        options: `generator` makes the draw.

    Returns:
        `(channels,)`, float32.

    Source: the "Uniform" baseline of van Amersfoort et al. 2020, section 4.
    """
    return torch.rand(graph.channels, generator=options.generator)


def magnitude(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Score each channel by the mean squared weight that makes it.

    Args:
        model: Learner.
        graph: Its channel groups.
        batch: Ignored.
        options: Ignored.

    Returns:
        `(channels,)`, float32, >= 0.

    Source: Li et al. 2017 with squared weights; equation 2 of "When to Prune" (Shen et al. 2022).
    """
    weights = registered(model)  # those of fixed filter banks, which are buffers, too
    made = {t.name: weights[t.name].detach() for t in graph.tensors if t.places and t.dims("makes")}
    squares = {name: weight.double() ** 2 for name, weight in made.items()}
    ones = {name: torch.ones_like(weight) for name, weight in made.items()}
    count = channel_sums(graph, ones, "makes").clamp_min(1)
    return (channel_sums(graph, squares, "makes") / count).float()
