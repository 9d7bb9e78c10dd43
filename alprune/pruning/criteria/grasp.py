"""Structured GraSP: how much of the gradient flow a channel carries."""

import torch
from torch import Tensor, nn

from alprune.errors import PruneError
from alprune.pruning.criteria.base import (
    Batch,
    ScoreOptions,
    channel_sums,
    gradients,
    loss_on,
    products,
    scoring_state,
    twice_differentiable,
)
from alprune.pruning.graph import ChannelGraph
from alprune.pruning.graph.gates import gated


def structured_grasp(
    model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions
) -> Tensor:
    """Score each channel by the derivative of the squared gradient norm by its mask.

    The mask is where the channel is read, as in `three_sp`, so the network computes with
    `m * W`. Differentiated is `|dL/dW|^2 = |m * g(m * W)|^2`, over the convolution, linear and
    recurrent weights W. By the chain rule its derivative by a channel's mask, at 1, is

        2 * sum over the weights that read the channel of (g^2 + W * (H g)),

    with H the Hessian; one double backward pass gives H g. The mask in front of g is what makes
    the norm at m = 0 exactly that of the narrowed network, whose removed weights have no
    gradient. GraSP's own formula for single weights, W * (H g), lacks the term g^2: it counts
    the gradients of the removed weights on.

    Two things are read into the paper. The sign: GraSP removes what lets the gradient flow grow,
    so a channel is kept if removing it shrinks the norm: the derivative, with its sign, is the
    score. The smoothing: the logits are divided by the temperature, 200 as in the code of Wang
    et al.; the paper says only that outputs are strongly smoothed.

    Args:
        model: Dense learner; weights, buffers, gradients and mode are left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: `temperature` divides the logits, > 0.

    Returns:
        `(channels,)`, float32, signed; larger is kept.

    Raises:
        PruneError: The loss or a gradient is not finite, or the batch does not fit the model.

    Source: van Amersfoort et al. 2020, section 5, after Wang et al. 2020, equation 8.
    """
    with scoring_state(model) as parameters, twice_differentiable():
        weights: dict[str, Tensor] = {
            t.name: parameters[t.name] for t in graph.tensors if t.trainable and t.places
        }
        if not weights:
            raise PruneError(
                f"GraSP follows the gradients of weights, and {type(model).__name__} multiplies by "
                "none that is a parameter. Choose another method, 3sp for example."
            )
        gates = torch.ones(graph.channels, requires_grad=True)
        with gated(model, graph.mixes, gates):
            flow = gradients(loss_on(model, batch, options.temperature), weights, create_graph=True)
        norm = torch.stack([(g * g).sum() for g in flow.values()]).sum()
        bend = gradients(norm, {**weights, "the gates": gates})  # 2 H g
        terms = {
            name: 2 * flow[name].detach().double() ** 2 + product
            for name, product in products(weights, bend).items()
        }
    return (channel_sums(graph, terms, "reads") + bend["the gates"]).float()
