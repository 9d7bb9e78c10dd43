"""Layers over channels that used to hold them: convolutions and maxima over channels, shuffles."""

import pytest
import torch
from torch import Tensor, nn

from alprune.pruning import prune, rebuild
from alprune.pruning.graph import masked, narrow, trace
from alprune.pruning.graph.verify import NoDropout
from alprune.pruning.methods import pinned_share


def conv(inside: int, outside: int, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(inside, outside, kernel, padding=kernel // 2)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU())


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Gated(nn.Module):
    """ECA: a convolution that slides over channels; and one of a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv(3, 16), conv(16, 12), head(12)
        self.slide = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.mix = nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.slide(x.mean((2, 3)).view(len(x), 1, -1)).sigmoid()
        x = x * gate.view(len(x), -1, 1, 1)
        both = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
        x = x + self.mix(both).view(len(x), -1, 1, 1)
        return self.head(self.last(x))


class Unit(nn.Module):
    """A unit of ShuffleNet: half of the channels pass, half are computed, then all shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(width // 2, width // 2, 1), conv(width // 2, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        passing, rest = x.chunk(2, dim=1)
        x = torch.cat([passing, self.branch(rest)], 1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def shuffled() -> nn.Module:
    return nn.Sequential(conv(3, 24), *(Unit(24) for _ in range(6)), head(24))


class Spotlight(nn.Module):
    """Spatial attention from the mean and the extrema over channels (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv(3, 16), conv(16, 12), head(12)
        self.map = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        most, least = x.max(1, keepdim=True)[0], x.min(dim=1, keepdim=True).values
        maps = [x.mean(1, keepdim=True), most, least, x.amax(1, keepdim=True)]
        return self.head(self.last(x * self.map(torch.cat(maps, 1)).sigmoid()))


class Windows(nn.Module):
    """Attention over overlapping windows, cut out by `Tensor.unfold`."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 2, 8
        self.stem = conv(3, 12)
        self.q, self.kv = nn.Conv2d(12, 16, 1), nn.Conv2d(12, 32, 1)
        self.head = head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        q = self.q(x).reshape(b * self.heads, self.width, -1).mT
        kv = nn.functional.pad(self.kv(x), [1, 1, 1, 1]).unfold(2, 4, 2).unfold(3, 4, 2)
        kv = kv.reshape(b * self.heads, 2 * self.width, -1).mT
        k, v = kv.split([self.width, self.width], -1)
        x = (q @ k.mT / 4).softmax(-1) @ v
        return self.head(x.mT.reshape(b, self.heads * self.width, h, w))


class Multiples(nn.Module):
    """Queries, keys and values of one width, which is an attribute, and so is their number."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width, self.parts, self.inner = 2, 8, 3, 16
        self.stem, self.qkv = conv(3, 12), nn.Conv2d(12, 48, 1)
        self.out, self.head = nn.Conv2d(16, 12, 1), head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        qkv = self.qkv(x).reshape(b, self.heads, self.parts * self.width, h * w)
        q, k, v = qkv.mT.chunk(3, dim=3)
        x = (q @ k.mT / 4).softmax(-1) @ v
        return self.head(self.out(x.mT.reshape(b, self.inner, h, w)).relu())


NETWORKS = {n.__name__: n for n in (Gated, shuffled, Spotlight, Windows, Multiples)}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("normalised", ["pinned", "follow"])
def test_what_is_left_equals_the_masked_network(name: str, normalised: str) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]().double(), torch.randn(4, 3, 8, 8).double()
    graph = trace(model, x, normalised=normalised)
    if normalised == "follow":
        assert pinned_share(graph) <= 0.1, [(p.name, p.reason) for p in graph.pinned]
    for seed in range(4):
        keep = torch.rand(graph.channels, generator=torch.Generator().manual_seed(seed)) < 0.5
        for group in graph.groups:
            keep[group.channels[0]] = True
        small, whole = narrow(model, graph, keep), masked(model, graph, keep)
        for training in (False, True):
            with NoDropout():
                torch.testing.assert_close(
                    small.train(training)(x), whole.train(training)(x), rtol=0, atol=1e-9
                )
        small(x).sum().backward()


def test_where_hardly_anything_could_be_pruned_what_is_normalised_may_leave() -> None:
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.spectral_norm
    wide = [norm(nn.Conv2d(16, 16, 3)), nn.ReLU(), norm(nn.Conv2d(16, 16, 3)), nn.ReLU()]
    model = nn.Sequential(conv(3, 16), *wide, head(16))
    batch = (torch.randn(4, 3, 16, 16), torch.arange(4))
    graph = trace(model, batch[0])
    assert graph.normalised == "follow" and pinned_share(graph) == 0
    pruned = prune(model, batch=batch, flops_reduction=0.5)
    assert pruned.flops_reduction >= 0.5 and pruned.plan.normalised == "follow"
    rebuilt = rebuild(model, pruned.plan, pruned.model.state_dict()).eval()
    torch.testing.assert_close(rebuilt(batch[0]), pruned.model.eval()(batch[0]))


def test_equal_parts_after_many_shuffles_are_made_of_what_is_left() -> None:
    torch.manual_seed(0)
    graph = trace(shuffled(), torch.randn(2, 3, 8, 8), normalised="follow")
    width = {g.name: len(g.channels) for g in graph.groups}["0.0"]
    assert width >= 6  # in place, all 24 would leave together


@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
def test_narrowing_a_network_in_training_moves_nothing_that_its_norms_remember(norm: str) -> None:
    torch.manual_seed(0)
    for normed in (getattr(nn.utils.parametrizations, norm), getattr(nn.utils, norm)):
        layers = [normed(nn.Conv2d(3, 16, 3)), nn.ReLU(), normed(nn.Conv2d(16, 12, 3)), nn.ReLU()]
        model, x = nn.Sequential(*layers, head(12)).double(), torch.randn(4, 3, 8, 8).double()
        graph = trace(model, x, normalised="follow")
        keep = torch.arange(graph.channels) % 2 == 0
        small, whole = narrow(model.train(), graph, keep), masked(model, graph, keep)
        for training in (False, True):
            a, b = small.train(training)(x), whole.train(training)(x)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
