"""Refit a pruned network's weights, layer by layer, to what the layers gave before the cut."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ROWS = 8192  # places in the images, all together, at which a layer's outputs are compared
_RIDGE = 1e-2  # of the inputs' mean square; pulls towards the present weights


@torch.no_grad()
def reconstruct(
    small: nn.Module, full: nn.Module, kept: Mapping[str, Tensor], batches: Sequence[Tensor]
) -> None:
    """Refit each convolution and linear layer by least squares, in the order in which they run.

    A layer that has lost inputs learns to give the outputs of before from those that are left, and
    makes up for what the layers before it could not. It takes one pass of the full network and, for
    each layer, the pass of the small one up to there. Depthwise and grouped convolutions stay, and
    so do layers that run more than once.

    Args:
        small: The pruned network, in eval mode; weights of its layers are changed in place.
        full: The network before the cut, in eval mode.
        kept: `{layer: (width,) bool}`, which outputs of the full network's layer are left; a layer
            that is not named has lost none.
        batches: Normalised inputs `(b, c, h, w)`, on the networks' device.

    Source: He, Zhang and Sun 2017, section 3.1, the reconstruction of feature maps.
    """
    wanted = _outputs(full, batches)
    for name in list(wanted):
        targets = wanted.pop(name)  # what has been matched need not be kept
        if name in kept:
            targets = [part[:, kept[name].to(part.device)] for part in targets]
        _refit(small.get_submodule(name), _inputs(small, name, batches), targets)


def _refit(layer: nn.Module, inputs: Iterator[Tensor], targets: Sequence[Tensor]) -> None:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight.flatten(1).double()  # (outputs, inputs)
    gram = weight.new_zeros(weight.shape[1], weight.shape[1])
    missing = torch.zeros_like(weight)
    for x, y in zip(inputs, targets, strict=True):
        x, y = x.double(), y.double()
        bias = 0.0 if layer.bias is None else layer.bias.double()
        gram += x.T @ x
        missing += (y - x @ weight.T - bias).T @ x
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp_min(1e-12))
    change = torch.linalg.solve(gram, missing.T).T
    layer.weight.copy_((weight + change).view_as(layer.weight))


def _outputs(full: nn.Module, batches: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Return what each layer gives at some places, `(k, outputs)` per batch, as they run."""
    found: dict[str, list[Tensor]] = {}
    places = _places(batches)
    with ExitStack() as hooks:
        for name, layer in full.named_modules():
            if not _is_plain(layer):
                continue

            def note(layer: nn.Module, _: object, output: Tensor, name: str = name) -> None:
                found.setdefault(name, []).append(_sampled(layer, output, places))

            hooks.callback(layer.register_forward_hook(note).remove)
        for batch in batches:
            full(batch)
    return {name: parts for name, parts in found.items() if len(parts) == len(batches)}


def _inputs(small: nn.Module, name: str, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield what a layer reads for its outputs at the same places, `(k, inputs)` per batch."""
    layer, found, places = small.get_submodule(name), list[Tensor](), _places(batches)

    def stop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(_sampled(layer, _patches(layer, inputs[0]), places))
        raise _Reached

    hook = layer.register_forward_pre_hook(stop)
    try:
        for batch in batches:
            try:
                small(batch)
            except _Reached:
                yield found.pop()
    finally:
        hook.remove()


class _Reached(Exception):
    """A forward pass has come to the layer whose inputs are wanted."""


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer multiplies each patch of its input by one matrix."""
    if type(layer) is nn.Conv2d:  # a subclass may pad in a way of its own
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    return type(layer) is nn.Linear


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(layer, nn.Conv2d) or (layer.kernel_size == (1, 1) == layer.stride):
        return x
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
    return F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)


def _places(batches: Sequence[Tensor]) -> int:
    return max(1, _ROWS // sum(map(len, batches)))


def _sampled(layer: nn.Module, values: Tensor, places: int) -> Tensor:
    """Return values at up to `places` places of each image, one row for each, `(k, channels)`."""
    if isinstance(layer, nn.Conv2d):
        values = values.flatten(2).transpose(1, 2)
    else:
        values = values.reshape(len(values), -1, values.shape[-1])
    count = values.shape[1]
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:places]
    return values[:, chosen.to(values.device)].flatten(0, 1)
