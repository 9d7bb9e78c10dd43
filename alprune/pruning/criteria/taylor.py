"""Taylor importance of channels: the squared first-order change of the loss, by gates."""

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
)
from alprune.pruning.graph import ChannelGraph

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def taylor(model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions) -> Tensor:
    """Score each channel by the squared derivative of the loss by a gate where it is made.

    See `gate_gradients` for the gate. Unlike 3SP's mask, which is where a channel is read,
    the gate is in front of the activation.

    Args:
        model: Learner; weights, buffers, gradients and mode are left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.
        options: Ignored.

    Returns:
        `(channels,)`, float32, >= 0.

    Raises:
        PruneError: As `gate_gradients`.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", the
    first-order gates and their BatchNorm form. Its absolute value is equation 3 of "When to
    Prune" (Shen et al. 2022), and ranks alike on one batch.
    """
    return (gate_gradients(model, graph, batch) ** 2).float()


def gate_gradients(model: nn.Module, graph: ChannelGraph, batch: Batch) -> Tensor:
    """Differentiate the loss by one gate a channel, z = 1, in front of the activation.

    The gate multiplies the weights and biases that make the channel, and the scale and shift of
    the normalisations that it passes. Its derivative is `sum(g * w)` over the makers plus
    `g_gamma * gamma + g_beta * beta` over the normalisations. Behind a maker that a BatchNorm
    follows the first sum vanishes, as BatchNorm undoes any scale: there only the second counts,
    the BatchNorm form; without one only the first is there. Coupled channels share one gate.

    Args:
        model: Learner, left as found; differentiated in train mode, dropout off.
        graph: Its channel groups.
        batch: Normalised inputs `(b, c, h, w)` and labels `(b,)`, b > 1.

    Returns:
        `(channels,)`, float64, signed, on the CPU.

    Raises:
        PruneError: The loss or a gradient is not finite, the batch does not fit the model, or as
            `channel_norms`.
    """
    channel_norms(model, graph)
    makers = {t.name.rpartition(".")[0] for t in graph.tensors if t.trainable and t.dims("makes")}
    norms = {name for name, module in model.named_modules() if isinstance(module, _NORMS)}
    gated = [
        t.name
        for t in graph.tensors
        if t.trainable and t.axes and t.name.rpartition(".")[0] in makers | norms
    ]
    products = _products(model, batch, gated)
    return channel_sums(graph, products, "makes") + channel_sums(graph, products, "follows")


def channel_norms(model: nn.Module, graph: ChannelGraph) -> set[str]:
    """Return the normalisations of single channels, whose scale and shift are a channel's gate.

    BatchNorm, InstanceNorm, and GroupNorm of as many groups as channels undo any scale of what
    they read. So the loss has no derivative by a gate in front of them but rounding noise.

    Raises:
        PruneError: One that prunable channels pass has no scale, so no place for the gate.
    """
    carried = {t.name for t in graph.tensors if t.axes} | {name for name, _ in graph.sizes}
    norms = set()
    for name, module in model.named_modules():
        grouped = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
        if not isinstance(module, nn.modules.batchnorm._NormBase) and not grouped:
            continue
        if module.weight is None and {name, f"{name}.running_mean"} & carried:
            raise PruneError(
                f"taylor puts its gate on a normalisation's scale, but {name!r} has none. Build "
                "it with affine=True, or use 3sp, which needs no gate."
            )
        norms.add(name)
    return norms


def _products(model: nn.Module, batch: Batch, names: list[str]) -> dict[str, Tensor]:
    """Return `{name: parameter times its gradient}`."""
    with scoring_state(model) as parameters:
        wanted: dict[str, Tensor] = {name: parameters[name] for name in names}
        found = gradients(loss_on(model, batch), wanted)
        return products(wanted, found)
