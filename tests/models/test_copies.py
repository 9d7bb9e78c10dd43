"""Copies of networks keep nothing of the original, whatever functions the network holds."""

import copy
import functools

import torch
from torch import Tensor, nn

from alprune.models.copies import copy_network


class Holder(nn.Module):
    """Calls its layers by functions of every kind, some of which share what they remember."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        last, layers = torch.zeros(0), [self.b]

        def keep(module: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
            nonlocal last
            last = out + 0 * self.a.bias
            seen.append(len(out))

        def step(x: Tensor, *, times: int = 2) -> Tensor:
            return layers[0](last + x) if times < 2 else step(x, times=times - 1)

        self.a.register_forward_hook(keep)
        self.step = step
        self.others = {"c": lambda x, layer=self.c: layer(x)}
        self.partial = functools.partial(lambda layer, x: layer(x), self.d)
        self.double = double

    def forward(self, x: Tensor) -> Tensor:
        x = self.double(self.step(self.a(x)))
        return self.partial(self.others["c"](x))


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_a_copy_computes_with_its_own_weights() -> None:
    torch.manual_seed(0)
    seen: list[int] = []
    network, x = Holder(seen), torch.randn(3, 4)
    made = copy_network(copy_network(network))
    expected = network(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(made(x), expected)
    made(x).sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    assert all(p.grad is None for p in network.parameters())
    assert seen == [3, 3, 3]  # a list outside of the network is still filled


def test_functions_without_a_network_and_compiled_modules_stay_as_they_are() -> None:
    network = Holder([])
    assert copy_network(network).double is double
    assert copy.deepcopy(network).step is network.step  # what a plain deep copy does
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    made = copy_network(compiled)
    assert type(made) is type(compiled) and made._orig_mod is not compiled._orig_mod


def test_a_forward_that_was_compiled_in_place_is_the_copys_own() -> None:
    network = nn.Linear(2, 2)
    network.forward = torch.compile(network.forward, backend="eager")  # type: ignore[method-assign]
    made = copy_network(network)
    with torch.no_grad():
        made.weight.zero_(), made.bias.zero_()
    assert not made(torch.ones(1, 2)).any()
