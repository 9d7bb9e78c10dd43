"""An operation with gates of 0 and 1 computes what it computes without the channels at 0."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.pruning import trace
from alprune.pruning.criteria.three_sp import mask_gradients
from alprune.pruning.graph.gates import KINDS

GATE = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
KEPT = GATE.bool()


def numbers(*shape: int) -> Tensor:
    """Small ones, so that what is added to a variance shows."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) / 50


X = numbers(3, 6)
# The kind, the operation, its arguments, and those without the channels; in the last dimension.
CASES: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = {
    "layer_norm": ("layer_norm", F.layer_norm, (X, (6,)), (X[:, KEPT], (4,))),
    "layer_norm with eps": (
        "layer_norm", F.layer_norm, (X, (6,), None, None, 0.1), (X[:, KEPT], (4,), None, None, 0.1)
    ),
    "rms_norm": ("rms_norm", F.rms_norm, (X, (6,)), (X[:, KEPT], (4,))),
    "mean": ("mean", torch.mean, (X, 1), (X[:, KEPT], 1)),
    "var": ("moments", torch.var, (X, 1), (X[:, KEPT], 1)),
    "std": ("moments", torch.std, (X, 1), (X[:, KEPT], 1)),
    "var of a population": ("moments", torch.var, (X, 1, False), (X[:, KEPT], 1, False)),
    "var_mean": ("moments", torch.var_mean, (X, 1), (X[:, KEPT], 1)),
    "sum": ("zero", torch.sum, (X, 1), (X[:, KEPT], 1)),
    "amax": ("largest", torch.amax, (X, 1), (X[:, KEPT], 1)),
    "amin": ("smallest", torch.amin, (X, 1), (X[:, KEPT], 1)),
    "softmax": ("softmax", torch.softmax, (X, 1), (X[:, KEPT], 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_gated_operation_is_that_of_the_channels_that_are_left(name: str) -> None:
    kind, operation, whole, cut = CASES[name]
    found, wanted = KINDS[kind](operation, whole, {}, {1: GATE}), operation(*cut)
    for got, expected in zip(*((v if isinstance(v, tuple) else (v,)) for v in (found, wanted)),
                             strict=True):  # fmt: skip
        got = got[:, KEPT] if got.shape == X.shape else got
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_groups_are_normalised_over_the_channels_that_are_left_in_each() -> None:
    x, gate = numbers(2, 6, 5), torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    found = KINDS["group_norm"](F.group_norm, (x, 2), {}, {1: gate})[:, gate.bool()]
    torch.testing.assert_close(found, F.group_norm(x[:, gate.bool()], 2), rtol=1e-9, atol=0)


def test_attention_scales_by_the_width_that_is_left() -> None:
    q, k, v = numbers(1, 2, 4, 6), 50 * numbers(1, 2, 7, 6), numbers(1, 2, 7, 3)
    found = KINDS["attention"](F.scaled_dot_product_attention, (50 * q, k, v), {}, {3: GATE})
    cut = F.scaled_dot_product_attention(50 * q[..., KEPT], k[..., KEPT], v)
    torch.testing.assert_close(found, cut, rtol=1e-9, atol=1e-15)


class Centred(nn.Module):
    """Subtracts the mean over its channels, after one over places that training alone takes."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 8, 1), nn.Linear(8, 3)
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if self.more and self.training:
            h = h + 0 * h.mean(2, keepdim=True)
        return self.last((h - h.mean(1, keepdim=True)).sum(2))


def test_a_gate_is_at_the_operation_of_the_mode_that_runs() -> None:
    model, plain = Centred(True), Centred(False)
    plain.load_state_dict(model.state_dict())
    batch = 50 * numbers(6, 3, 5).float(), torch.arange(6) % 3
    graphs = [trace(net, batch[0], normalised="follow") for net in (model, plain)]
    assert {(mix.spot.index, mix.spot.training) for mix in graphs[0].mixes} >= {
        (1, False),
        (2, True),
    }
    scores = [
        mask_gradients(net, graph, batch) for net, graph in zip((model, plain), graphs, strict=True)
    ]
    torch.testing.assert_close(*scores)
