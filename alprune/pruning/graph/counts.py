"""Multiply-accumulates of one example, operation by operation, as torch's own counter sees them.

A trace runs two examples, and not all work doubles with them: a table of relative positions is
computed once for any batch, a network may compare its examples with each other. So the rules say
how work is shared out over channels, and one pass of one example says how much there is.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alprune.errors import ModelError
from alprune.models.cost import counting_macs
from alprune.pruning.graph.calls import operation
from alprune.pruning.graph.place import Place, Spot
from alprune.pruning.graph.stand_ins import stand_in
from alprune.pruning.graph.verify import run

OUTSIDE = Spot("", "", 0, False)  # what runs outside of every operation


class _Counting(TorchFunctionMode):
    def __init__(
        self, place: Place, total: Callable[[], int], governed: Collection[str], exact: bool
    ) -> None:
        super().__init__()
        self.found: dict[Spot, int] = {}
        self._place, self._total, self._governed, self._exact = place, total, governed, exact

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and note its work."""
        kwargs, name = kwargs or {}, operation(func)
        self._place.count(name)
        spot = self._spot()
        before = self._total()
        out = None if self._exact else stand_in(name, func, args, kwargs)
        out = func(*args, **kwargs) if out is None else out
        if more := self._total() - before:
            self.found[spot] = self.found.get(spot, 0) + more
        return out

    def _spot(self) -> Spot:
        inside = self._place.module
        for name in self._governed:
            if inside == name or inside.startswith(f"{name}."):
                return whole(name)
        return self._place.last


def whole(module: str) -> Spot:
    """Return the place of all that a module does, for modules that a rule of one's own governs."""
    return Spot(module, "", 0, False)


def macs_by_spot(
    model: nn.Module, example: Tensor, place: Place, governed: Collection[str]
) -> Mapping[Spot, int] | None:
    """Count the work of each operation for one example, in evaluation mode.

    Args:
        model: What was traced; its modules are watched by `place`.
        example: `(1, ...)`.
        place: Of the trace.
        governed: Modules whose operations count together.

    Returns:
        `{spot: multiply-accumulates}`; None if the network does not take one example.
    """
    for exact in (False, True):
        place.start()
        try:
            with counting_macs(model) as total, _Counting(place, total, governed, exact) as mode:
                run(model.eval(), example)
                rest = total() - sum(mode.found.values())
        except ModelError:
            continue  # an assertion on values may refuse noise
        return mode.found | ({OUTSIDE: rest} if rest else {})
    return None
