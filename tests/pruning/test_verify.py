"""What trying a graph out notices, and what it takes for rounding."""

import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alprune.pruning import trace
from alprune.pruning.graph import verify

X = torch.linspace(1, 2, 12).view(3, 4)


class Gives(nn.Module):
    """Returns what it was made with."""

    def __init__(self, *out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.out


@pytest.mark.parametrize(
    ("small", "said"),
    [
        ((X, X), "returns other outputs"),
        ((X[:, :1],), r"returns \(3, 1\) instead of \(3, 4\)"),
        ((X + 0.01,), "differ from the masked ones by 0.50%"),
        ((X * torch.nan,), "differ from the masked ones"),
        ((X + 1e-6,), None),
    ],
)
def test_outputs_that_differ_are_named(small: tuple[Tensor, ...], said: str | None) -> None:
    reason, _, finite = verify._compare(Gives(X), Gives(*small), X)
    assert finite and (reason is None if said is None else re.search(said, str(reason)))


@pytest.mark.parametrize(
    ("off", "in_double", "holds"),
    [(0.05, True, True), (0.05, False, False), (0.9, True, True), (torch.inf, True, False)],
)
def test_a_difference_that_vanishes_in_double_is_rounding(
    monkeypatch: pytest.MonkeyPatch, off: float, in_double: bool, holds: bool
) -> None:
    monkeypatch.setattr(verify, "_compare", lambda *_: ("they differ", off, True))
    monkeypatch.setattr(verify, "_equal_in_double", lambda *_: in_double)
    graph = trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), X)
    assert graph.channels == (6 if holds else 0)


class ScalesByItsStatistics(nn.Module):
    """Scales by the mean of a BatchNorm's variances: 1 in a new one, whatever its width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu() * float(self.norm.running_var.mean())
        return self.head(y.mean((2, 3)))


def test_a_number_from_statistics_is_found_in_a_new_network() -> None:
    graph = trace(ScalesByItsStatistics(), torch.randn(2, 3, 8, 8), normalised="pinned")
    assert graph.channels == 0
    assert "computes a number" in {p.name: p.reason for p in graph.pinned}["conv"]


def test_groups_that_hold_alone_and_not_together_are_told_apart() -> None:
    def failure(groups: Sequence[int]) -> str | None:
        return "alone" if 2 in groups else "both" if {1, 4} <= set(groups) else None

    assert verify._bisect(failure, [*range(6)]) == {2: "alone", 4: "both"}


def test_dropout_is_skipped_however_a_forward_asks_for_it() -> None:
    with verify.NoDropout():
        assert torch.equal(F.dropout(X, 0.9, training=True), X)
        assert torch.equal(F.dropout(input=X, p=0.9), X)
        plain = F.scaled_dot_product_attention(X, X, X)
        assert torch.equal(F.scaled_dot_product_attention(X, X, X, None, 0.9), plain)
        assert torch.equal(F.scaled_dot_product_attention(X, X, X, dropout_p=0.9), plain)
