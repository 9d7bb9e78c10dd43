"""One operation of a forward pass, as the rules see it, and what they note about it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from alprune.pruning.graph.labels import Axis
from alprune.pruning.graph.place import Spot

# Operations that hand values to Python, where an `if` can look at them.
READS = frozenset("__bool__ __int__ __float__ __index__ __complex__ item tolist".split())
# Results of these do not depend on the values of their operands: only on shapes, or (the last
# three) on whether something went wrong, which is asked for the sake of an error.
VALUELESS = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty "
    "new_full isnan isinf isfinite".split()
)
# Either what these return has a size that depends on values, or the values leave torch.
SIZED_BY_VALUES = frozenset(
    "nonzero argwhere masked_select unique unique_consecutive bincount numpy __array__".split()
)
# A number over all channels that goes through nothing but these is only looked at, as by an
# assertion; then it constrains no channel.
COMPARISONS = frozenset(
    "ge gt le lt eq ne all any isfinite isnan isinf logical_and logical_not logical_or bitwise_not "
    "bitwise_and bitwise_or __ge__ __gt__ __le__ __lt__ __eq__ __ne__ __and__ __or__ "
    "__invert__ detach abs".split()
)
SHAPES = frozenset(("get shape", "size"))
COUNTS = frozenset(("numel", "nelement"))


@dataclass(frozen=True)
class Call:
    """One operation of the forward pass, or one call of a module, after it ran."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    @classmethod
    def of(
        cls,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> "Call":
        """Note a call, its first operand by position, however it was given."""
        if not args and "input" in kwargs:
            rest = {key: value for key, value in kwargs.items() if key != "input"}
            return cls(name, func, (kwargs["input"],), rest, out)
        return cls(name, func, args, kwargs, out)

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among the arguments."""
        return (a for a in tree_leaves((self.args, dict(self.kwargs))) if isinstance(a, Tensor))

    def results(self) -> list[Tensor]:
        """Return the tensors among the results."""
        return [t for t in tree_leaves(self.out) if isinstance(t, Tensor)]


@dataclass(frozen=True)
class Mixing:
    """An operation without weights of its own that mixes channels (see `gates.Mix`)."""

    kind: str
    axes: dict[int, Axis]


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a product, shared out over a weight or over axes.

    Attributes:
        macs: For the examples traced.
        spot: Where.
        weight: Name of the parameter whose elements share it out; "" if none.
        axes: Axes that may be narrowed and share it out otherwise.
        factor: Name of the parameter whose elements are multiplied; "" if none.
    """

    macs: float
    spot: Spot
    weight: str = ""
    axes: tuple[Axis, ...] = ()
    factor: str = ""


def operation(func: Callable[..., Any]) -> str:
    """Return the name by which the rules know an operation."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as Tensor.T
        return "get " + str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name
