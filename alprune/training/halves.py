"""A network in two halves: the upper one learns, and what the lower one makes of images is kept."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from alprune.models.cost import cost
from alprune.training.embeddings import last_linear


class Lower(nn.Module):
    """The part of a network up to one of its modules: images in, that module's output out.

    Args:
        network: The whole network.
        last: Name of the module.
    """

    def __init__(self, network: nn.Module, last: str) -> None:
        super().__init__()
        self.network, self._last = network, last

    def forward(self, images: Tensor) -> Tensor:
        """Return what the module makes of images `(b, c, h, w)`."""
        found: list[Tensor] = []

        def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
            found.append(output)
            raise _Reached

        hook = self.network.get_submodule(self._last).register_forward_hook(stop)
        try:
            self.network(images)
        except _Reached:
            return found[0]
        finally:
            hook.remove()
        raise RuntimeError(f"{self._last} did not run")


def halves(network: nn.Module, example: Tensor, share: float) -> tuple[nn.Module, nn.Module]:
    """Cut a network in two: the upper half reads nothing but the lower half's output.

    The cut is after one of the modules that the network runs in turn, the last one before which at
    most `share` of the multiply-accumulates are. In the upper half those before it are replaced by
    `nn.Identity`; the cut is taken only if the result is the whole network's.

    Args:
        network: In eval mode, ends in a linear layer, which is in the upper half; both halves share
            its parameters and buffers.
        example: Normalised images `(b, c, h, w)`, b >= 2, no two alike.
        share: Of the work, in [0, 1], that the lower half may do.

    Returns:
        The halves. Where a network cannot be cut the lower half does nothing.
    """
    wanted = network(example)
    head = last_linear(network)[0]
    names, shares = _in_turn(network, example, head)
    learns = next((n for n, name in enumerate(names) if f"{head}.".startswith(f"{name}.")), 0)
    places = [n for n, done in enumerate(shares[:learns]) if done <= share]
    for place in reversed(places):
        upper = _without(network, names[: place + 1])
        lower = Lower(network, names[place])
        try:
            found = upper(lower(example))
        except Exception:  # whatever a forward makes of an input that it does not expect
            continue
        if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-4):
            return lower, upper
    return nn.Identity(), network


def _in_turn(network: nn.Module, example: Tensor, head: str) -> tuple[list[str], list[float]]:
    """Return the modules that run, up to the first that runs again, and the work done by then."""
    order: list[str] = []
    with ExitStack() as hooks:
        for name, module in _units(network, head):

            def note(*_: Any, name: str = name) -> None:
                order.append(name)

            hooks.callback(module.register_forward_hook(note).remove)
        network(example)
    once = [name for n, name in enumerate(order) if order.index(name) == n]
    names = once if len(once) == len(order) else once[: _first_repeat(order)]
    by_layer = cost(network, example[:1]).by_layer
    total, done, shares = max(1, sum(by_layer.values())), 0, []
    for name in names:
        done += sum(m for layer, m in by_layer.items() if f"{layer}.".startswith(f"{name}."))
        shares.append(done / total)
    return names, shares


def _first_repeat(order: list[str]) -> int:
    repeated = {name for name in order if order.count(name) > 1}
    return next(n for n, name in enumerate(order) if name in repeated)


def _units(module: nn.Module, head: str, before: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield what a network consists of; sequences and what holds the head by their members."""
    for part, child in module.named_children():
        name = f"{before}{part}"
        if isinstance(child, nn.Sequential | nn.ModuleList) or head.startswith(f"{name}."):
            yield from _units(child, head, f"{name}.")
        else:
            yield name, child


def _without(network: nn.Module, names: list[str]) -> nn.Module:
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    upper = copy.deepcopy(network, dict(shared))
    for name in names:
        upper.set_submodule(name, nn.Identity())
    return upper


class _Reached(Exception):
    """A forward pass has come to the module whose output is wanted."""
