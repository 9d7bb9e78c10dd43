"""Forwards that people write: each traced, narrowed and compared with the masked model."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Linear, Parameter
from zoo import conv, head, images

from alprune.pruning.graph import trace
from alprune.pruning.graph.surgery import masked, narrow


class Net(nn.Module):
    """Layers by name, and the forward as a function of the module and its input."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module | Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def equal_parts_by_number(m: Net, x: Tensor) -> Tensor:
    a, b, c = torch.split(F.relu(m.a(x)), 4, 1)
    b = m.b(b)
    return m.h(torch.cat([a, b, m.c(b + c)], 1))


def equal_parts_by_chunk(m: Net, x: Tensor) -> Tensor:
    a, b, c = F.relu(m.a(x)).chunk(3, 1)
    b = m.b(b)
    return m.h(torch.cat([a, b, m.c(b + c)], 1))


def halves_by_shape(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    half = x.shape[1] // 2
    return m.h(m.b(x[:, :half]) * torch.sigmoid(m.c(x[:, half:])))


def slices_from_the_back(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    return m.h(torch.cat([m.b(x[:, -5:]), m.c(x[:, :-5])], 1))


def selected_kernels(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    both = torch.stack([m.b(x), m.c(x)], 1)
    logits = m.fc2(F.relu(m.fc1(both.sum(1).mean((2, 3)))))
    weights = logits.view(len(x), 2, -1).softmax(1)[..., None, None]
    return m.h((both * weights).sum(1))


def spatial_attention(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return m.h(F.relu(m.b(x * torch.sigmoid(m.c(pooled)))))


def coordinates(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    b, _, h, w = x.shape
    return m.h(m.b(torch.cat([x, torch.linspace(-1, 1, w).expand(b, 1, h, w)], 1)))


def writes_into_zeros(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    out = torch.zeros(x.shape[0], x.shape[1] + 4, *x.shape[2:], dtype=x.dtype)
    out[:, : x.shape[1]] = x
    out[:, x.shape[1] :] = m.c(x)
    return m.h(F.relu(m.b(out)))


def doubles_a_view(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    x[:, :3].mul_(2.0)
    return m.h(F.relu(m.b(x)))


def state_of_fixed_size(m: Net, x: Tensor) -> Tensor:
    x = x.flatten(2).transpose(1, 2)[:, :9]
    state = torch.zeros(1, len(x), 8, dtype=x.dtype)
    return m.h(F.relu(m.b(m.a(x, (state, state))[0].mean(1))))


def vision_transformer(m: Net, x: Tensor) -> Tensor:
    t = m.a(x).flatten(2).transpose(1, 2)
    t = torch.cat([m.token.expand(len(t), -1, -1), t], 1)
    b, n, width = t.shape
    q, k, v = m.qkv(t).reshape(b, n, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
    t = t + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
    return m.h(m.b(t[:, 0]).relu())


def maxout_over_halves(m: Net, x: Tensor) -> Tensor:
    x = m.a(x)
    b, c, h, w = x.shape
    return m.h(m.b(x.view(b, 2, c // 2, h, w).amax(1)))


def standardised_weight(m: Net, x: Tensor) -> Tensor:
    weight = m.b.weight - m.b.weight.mean((1, 2, 3), keepdim=True)
    return m.h(F.relu(F.conv2d(F.relu(m.a(x)), weight)))


def rolls(m: Net, x: Tensor) -> Tensor:
    return m.h(F.relu(m.b(F.relu(m.a(x)).roll(2, 1).roll(1, 3))))


def replaces_a_buffer(m: Net, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    m.b[1].running_mean = m.b[1].running_mean.clone()
    return m.h(F.relu(m.b(x)))


def small(a: int, b: nn.Module, width: int) -> dict[str, nn.Module]:
    return {"a": conv(3, a), "b": b, "h": head(width)}


CASES: dict[Callable[..., Tensor], tuple[Callable[[], dict], int]] = {
    # the layers, and how many of their channels can be pruned
    equal_parts_by_number: (lambda: {**small(12, conv(4, 4), 12), "c": conv(4, 4)}, 4),
    equal_parts_by_chunk: (lambda: {**small(12, conv(4, 4), 12), "c": conv(4, 4)}, 4 + 4),
    halves_by_shape: (lambda: {**small(12, conv(6, 6), 6), "c": conv(6, 6)}, 6 + 6),
    slices_from_the_back: (lambda: {**small(12, conv(5, 6), 12), "c": conv(7, 6)}, 7 + 6 + 6),
    selected_kernels: (
        lambda: {
            **small(6, conv(6, 8), 8),
            "c": conv(6, 8),
            "fc1": Linear(8, 5),
            "fc2": Linear(5, 16),
        },
        6 + 8 + 5,
    ),
    spatial_attention: (
        lambda: {**small(6, conv(6, 7), 7), "c": nn.Conv2d(2, 1, 3, padding=1)},
        7,
    ),
    coordinates: (lambda: small(6, conv(7, 8), 8), 6 + 8),
    writes_into_zeros: (lambda: {**small(6, conv(10, 8), 8), "c": conv(6, 4)}, 6 + 8),
    doubles_a_view: (lambda: small(6, conv(6, 7), 7), 3 + 7),
    state_of_fixed_size: (
        lambda: {"a": nn.LSTM(3, 8, batch_first=True), "b": Linear(8, 6), "h": Linear(6, 5)},
        6,
    ),
    vision_transformer: (
        lambda: {
            "a": nn.Conv2d(3, 8, 4, 4),
            "token": Parameter(torch.randn(1, 1, 8)),
            "qkv": Linear(8, 24),
            "b": Linear(8, 9),
            "h": Linear(9, 5),
        },
        9,
    ),
    maxout_over_halves: (lambda: small(12, conv(6, 7), 7), 6 + 7),
    standardised_weight: (lambda: small(6, nn.Conv2d(6, 7, 3), 7), 7),
    rolls: (lambda: small(6, conv(6, 7), 7), 7),
    replaces_a_buffer: (lambda: small(6, conv(6, 7), 7), 6 + 7),
}


@pytest.mark.parametrize("forward", CASES, ids=lambda forward: forward.__name__)
def test_what_can_be_narrowed_is_found_and_equals_masking(forward: Callable[..., Tensor]) -> None:
    layers, prunable = CASES[forward]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net(forward, **layers()).double().eval()
    x = images().double()
    graph = trace(model, x, normalised="pinned")
    assert graph.channels == prunable
    for seed in range(3):
        keep = torch.rand(prunable, generator=torch.Generator().manual_seed(seed)) < 0.6
        for group in graph.groups:
            keep[group.channels[0]] = True
        expected = masked(model, graph, keep)(x)
        torch.testing.assert_close(narrow(model, graph, keep)(x), expected, rtol=0, atol=1e-9)
