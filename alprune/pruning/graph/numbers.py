"""Numbers that a forward computes from widths: 1 / sqrt(width), a division by the channel count.

A trace does not see where such a number comes from; comparing the numbers that the unpruned and
the narrowed network use at the same place shows which ones depend on a width.
"""

from collections.abc import Mapping
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map

from alprune.pruning.graph.place import Spot

Numbers = dict[Spot, tuple[float, ...]]

_ARITHMETIC = "add sub mul div pow true_divide floor_divide rsub remainder lerp addcmul addcdiv"
_DUNDERS = "add radd sub rsub mul rmul truediv rtruediv pow rpow floordiv iadd isub imul itruediv"
_FIRST = {"full": 1, "new_full": 2, "full_like": 1, "fill_": 1}  # sizes come before the number
OPERATIONS = frozenset(
    [
        *_ARITHMETIC.split(),
        *[f"{name}_" for name in _ARITHMETIC.split()],
        *[f"__{name}__" for name in _DUNDERS.split()],
        *("multiply", "divide", "subtract", "multiply_", "divide_", "tensor", "as_tensor"),
        *_FIRST,
    ]
)


def numbers_in(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the numbers among the operands of a call, in order."""
    return tuple(x for x in tree_leaves(_operands(name, args, kwargs)) if _is_number(x))


def exchanged(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], numbers: tuple[float, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with other numbers among its operands."""
    if len(numbers_in(name, args, kwargs)) != len(numbers):
        return args, dict(kwargs)
    left = iter(numbers)
    given, named = tree_map(
        lambda x: next(left) if _is_number(x) else x, _operands(name, args, kwargs)
    )
    return (*args[: _FIRST.get(name, 0)], *given), {**kwargs, **named}


def different(a: Numbers, b: Numbers) -> list[Spot]:
    """Return the places at which two networks use different numbers."""
    return [spot for spot in a if spot in b and not _close(a[spot], b[spot])]


def _operands(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args[_FIRST.get(name, 0) :], {k: v for k, v in kwargs.items() if k != "size"}


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    pairs = zip(a, b, strict=False)
    return len(a) == len(b) and all(
        x == y or abs(x - y) <= 1e-6 * abs(y) or (x != x and y != y) for x, y in pairs
    )
