"""How weights move: stochastic gradient descent, and an average that follows them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from alprune.training.settings import FitSettings


def new_optimiser(model: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """Make the optimiser of a network that has not been trained yet."""
    decayed = [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    plain = [p for p in model.parameters() if p.ndim <= 1 and p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        fused=True,
    )


@torch.no_grad()
def follow(averaged: nn.Module, model: nn.Module, pull: float | Tensor) -> None:
    """Move averaged weights and statistics towards those of the network.

    Args:
        averaged: Of the same architecture, changed in place.
        model: The network.
        pull: Share of the way to go; a tensor `()` on the device where the step is recorded, since
            a recording would repeat a number.
    """
    old, new = list(floats(averaged)), list(floats(model))
    if isinstance(pull, float):
        torch._foreach_lerp_(old, new, pull)
        return
    way = torch._foreach_sub(new, old)
    torch._foreach_mul_(way, pull)
    torch._foreach_add_(old, way)


def floats(model: nn.Module) -> Iterator[Tensor]:
    """Yield a network's parameters and buffers of a floating type."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            yield tensor
