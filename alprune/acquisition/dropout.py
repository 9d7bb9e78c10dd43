"""Monte Carlo dropout with the same mask for every image, so that a draw is one network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

INSERTED_RATE = 0.5
"""Share of the last linear layer's inputs dropped in a network that has no dropout."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def dropout_modules(network: nn.Module) -> list[nn.Module]:
    """List a network's dropout modules with a rate above 0, element- and channel-wise ones.

    Not seen, and left off as in any evaluation: alpha dropout, stochastic depth, dropout inside
    recurrent layers and attention, and calls of `torch.nn.functional.dropout`.
    """
    return [m for m in network.modules() if isinstance(m, _DROPOUTS) and m.p > 0]


@contextmanager
def consistent_dropout(
    dropouts: Sequence[nn.Module], before: Sequence[nn.Module], generator: torch.Generator
) -> Iterator[None]:
    """Apply dropout to a network in eval mode, with masks that stay inside the block.

    All images of all batches see the same mask, so the outputs are those of one thinned network
    and the outputs for different images can be related: BatchBALD's joint entropies need that.
    A module that is called several times in a pass repeats its mask. Batches come first.

    Args:
        dropouts: Dropout modules, which drop at their own rate.
        before: Layers whose inputs are dropped at `INSERTED_RATE`.
        generator: Draws the masks, on the CPU.

    Source: Gal and Ghahramani 2016 (dropout as posterior); Kirsch et al. 2019, section 3.4
    (consistent masks).
    """
    masks: dict[tuple[nn.Module, torch.Size], Tensor] = {}

    def dropped(module: nn.Module, x: Tensor, rate: float) -> Tensor:
        channels = isinstance(module, _DROPOUTS[1:])
        shape = torch.Size([x.shape[1]] + [1] * (x.ndim - 2)) if channels else x.shape[1:]
        if (module, shape) not in masks:
            masks[module, shape] = keep_mask(shape, rate, generator).to(x.device, x.dtype)
        return x * masks[module, shape]

    handles = [
        module.register_forward_hook(
            lambda module, inputs, output: dropped(module, output, module.p)  # type: ignore
        )
        for module in dropouts
    ]
    handles += [
        module.register_forward_pre_hook(
            lambda module, inputs: (dropped(module, inputs[0], INSERTED_RATE), *inputs[1:])
        )
        for module in before
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keep_mask(shape: torch.Size, rate: float, generator: torch.Generator) -> Tensor:
    """Draw a mask that is 0 with probability `rate` and `1 / (1 - rate)` else."""
    kept = torch.rand(shape, generator=generator) >= rate
    return kept / max(1 - rate, torch.finfo().tiny)
