"""What a channel costs, in multiply-accumulates for one example of the unpruned network."""

from collections.abc import Callable

import torch
from torch import Tensor

from alprune.pruning.graph.channels import ChannelGraph, rows

# What else a training step spends time on, in multiply-accumulates: rounded from what
# recipes/bench/step_cost.py finds for VGG-19 on a CPU with two threads, 635 and 12; with other
# widths drawn, before the choice was made, it was 520 and 17, and 260 and 19 with one thread.
AN_ACTIVATION = 500.0
A_WEIGHT = 18.0


def made(graph: ChannelGraph) -> Tensor:
    """Count what making a channel costs, summed over the layers that make it.

    Args:
        graph: The channel groups.

    Returns:
        `(channels,)` float64, >= 0: `C_in * H * W * K^2` for a convolution.

    Source: van Amersfoort et al. 2020, equation 3 (there in FLOPs, twice this; it cancels).
    """
    return _summed(graph, lambda role, weights, places: weights * places if "makes" in role else 0)


def step(graph: ChannelGraph) -> Tensor:
    """Estimate what a training step spends on a channel.

    Equation 3 of the paper leaves out that a channel is read, too. The first layer of each stage
    of VGG-19 reads few channels, so its own cost next to nothing and stay, and the layers behind
    it, which pay for reading them, become bottlenecks. It also leaves out what takes most time
    where images are large and channels few: normalisation and activation functions go over memory
    several times. Here a channel costs its multiply-accumulates where it is made and where it is
    read, `A_WEIGHT` for each of its weights and `AN_ACTIVATION` for each of its values. Such a sum
    fits the time of networks of random widths to 5%, multiply-accumulates alone fit it to 17%.

    Args:
        graph: The channel groups.

    Returns:
        `(channels,)` float64, >= 0.
    """

    def each(role: str, weights: int, places: float) -> float:
        values = places if "makes" in role else 0
        return weights * (places + A_WEIGHT) + AN_ACTIVATION * values

    return _summed(graph, each)


def _summed(graph: ChannelGraph, each: Callable[[str, int, float], float]) -> Tensor:
    """Sum what a channel costs over the weights that make or read it.

    Args:
        graph: The channel groups.
        each: From the role, the number of a channel's weights, and the places of an
            output where each is used.
    """
    cost = torch.zeros(graph.channels, dtype=torch.float64)
    for tensor in graph.tensors:
        if not tensor.places:
            continue
        elements = torch.Size(tensor.shape).numel()
        for dim, role in tensor.roles.items():
            weights = elements // tensor.shape[dim]
            price = float(each(role, weights, tensor.places))
            for ids in rows(tensor.axes[dim]):
                ids = ids[ids >= 0]  # -1 is pinned
                cost.index_add_(0, ids, torch.full((len(ids),), price, dtype=cost.dtype))
    return cost
