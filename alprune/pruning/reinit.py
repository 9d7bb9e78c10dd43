"""The weights after the cut: inherited, re-initialised or re-scaled."""

from collections.abc import Callable

import torch
from torch import nn

from alprune.models.copies import copy_network
from alprune.models.init import reinit as initialise
from alprune.pruning.precrop.crop import Cropped
from alprune.pruning.unstructured.masks import apply_masks, masks_of

AfterPruning = Callable[[nn.Module, nn.Module, torch.Generator, str], None]


def inherit(pruned: nn.Module, dense: nn.Module, generator: torch.Generator, init: str) -> None:
    """Leave the kept channels' weights as they were."""


def reinit(pruned: nn.Module, dense: nn.Module, generator: torch.Generator, init: str) -> None:
    """Re-initialise every weight for the sizes that are left, frozen ones aside.

    What does not train (`requires_grad=False`, a pretrained first layer, say) keeps its values.
    A masked network keeps its masks: the dense one is re-initialised and masked by them.

    Args:
        pruned: Changed in place.
        dense: The network before the masks; otherwise ignored.
        generator: Makes the draw.
        init: A key of `alprune.models.INITS`.

    Source: "3SP + re-init", van Amersfoort et al. 2020, table 1; the authors' code of SNIP.
    """
    masks = masks_of(pruned)
    fresh = copy_network(dense) if masks else pruned
    frozen = {p: p.detach().clone() for p in fresh.parameters() if not p.requires_grad}
    initialise(fresh, generator, init)
    with torch.no_grad():
        for parameter, value in frozen.items():
            parameter.copy_(value)
    if masks:
        pruned.load_state_dict(apply_masks(fresh, masks).state_dict())


def rescale(pruned: nn.Module, dense: nn.Module, generator: torch.Generator, init: str) -> None:
    """Multiply each layer's weight by sqrt(original fan-out / pruned fan-out).

    Fan-out is the output channels times the kernel's size; the kernel cancels, so what counts are
    the outputs: the rows of the weight, the columns in transposed convolutions. Normalisation
    layers and biases are left alone, and masked networks, whose layers have the widths that they
    had.

    Args:
        pruned: Changed in place.
        dense: The network before the cut, for the original sizes.
        generator: Ignored.
        init: Ignored.

    Source: van Amersfoort et al. 2020, section 3.1, "Rescaling Initializations".
    """
    if masks_of(pruned):
        return
    before = dict(dense.named_parameters())
    with torch.no_grad():
        inner = pruned.model if isinstance(pruned, Cropped) else pruned
        for name, weight in inner.named_parameters():
            owner = inner.get_submodule(name.rpartition(".")[0])
            transposed = isinstance(owner, nn.modules.conv._ConvTransposeNd)
            outputs = 1 if transposed and owner.groups == 1 else 0  # whole groups leave by rows
            if weight.ndim > 1:
                weight.mul_((before[name].shape[outputs] / weight.shape[outputs]) ** 0.5)
