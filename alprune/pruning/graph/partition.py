"""What the nodes of a finished trace mean: channels, several channels at once, or none."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alprune.pruning.graph.labels import PINNED, Axis, in_order

_ABSENT = -1  # pads the rows of components that stand for fewer parts than others


class Partition:
    """What every node means: a component, or several parts that must all stay.

    Args:
        of: `(nodes,)` int64, the component of each node.
        pinned: `{component: reason}`.
        products: For each number of parts m: `(k,)` components and `(m, k)` what each stands for.
    """

    def __init__(
        self, of: Tensor, pinned: dict[int, str], products: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        self.of, self.pinned = of, pinned
        self._held = torch.zeros(len(of), dtype=torch.bool, device="cpu")
        self._held[list(pinned)] = True
        self._products = list(products)
        for root in self._in_circles():
            self._hold(root, "channels seen as a part of themselves")
            self._products = [
                (roots[roots != root], parts[:, roots != root]) for roots, parts in self._products
            ]
        self._settle()
        self._parts = self._written_out()

    def pin(self, components: Tensor, reason: str) -> None:
        """Never prune components `(k,)`, nor the parts that they stand for."""
        for component in components.tolist():
            self._hold(component, reason)
        self._settle()

    def columns(self, axis: Axis) -> list[Tensor]:
        """Return the components along an axis, PINNED for those never pruned.

        Returns:
            One `(size,)` tensor for each column; none where every index always stays.
        """
        found: list[Tensor] = []
        for column in axis:
            parts = self._parts[:, self.of[column]]
            for row in parts.masked_fill(self._held[parts], PINNED):
                if bool(row.any()) and not any(torch.equal(row, other) for other in found):
                    found.append(row)
        return found

    def why(self, axis: Axis) -> tuple[list[str], int]:
        """Return the reasons why indices of an axis always stay, and how many they are."""
        if not axis:
            return [], 0
        held = torch.ones(len(axis[0]), dtype=torch.bool, device="cpu")
        for row in self.columns(axis):
            held &= row == PINNED
        places = torch.stack([self.of[column[held]] for column in axis], 1).reshape(-1)
        reasons = [self.pinned[c] for c in in_order(places).tolist() if c in self.pinned]
        return list(dict.fromkeys(reasons)), int(held.sum())

    def _hold(self, component: int, reason: str) -> None:
        self.pinned.setdefault(component, reason)
        self._held[component] = True

    def _settle(self) -> None:
        """Carry pins from a product to its parts, and from all the parts to their product."""
        changed = True
        while changed:
            changed = False
            for roots, parts in self._products:
                held = self._held[parts]
                down = self._held[roots] & ~held.all(0)
                for root, *its in _rows(roots, parts, down):
                    for part in its:
                        self._hold(part, self.pinned[root])
                up = ~self._held[roots] & held.all(0)
                for root, *its in _rows(roots, parts, up):
                    why = (self.pinned[part] for part in its if part != PINNED)
                    self._hold(root, next(why, "a constant"))
                changed = changed or bool((down | up).any())

    def _in_circles(self) -> list[int]:
        """Return the components that stand for themselves, by way of others."""
        nested: dict[int, list[int]] = {}
        roots = torch.cat([r for r, _ in self._products]) if self._products else self.of[:0]
        for own, parts in self._products:
            inner = torch.isin(parts, roots)
            for root, *its in _rows(own, parts, inner.any(0)):
                nested[root] = its
        return [root for root in nested if _reaches(nested, root)]

    def _written_out(self) -> Tensor:
        """Return what each component stands for in the end, `(most parts, components)`."""
        most = max((len(parts) for _, parts in self._products), default=1)
        own = torch.full((most, len(self.of)), _ABSENT, dtype=torch.int64, device="cpu")
        own[0] = torch.arange(len(self.of), device="cpu")
        for roots, parts in self._products:
            own[: len(parts), roots] = parts
            own[len(parts) :, roots] = _ABSENT
        whole = own
        while True:
            deeper = own[:, whole.clamp_min(PINNED)]  # (parts, rows of whole, components)
            deeper[:, whole == _ABSENT] = _ABSENT
            deeper = deeper.transpose(0, 1).reshape(-1, len(self.of))
            order = torch.argsort((deeper == _ABSENT).to(torch.int8), dim=0, stable=True)
            deeper = deeper.gather(0, order)
            deeper = deeper[: int((deeper != _ABSENT).any(1).sum())]
            if torch.equal(deeper, whole):
                return whole.masked_fill(whole == _ABSENT, PINNED)
            whole = deeper


def _rows(roots: Tensor, parts: Tensor, chosen: Tensor) -> Iterator[list[int]]:
    """Yield the chosen products, each as its component followed by its parts."""
    yield from torch.cat([roots[None], parts])[:, chosen].t().tolist()


def _reaches(nested: dict[int, list[int]], root: int) -> bool:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        for part in nested.get(waiting.pop(), ()):
            if part == root:
                return True
            if part not in seen:
                seen.add(part)
                waiting.append(part)
    return False
