"""Importance of channels for all outputs of a trained network at once, without labels."""

import torch
from torch import Tensor, nn

from alprune.models.copies import copy_network
from alprune.pruning.criteria.base import (
    Batch,
    ScoreOptions,
    channel_sums,
    gradients,
    products,
    require_gradients,
)
from alprune.pruning.graph import ChannelGraph

_IMAGES = 8  # that share a backward pass


def output_change(
    model: nn.Module, graph: ChannelGraph, batch: Batch, options: ScoreOptions
) -> Tensor:
    """Score each channel by the squared first-order change of the outputs on removing it.

    Each image's outputs are looked at in a random direction: the mean square over directions is the
    sum over all outputs. The network works as it does after training, in eval mode.

    Args:
        model: Trained network; left as found.
        graph: Channel groups of `model`.
        batch: Normalised inputs `(b, c, h, w)`; the labels are not used.
        options: Its generator draws the directions.

    Returns:
        `(channels,)`, float32, >= 0.

    Raises:
        PruneError: A gradient is not finite.

    Source: the mask of van Amersfoort et al. 2020 at the inputs of the layers that read a channel,
    squared as in Molchanov et al. 2019, with a random projection of the outputs as the loss.
    """
    generator = options.generator or torch.Generator().manual_seed(0)
    model = copy_network(model).eval()
    require_gradients(model.parameters())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    readers = [t.name for t in graph.tensors if t.trainable and t.dims("reads")]
    wanted: dict[str, Tensor] = {name: parameters[name] for name in readers}
    scores = torch.zeros(graph.channels, dtype=torch.float64)
    for images in batch[0].split(_IMAGES):
        outputs = model(images)
        direction = torch.randn(outputs.shape, generator=generator).to(outputs)
        found = gradients((outputs * direction).sum() / len(images), wanted)
        scores += channel_sums(graph, products(wanted, found), "reads") ** 2
    return scores.float()
