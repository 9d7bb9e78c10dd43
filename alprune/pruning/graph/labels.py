"""Labels: an integer for each element of an activation, naming the channel it belongs to.

Labels are nodes of a graph whose edges say "must leave together"; its components are the
channels. Label tensors have the shape of their activation, but a dimension along which they do
not change has stride 0, so they cost little memory and little time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

PINNED = 0  # the label of inputs and constants


def varies(labels: Tensor, dim: int) -> bool:
    """Whether canonical labels change along `dim`."""
    return labels.shape[dim] > 1 and labels.stride(dim) != 0


def varying(labels: Tensor) -> list[int]:
    """Return the dimensions along which canonical labels change."""
    return [dim for dim in range(labels.dim()) if varies(labels, dim)]


def core(labels: Tensor) -> Tensor:
    """Cut canonical labels to size 1 along the dimensions where they do not change."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and not varies(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def canonical(labels: Tensor) -> Tensor:
    """Give stride 0 to every dimension along which the labels do not change."""
    if labels.numel() == 0:
        return labels
    small = core(labels)
    for dim in varying(small):
        first = small.narrow(dim, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(labels.shape)


def along(nodes: Tensor, dim: int, shape: Iterable[int]) -> Tensor:
    """Lay `(k,)` nodes along dimension `dim` of a tensor of the given shape."""
    shape = tuple(shape)
    view = [1] * len(shape)
    view[dim] = len(nodes)
    return nodes.view(view).expand(shape)


class Couplings:
    """Nodes, the edges between them, and the nodes that are never pruned with the reason."""

    def __init__(self) -> None:
        self.count = 1  # node 0 is PINNED
        self._edges: list[Tensor] = []  # each (2, k)
        self._pins: list[tuple[Tensor, str]] = []
        self.ties: list[tuple[Tensor, str]] = []

    def new(self, count: int) -> Tensor:
        """Return `count` fresh nodes, `(count,)` int64."""
        first = self.count
        self.count += count
        return torch.arange(first, self.count, device="cpu")

    def pin(self, labels: Tensor, reason: str) -> None:
        """Never prune what carries these labels."""
        nodes = core(labels).unique()
        nodes = nodes[nodes != PINNED]
        if len(nodes):
            self._pins.append((nodes, reason))

    def unite(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Let the labels of equal positions of `a` and `b` (broadcast) leave together."""
        left, right = torch.broadcast_tensors(core(a), core(b))
        pairs = torch.stack([left.reshape(-1), right.reshape(-1)])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if not pairs.shape[1]:
            return
        low, high = pairs.amin(0), pairs.amax(0)
        self.pin(high[low == PINNED], f"combined with the input or a constant ({reason})")
        pairs = torch.stack([low, high])[:, low != PINNED]
        if pairs.shape[1] > 1:
            packed = (pairs[0] * self.count + pairs[1]).unique()
            pairs = torch.stack([packed // self.count, packed % self.count])
        self._edges.append(pairs)

    def tie(self, labels: Tensor, dims: Iterable[int], reason: str) -> None:
        """Let everything that differs only along `dims` leave together."""
        labels = core(labels)
        for dim in dims:
            if labels.shape[dim] > 1:
                self.ties.append((labels.reshape(-1), reason))
                self.unite(labels, labels.narrow(dim, 0, 1), reason)
                labels = labels.narrow(dim, 0, 1)

    def components(self) -> Tensor:
        """Return the component of each node, `(count,)`: the smallest node in it."""
        parent = torch.arange(self.count, device="cpu")
        if not self._edges:
            return parent
        a, b = torch.cat(self._edges, 1)
        while True:
            low = torch.minimum(parent[a], parent[b])
            after = parent.clone()
            after.scatter_reduce_(0, parent[a], low, "amin")
            after.scatter_reduce_(0, parent[b], low, "amin")
            after = after[after]
            if torch.equal(after, parent):
                return parent
            parent = after

    def pinned(self, component: Tensor) -> dict[int, str]:
        """Return the pinned components, each with the first reason given."""
        reasons = {PINNED: "the input or a constant"}
        for nodes, reason in self._pins:
            for found in component[nodes].unique().tolist():
                reasons.setdefault(found, reason)
        return reasons
