"""One score a channel, from one minibatch before training: larger is kept.

A criterion is a function `(model, graph, batch, options) -> (channels,)` in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.prune.derivatives import channel_sums, gradients, loss_on
from alprune.prune.graph import ChannelGraph

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ScoreOptions:
    """What a criterion may be told.

    Attributes:
        smoothing: lambda of 3SP+CA, added to a layer's share of the cost.
        temperature: Divides the logits in the GraSP criteria.
        generator: Source of randomness, on the CPU; None for criteria that draw nothing.
    """

    smoothing: float = 0.05
    temperature: float = 200.0
    generator: torch.Generator | None = None


def three_sp(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Score each channel by the first-order change of the loss on removing it.

    The mask of a channel stands where the channel is read: at the input of every convolution,
    linear or recurrent weight that consumes it. There masking equals removing in every
    architecture, behind normalisation and any activation. Its derivative needs no hooks: it is
    `sum over readers of sum(W[:, c] * dL/dW[:, c])`.

    Args:
        model: Dense learner; weights, buffers, gradients and mode are left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: Not used.

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
    FLOPs, 20.9 MB). Section 3.2 adds it to the normalised cost. Normalised over mask entries,
    whole layers empty at 80%; normalised over layers, 1.0 to 1.1 M parameters stay (4.1 to
    4.4 MB), nearest to Table 2's 3.3 MB, and no layer empties. So: over layers. Channels of
    several coupled layers cost the sum over their makers, which the paper leaves open.

    Args:
        model: Dense learner, left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: `smoothing` is lambda; larger listens less to the cost.

    Returns:
        `(channels,)`, float32, >= 0.

    Raises:
        PruneError: As `three_sp`, or lambda is negative.

    Source: van Amersfoort et al. 2020, section 3.2, equations 3 and 4.
    """
    if options.smoothing < 0:
        raise PruneError(f"smoothing (lambda) must be at least 0, got {options.smoothing:g}.")
    cost = channel_cost(graph)
    layer_cost = torch.zeros(len(graph.groups), dtype=torch.float64)
    layer_cost.scatter_reduce_(0, graph.group_of, cost, "amax")
    share = cost / layer_cost.sum() + options.smoothing
    share = share / (layer_cost / layer_cost.sum() + options.smoothing).max()
    return (mask_gradients(model, graph, batch).abs() / share.float()).float()


def uniform(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Draw each channel's score from U(0, 1): removing those below p removes each with chance p.

    Args:
        model: Not used.
        graph: Channel groups of the learner.
        batch: Not used.
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
        batch: Not used.
        options: Not used.

    Returns:
        `(channels,)`, float32, >= 0.

    Source: Li et al. 2017 with squared weights; equation 2 of "When to Prune" (Shen et al. 2022).
    """
    parameters = dict(model.named_parameters())
    made = {
        t.name: parameters[t.name].detach()
        for t in graph.tensors
        if t.macs_per_element and "makes" in t.roles.values()
    }
    squares = {name: weight.double() ** 2 for name, weight in made.items()}
    ones = {name: torch.ones_like(weight) for name, weight in made.items()}
    count = channel_sums(graph, ones, "makes").clamp_min(1)
    return (channel_sums(graph, squares, "makes") / count).float()


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
        read = {t.name: parameters[t.name] for t in graph.tensors if "reads" in t.roles.values()}
        found = gradients(loss_on(model, batch), read)
        products = {name: weight.detach() * found[name] for name, weight in read.items()}
        return channel_sums(graph, products, "reads").float()


def channel_cost(graph: ChannelGraph) -> Tensor:
    """Count what making one channel costs in the unpruned network, summed over its makers.

    Returns:
        `(channels,)` float64 MACs: `C_in * H * W * K^2` for a convolution.

    Source: van Amersfoort et al. 2020, equation 3 (there in FLOPs, twice this; it cancels).
    """
    cost = torch.zeros(graph.channels, dtype=torch.float64)
    for tensor in graph.tensors:
        size = torch.Size(tensor.shape).numel()
        for dim, role in tensor.roles.items():
            if role == "makes" and tensor.macs_per_element:
                each = float(size // tensor.shape[dim] * tensor.macs_per_element)
                made = tensor.axes[dim]
                made = made[made >= 0]  # -1 is pinned
                cost.index_add_(0, made, torch.full((len(made),), each, dtype=cost.dtype))
    return cost


@contextmanager
def scoring_state(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Put a model in the state in which it is scored, and back as it was afterwards.

    Yields:
        Its parameters by name, all requiring gradients.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    required = {name: p.requires_grad for name, p in parameters.items()}
    model.train()
    for module in model.modules():
        if (
            isinstance(module, nn.modules.dropout._DropoutNd)
            or "Stochastic" in type(module).__name__
        ):
            module.eval()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
