"""Labels: for every dimension of an activation, the channels that its indices belong to.

A column is a `(size,)` int64 tensor of nodes, one for each index of a dimension; an axis is a
tuple of columns. An index stays if all of its nodes stay, so that the rows of an attention's
projection can carry both a head and a place within the head. A dimension without columns is
plain: its indices always stay. Nodes that must leave together are united; the components are the
channels.
"""

from collections.abc import Sequence

import torch
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


class Couplings:
    """Nodes, the edges between them, and the nodes that are never pruned with the reason."""

    def __init__(self) -> None:
        self.count = 1  # node 0 is PINNED
        self.ties: list[tuple[Tensor, str]] = []
        self._edges: list[Tensor] = []  # each (2, k)
        self._pins: list[tuple[Tensor, str]] = []
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
        left = tuple(c for c in axis if not bool(torch.isin(c[c != PINNED], held).all()))
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
        if torch.equal(a[0].sort().values, b[0].sort().values):
            return True
        of = self.components()
        return torch.equal(of[a[0]].sort().values, of[b[0]].sort().values)

    def resolve(self) -> "Partition":
        """Settle what every node means.

        Where a node that stands for several was united with another such node, their parts are
        united in turn, until nothing changes.
        """
        while True:
            of = self.components()
            before = len(self._edges), len(self._pins)
            held = of[self._pinned_nodes()].unique()
            by_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for nodes, table in self._products:
                by_size.setdefault(len(table), []).append((of[nodes], of[table]))
            means: dict[int, tuple[Tensor, Tensor]] = {}
            for size, found in by_size.items():
                roots, table = torch.cat([r for r, _ in found]), torch.cat([p for _, p in found], 1)
                order = torch.argsort(roots, stable=True)
                roots, table = roots[order], table[:, order]
                table = table.masked_fill(torch.isin(table, held), PINNED)
                same = torch.nonzero(roots[1:] == roots[:-1])[:, 0]
                for row in table:
                    self.join(row[same], row[same + 1], "channels seen as a grid twice")
                means[size] = (roots, table)
            self._refuse_mixed(means)
            if (len(self._edges), len(self._pins)) == before:
                return Partition(of, self._reasons(of), list(means.values()))

    def _refuse_mixed(self, means: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Pin a component that stands for two parts here and for three there."""
        sizes = list(means)
        for i, one in enumerate(sizes):
            for other in sizes[i + 1 :]:
                (a, parts_a), (b, parts_b) = means[one], means[other]
                shared = a[torch.isin(a, b)]
                loose = shared[~torch.isin(shared, self._pinned_nodes())]
                if len(loose):
                    reason = "channels seen as two different grids"
                    self.pin(loose, reason)
                    for roots, parts in ((a, parts_a), (b, parts_b)):
                        self.pin(parts[:, torch.isin(roots, loose)].reshape(-1), reason)

    def _pinned_nodes(self) -> Tensor:
        found = [nodes for nodes, _ in self._pins]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device="cpu")

    def components(self) -> Tensor:
        """Return the component of each node so far, `(count,)`: the smallest node in it."""
        parent = torch.arange(self.count, device="cpu")
        if not self._edges:
            return parent
        self._edges = [torch.cat(self._edges, 1)]
        a, b = self._edges[0]
        while True:
            low = torch.minimum(parent[a], parent[b])
            after = parent.clone()
            after.scatter_reduce_(0, parent[a], low, "amin")
            after.scatter_reduce_(0, parent[b], low, "amin")
            after = after[after]
            if torch.equal(after, parent):
                return parent
            parent = after

    def _reasons(self, of: Tensor) -> dict[int, str]:
        """Return the pinned components, each with the first reason given."""
        reasons = {PINNED: "the input or a constant"}
        for nodes, reason in self._pins:
            for found in of[nodes].unique().tolist():
                reasons.setdefault(found, reason)
        return reasons


class Partition:
    """What every node means: a component, or several parts that must all stay.

    Args:
        of: `(nodes,)` int64, the component of each node.
        pinned: `{component: reason}`.
        products: For each number of parts m: `(k,)` components and `(m, k)` what each stands for.
    """

    def __init__(
        self, of: Tensor, pinned: dict[int, str], products: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.of, self.pinned = of, pinned
        self._parts: dict[int, tuple[int, ...]] = {}
        for roots, table in products:
            for root, *parts in zip(roots.tolist(), *table.tolist(), strict=True):
                self._parts[root] = tuple(parts)
        for root in list(self._parts):
            if self._stands_for_itself(root):
                self.pinned.setdefault(root, "channels seen as a part of themselves")
                del self._parts[root]
        self._settle()

    def _stands_for_itself(self, root: int) -> bool:
        seen, waiting = set(), [root]
        while waiting:
            for part in self._parts.get(waiting.pop(), ()):
                if part == root:
                    return True
                if part not in seen:
                    seen.add(part)
                    waiting.append(part)
        return False

    def _settle(self) -> None:
        """Carry pins from a product to its parts, and from all the parts to their product."""
        changed = True
        while changed:
            changed = False
            for root, parts in self._parts.items():
                held = [p for p in parts if p in self.pinned]
                if root in self.pinned and len(held) < len(parts):
                    self.pinned.update(
                        {p: self.pinned[root] for p in parts if p not in self.pinned}
                    )
                    changed = True
                elif root not in self.pinned and len(held) == len(parts):
                    why = next((self.pinned[p] for p in parts if p != PINNED), "a constant")
                    self.pinned[root] = why
                    changed = True

    def pin(self, component: int, reason: str) -> None:
        """Never prune a component, nor the parts that it stands for."""
        self.pinned.setdefault(component, reason)
        self._settle()

    def columns(self, axis: Axis) -> list[list[int]]:
        """Return the components along an axis, PINNED for those never pruned.

        Returns:
            One list for each column, as long as the axis; none where every index always stays.
        """
        found: list[list[int]] = []
        for column in axis:
            spread_out = [self._meaning(c) for c in self.of[column].tolist()]
            width = max((len(parts) for parts in spread_out), default=0)
            for k in range(width):
                row = [parts[k] if k < len(parts) else PINNED for parts in spread_out]
                if any(row) and row not in found:
                    found.append(row)
        return found

    def _meaning(self, component: int) -> tuple[int, ...]:
        parts = self._parts.get(component)
        if parts is None:
            return (PINNED if component in self.pinned else component,)
        return tuple(m for part in parts for m in self._meaning(part))

    def why(self, axis: Axis) -> tuple[list[str], int]:
        """Return the reasons why indices of an axis always stay, and how many they are."""
        columns = self.columns(axis)
        size = len(axis[0]) if axis else 0
        held = [i for i in range(size) if not any(row[i] for row in columns)]
        reasons: dict[str, None] = {}
        for i in held:
            for column in axis:
                if (found := self.pinned.get(int(self.of[column[i]]))) is not None:
                    reasons.setdefault(found)
        return list(reasons), len(held)
