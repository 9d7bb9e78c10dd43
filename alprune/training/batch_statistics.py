"""BatchNorm statistics of a network whose weights have moved faster than its running averages.

A running average of momentum 0.1 describes the network of about ten batches ago, and each layer
normalises what the layers before it make of their own outdated statistics. Deep networks lose all
they know by that while they are young: after 32 batches on the digits, a pruned VGG-19 is right on
80% of the test images with the statistics of its weights and on 10% with its running averages.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from alprune.models.cost import keeping_modes

# Running averages have caught up after some 100 batches of momentum 0.1 (10 horizons), measured
# on VGG-19 with the digits and CIFAR-10; the rest is for deeper networks and larger rates. After
# 386 batches of the dense one both statistics are as good (52.3 and 52.4% of CIFAR-10), and later
# running averages are better: after 1,000 batches, 53.8% against 53.0% or less.
_YOUNG_HORIZONS = 20


def updated_norms(network: nn.Module) -> list[Any]:
    """Return the BatchNorms whose statistics training updates.

    Those that the network itself keeps in eval mode, and those without running averages or with a
    momentum of 0, are not among them.
    """
    with keeping_modes(network):
        network.train()
        return [
            module
            for module in network.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.running_mean is not None
            and module.momentum != 0
        ]


def young_batches(network: nn.Module) -> float:
    """Return for how many batches of training running averages describe outdated weights.

    0 for a network without BatchNorm; infinite where a BatchNorm averages over all batches that it
    ever saw (a momentum of None).
    """
    momenta = [norm.momentum for norm in updated_norms(network)]
    if None in momenta:
        return float("inf")
    return _YOUNG_HORIZONS / min(momenta) if momenta else 0.0


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running averages by the statistics of some batches under the present weights.

    Each BatchNorm normalises by its batch, as in training, and keeps the mean over the batches;
    everything else runs in eval mode, so that dropout is off, as it is in predictions.

    Args:
        network: Changed in place: `running_mean` and `running_var` only. Modes stay as they are.
        batches: Normalised images `(b, c, h, w)`, `b` >= 2, on the network's device.

    Source: Wu and Johnson 2021, section 3 ("PreciseBN").
    """
    norms = updated_norms(network)
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    with keeping_modes(network):
        network.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over the batches
                norm.training = True
            for images in batches:
                network(images)
        finally:
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)
