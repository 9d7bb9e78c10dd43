"""3SP: the first-order change of the loss on removing a channel, per compute or not."""

from collections.abc import Iterator, Set
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alprune.pruning.criteria.base import (
    Batch,
    ScoreOptions,
    channel_sums,
    gradients,
    loss_on,
    products,
    scoring_state,
)
from alprune.pruning.graph.channels import ChannelGraph
from alprune.pruning.graph.gates import gated
from alprune.pruning.registry import CHANNEL_COSTS
from alprune.registry import lookup


def three_sp(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Score each channel by the first-order change of the loss on removing it.

    The mask of a channel is where the channel is read: at the input of every convolution,
    linear or recurrent weight that consumes it. There masking equals removing in every
    architecture, behind normalisation and any activation. Its derivative needs no hooks: it is
    `sum over readers of sum(W[:, c] * dL/dW[:, c])`. Where an operation without weights mixes
    channels (queries with keys, a mean, a LayerNorm), the derivative by its gate is added, which
    there includes what re-normalising the others does (see `alprune.pruning.graph.gates`).

    Args:
        model: Dense learner; weights, buffers, gradients and mode are left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: Ignored.

    Returns:
        `(channels,)`, float32, >= 0.

    Raises:
        PruneError: The loss or a gradient is not finite, or the batch does not fit the model.

    Source: van Amersfoort et al. 2020, equation 2 and algorithm 1 without "compute-aware".
    """
    return mask_gradients(model, graph, batch).abs()


def three_sp_ca(
    model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions
) -> Tensor:
    """Score each channel by the change of the loss per unit of compute removed (3SP+CA).

    The paper contradicts itself on where lambda goes. Algorithm 1 adds it to the raw cost of
    about 10^5 a channel, where 0.05 has no effect (VGG-19 keeps 5.2 M parameters at 80% fewer
    FLOPs, 20 MiB). Section 3.2 adds it to the normalised cost. Normalised over mask entries,
    whole layers empty at 80%; normalised over layers, 0.9 to 1.1 M parameters stay (3.5 to
    4.3 MiB), nearest to Table 2's 3.3 MB, and no layer empties. So: over layers. Channels of
    several coupled layers cost the sum over their makers, which the paper leaves open.

    Args:
        model: Dense learner, left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: `smoothing` is lambda; larger weakens the cost. `channel_cost` says what
            counts as cost; the paper's is "made".

    Returns:
        `(channels,)`, float32, >= 0.

    Raises:
        PruneError: As `three_sp`.
        ConfigError: Unknown cost.

    Source: van Amersfoort et al. 2020, section 3.2, equations 3 and 4.
    """
    cost = lookup("channel cost", options.channel_cost, CHANNEL_COSTS)(graph)
    layer_cost = torch.zeros(len(graph.groups), dtype=torch.float64)
    layer_cost.scatter_reduce_(0, graph.group_of, cost, "amax")
    if not bool((layer_cost > 0).any()):  # products whose cost no weight tells, if any
        return three_sp(model, graph, batch, options)
    share = cost / layer_cost.sum() + options.smoothing
    share = share / (layer_cost / layer_cost.sum() + options.smoothing).max()
    return (mask_gradients(model, graph, batch).abs() / share.float()).float()


@contextmanager
def _differentiable(model: nn.Module, names: Set[str]) -> Iterator[dict[str, Tensor]]:
    """Let buffers that read channels, such as averages of weights, take gradients."""
    found = {n: b for n, b in model.named_buffers() if n in names and b.is_floating_point()}
    try:
        yield {name: buffer.requires_grad_() for name, buffer in found.items()}
    finally:
        for buffer in found.values():
            buffer.requires_grad_(False)


def mask_gradients(model: nn.Module, graph: ChannelGraph, batch: Batch) -> Tensor:
    """Differentiate the loss by a mask at every place where a channel is read.

    Args:
        model: Learner, left as found; scored in train mode, with dropout and stochastic depth
            off (at initialisation the running statistics describe another network).
        graph: Its channel groups.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.

    Returns:
        `(channels,)`, float32, signed, on the CPU.

    Raises:
        PruneError: The loss or a gradient is not finite, or the batch does not fit the model.
    """
    with scoring_state(model) as parameters:
        names = {t.name for t in graph.tensors if t.dims("reads")}
        read: dict[str, Tensor] = {n: p for n, p in parameters.items() if n in names}
        gates = torch.ones(graph.channels, requires_grad=True)
        with gated(model, graph.mixes, gates), _differentiable(model, names - read.keys()) as fixed:
            read.update(fixed)
            found = gradients(loss_on(model, batch), {**read, "the gates": gates})
        sums = channel_sums(graph, products(read, found), "reads")
        return (sums + found["the gates"]).float()
