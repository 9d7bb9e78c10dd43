"""Labels: for every dimension of an activation, the channels that its indices belong to.

A column is a `(size,)` int64 tensor of nodes, one for each index of a dimension; an axis is a
tuple of columns. An index stays if all of its nodes stay, so that the rows of an attention's
projection can carry both a head and a place within the head. A dimension without columns is
plain: its indices always stay. Nodes that must leave together are united; the components are the
channels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

PINNED = 0  # the node of what always stays

Axis = tuple[Tensor, ...]
Labels = tuple[Axis, ...]


def take(axis: Axis, index: Tensor | slice) -> Axis:
    """Index every column of an axis; columns of nothing but PINNED are dropped."""
    return slim(tuple(column[index] for column in axis))


def slim(axis: Axis) -> Axis:
    """Drop the columns that put no constraint on any index."""
    return tuple(column for column in axis if bool((column != PINNED).any()))


def spread(axis: Axis, dim: int, shape: Sequence[int]) -> Axis:
    """Flatten a tensor of the given shape, `axis` along dimension `dim`: the flat axis."""
    view = [1] * len(shape)
    view[dim] = -1
    return tuple(column.view(view).expand(tuple(shape)).reshape(-1) for column in axis)


def joined(parts: Sequence[tuple[Axis, int]]) -> Axis:
    """Concatenate axes, each with its number of indices."""
    most = max((len(axis) for axis, _ in parts), default=0)
    blank = [torch.zeros(size, dtype=torch.int64, device="cpu") for _, size in parts]
    return tuple(
        torch.cat([a[k] if k < len(a) else z for (a, _), z in zip(parts, blank, strict=True)])
        for k in range(most)
    )


def in_order(values: Tensor) -> Tensor:
    """Return the different values of `(k,)` in the order in which they first appear."""
    unique, places = torch.unique(values, return_inverse=True)
    first = torch.full_like(unique, len(values))
    first.scatter_reduce_(0, places, torch.arange(len(values), device="cpu"), "amin")
    return unique[torch.argsort(first)]


class Couplings:
    """Nodes, the edges between them, and the nodes that are never pruned with the reason."""

    def __init__(self) -> None:
        self.count = 1  # node 0 is PINNED
        self.ties: list[tuple[Tensor, str]] = []
        self._edges: list[Tensor] = []  # each (2, k), not yet in `_parent`
        self._parent = torch.zeros(1, dtype=torch.int64, device="cpu")
        self._pins: list[tuple[Tensor, str]] = []
        self._held = torch.zeros(1, dtype=torch.bool, device="cpu")
        self._pins_held = 0  # how many of the pins `_held` knows
        self._products: list[tuple[Tensor, Tensor]] = []  # (k,) nodes that mean (m, k) others

    def new(self, count: int) -> Tensor:
        """Return `count` fresh nodes, `(count,)` int64."""
        first = self.count
        self.count += count
        return torch.arange(first, self.count, device="cpu")

    def pin(self, axis: Axis | Tensor, reason: str) -> None:
        """Never prune what carries these nodes."""
        for column in (axis,) if isinstance(axis, Tensor) else axis:
            nodes = column[column != PINNED]
            if len(nodes):
                self._pins.append((nodes, reason))

    def unite(self, a: Axis, b: Axis, reason: str) -> None:
        """Let equal indices of two axes leave together."""
        if a is b:
            return
        if len(a) != len(b):
            a, b = self._without_held(a), self._without_held(b)
        a, b = (a, b) if len(a) <= len(b) else (b, a)
        if not a:
            self.pin(b, f"combined with the input or a constant ({reason})")
        elif len(a) == len(b):
            for left, right in zip(a, b, strict=True):
                self.join(left, right, reason)
        elif len(a) == 1:
            self.expand(a[0], b, reason)
        else:
            for axis in (a, b):
                self.pin(axis, f"channels seen as two different grids ({reason})")

    def _without_held(self, axis: Axis) -> Axis:
        """Drop columns of which every node is pinned already, where others are left."""
        if len(axis) < 2:
            return axis
        held = self._pinned_nodes()
        left = tuple(c for c in axis if not bool((held[c] | (c == PINNED)).all()))
        return left or axis[:1]

    def join(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Let equal positions of two columns leave together."""
        if a is b:
            return
        pairs = torch.stack([torch.minimum(a, b), torch.maximum(a, b)])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if not pairs.shape[1]:
            return
        held = pairs[0] == PINNED
        if bool(held.any()):
            self.pin(pairs[1, held], f"combined with the input or a constant ({reason})")
            pairs = pairs[:, ~held]
        self._edges.append(pairs)

    def broadcast(
        self,
        first: tuple[Sequence[int], Labels],
        second: tuple[Sequence[int], Labels],
        reason: str,
    ) -> Labels:
        """Couple two sets of axes position by position, as broadcasting pairs them.

        An operand of size 1 along a dimension where the other has several indices (a spatial
        attention map, a scalar gate) reaches every channel: its one channel is pinned.
        """
        (shape_a, a), (shape_b, b) = first, second
        rank = max(len(a), len(b))
        shape_a, a = (1,) * (rank - len(a)) + tuple(shape_a), ((),) * (rank - len(a)) + a
        shape_b, b = (1,) * (rank - len(b)) + tuple(shape_b), ((),) * (rank - len(b)) + b
        found: list[Axis] = []
        for size_a, size_b, left, right in zip(shape_a, shape_b, a, b, strict=True):
            if size_a == size_b and (size_a > 1 or (left and right)):
                self.unite(left, right, reason)
                found.append(left if len(left) >= len(right) else right)
                continue
            if size_a == size_b:
                found.append(left or right)
                continue
            small, large = (left, right) if size_a < size_b else (right, left)
            self.pin(small, f"a factor of all channels ({reason})")
            found.append(large)
        return tuple(found)

    def expand(self, nodes: Tensor, parts: Axis, reason: str) -> None:
        """Let each node stand for all of the parts at its position: it stays if they all do."""
        table = torch.stack(parts)
        some = table != PINNED
        single = (some.sum(0) <= 1) | (nodes == PINNED)
        for row in table if bool((nodes == PINNED).any()) else ():
            self.pin(row[nodes == PINNED], f"combined with the input or a constant ({reason})")
        self.join(nodes[single], table.amax(0)[single], reason)
        if not bool(single.all()):
            self._products.append((nodes[~single], table[:, ~single]))

    def tie(self, grid: Tensor, dims: Sequence[int], reason: str) -> None:
        """Let the nodes of a grid that differ only along `dims` leave together."""
        for dim in dims:
            if grid.shape[dim] > 1:
                first = grid.narrow(dim, 0, 1)
                self.ties.append((grid.reshape(-1), reason))
                self.join(grid.reshape(-1), first.expand(grid.shape).reshape(-1), reason)
                grid = first

    def permuted(self, a: Axis, b: Axis) -> bool:
        """Whether two axes carry the same channels, in whatever order."""
        if len(a) != 1 or len(b) != 1 or len(a[0]) != len(b[0]):
            return False
        if torch.equal(a[0], b[0]):
            return True
        of = self.components()
        return torch.equal(of[a[0]].sort().values, of[b[0]].sort().values)

    def resolve(self) -> "tuple[Tensor, dict[int, str], list[tuple[Tensor, Tensor]]]":
        """Settle what every node means.

        Where a node that stands for several was united with another such node, their parts are
        united in turn, until nothing changes.

        Returns:
            What a `Partition` is made of: the component of each node, the pinned components with
            the reason, and the products.
        """
        while True:
            of = self.components()
            before = len(self._pins)
            held = torch.zeros_like(self._pinned_nodes())
            held[of[self._pinned_nodes()]] = True
            by_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for nodes, table in self._products:
                by_size.setdefault(len(table), []).append((of[nodes], of[table]))
            means: dict[int, tuple[Tensor, Tensor]] = {}
            for size, found in by_size.items():
                roots, table = torch.cat([r for r, _ in found]), torch.cat([p for _, p in found], 1)
                order = torch.argsort(roots, stable=True)
                roots, table = roots[order], table[:, order]
                table = table.masked_fill(held[table], PINNED)
                same = roots[1:] == roots[:-1]
                for row in table:
                    self.join(row[:-1][same], row[1:][same], "channels seen as a grid twice")
                first = torch.cat([same.new_ones(1), ~same])
                means[size] = (roots[first], table[:, first])
            self._refuse_mixed(means)
            if not self._edges and len(self._pins) == before:
                return of, self._reasons(of), list(means.values())

    def _refuse_mixed(self, means: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Pin a component that stands for two parts here and for three there."""
        sizes = list(means)
        for i, one in enumerate(sizes):
            for other in sizes[i + 1 :]:
                (a, parts_a), (b, parts_b) = means[one], means[other]
                shared = a[torch.isin(a, b)]
                loose = shared[~self._pinned_nodes()[shared]]
                if len(loose):
                    reason = "channels seen as two different grids"
                    self.pin(loose, reason)
                    for roots, parts in ((a, parts_a), (b, parts_b)):
                        self.pin(parts[:, torch.isin(roots, loose)].reshape(-1), reason)

    def _pinned_nodes(self) -> Tensor:
        """Return which nodes were pinned themselves, `(count,)` bool."""
        if len(self._held) < self.count:
            more = self._held.new_zeros(self.count - len(self._held))
            self._held = torch.cat([self._held, more])
        for nodes, _ in self._pins[self._pins_held :]:
            self._held[nodes] = True
        self._pins_held = len(self._pins)
        return self._held

    def components(self) -> Tensor:
        """Return the component of each node so far, `(count,)`: the smallest node in it."""
        if len(self._parent) < self.count:
            more = torch.arange(len(self._parent), self.count, device="cpu")
            self._parent = torch.cat([self._parent, more])
        if not self._edges:
            return self._parent
        a, b = self._parent[torch.cat(self._edges, 1)]
        self._edges = []
        edges = np.ones(len(a)), (a.numpy(), b.numpy())
        graph = coo_array(edges, shape=(self.count, self.count))
        _, label = connected_components(graph, directed=False)
        above = torch.from_numpy(np.unique(label, return_index=True)[1][label])
        self._parent = above[self._parent]
        return self._parent

    def _reasons(self, of: Tensor) -> dict[int, str]:
        """Return the pinned components, each with the first reason given."""
        reasons = {PINNED: "the input or a constant"}
        for nodes, reason in self._pins:
            for found in of[nodes].unique().tolist():
                reasons.setdefault(found, reason)
        return reasons
