"""Sizes that know where they come from: an attribute of a module, or the shape of an activation.

While a network is traced, integers of its modules and the sizes of channel dimensions are `Size`
objects, ordinary integers otherwise. A `view` or `split` then says which attribute has to change
with the channels, and which number is written into the code.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from alprune.pruning.graph.labels import Axis, Labels

Key = tuple[str, str]  # a module's name and an attribute, "heads", "sizes[1]" or "config.heads"


@dataclass(frozen=True)
class Whole:
    """The size of an axis, or the value of an attribute."""

    axis: Axis = ()
    attribute: Key | None = None


@dataclass(frozen=True)
class Part:
    """A size divided by a number."""

    of: "Size"
    by: int


@dataclass(frozen=True)
class Times:
    """A size times a number."""

    of: "Size"
    by: int  # may be a `Size`, too


@dataclass(frozen=True)
class Less:
    """A size less another number."""

    of: "Size"


@dataclass(frozen=True)
class Computed:
    """Any other arithmetic; it follows the sizes, and only trying shows whether it is right."""


Source = Whole | Part | Times | Less | Computed


class Size(int):
    """An integer and its source."""

    source: Source

    def __new__(cls, value: int, source: Source) -> "Size":
        """Make an integer that knows its source."""
        made = super().__new__(cls, value)
        made.source = source
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        """Copy as a plain integer."""
        return int(self)

    def __reduce__(self) -> tuple[type, tuple[int]]:
        """Pickle as a plain integer."""
        return int, (int(self),)

    def __eq__(self, other: object) -> bool:
        """Compare, and remember which sizes were found equal."""
        equal = int.__eq__(self, other)
        if equal is True and isinstance(other, Size):
            for pairs in _comparing:
                pairs.append((self, other))
        return equal

    def __ne__(self, other: object) -> bool:
        """Compare, as `==` does."""
        return not self == other

    __hash__ = int.__hash__

    def __floordiv__(self, other: Any) -> Any:
        """Divide, and remember what was divided."""
        return _derived(int.__floordiv__(self, other), Part(self, other))

    def __rfloordiv__(self, other: Any) -> Any:
        """Divide a number by this size."""
        return _derived(int.__rfloordiv__(self, other), Computed())

    def __mul__(self, other: Any) -> Any:
        """Multiply."""
        return _derived(int.__mul__(self, other), Times(self, other))

    def __rmul__(self, other: Any) -> Any:
        """Multiply from the left."""
        return _derived(int.__rmul__(self, other), Times(self, other))

    def __add__(self, other: Any) -> Any:
        """Add."""
        return _derived(int.__add__(self, other), Computed())

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        """Subtract."""
        return _derived(int.__sub__(self, other), Less(self))

    def __rsub__(self, other: Any) -> Any:
        """Subtract this size from a number."""
        return _derived(int.__rsub__(self, other), Computed())

    def __neg__(self) -> "Size":
        """Negate."""
        return Size(int.__neg__(self), Computed())


_COUNTED: dict[type[nn.Module], dict[str, tuple[str, int]]] = {
    nn.Linear: {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    nn.Embedding: {"embedding_dim": ("weight", 1)},
    nn.RNNBase: {
        "input_size": ("weight_ih_l0", 1),
        "hidden_size": ("weight_hh_l0", 1),
        "proj_size": ("weight_hh_l0", 1),
    },
    nn.RNNCellBase: {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
    _NormBase: {"num_features": ("weight", 0)},
}
_WIDTHS = {"in_channels", "out_channels", "d_model", *(a for d in _COUNTED.values() for a in d)}

_comparing: list[list[tuple[Size, Size]]] = []


@contextmanager
def comparisons() -> Iterator[list[tuple[Size, Size]]]:
    """Collect the pairs of sizes that are found equal within this context."""
    pairs: list[tuple[Size, Size]] = []
    _comparing.append(pairs)
    try:
        yield pairs
    finally:
        _comparing.remove(pairs)


def _derived(value: Any, source: Source) -> Any:
    return value if value is NotImplemented else Size(value, source)


def mark_attributes(model: nn.Module) -> None:
    """Replace the integers that a model's own modules hold, also in tuples, lists and records.

    Of PyTorch's layers, those that say how wide they are.
    """
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") and type(module) is not nn.Unflatten:
            for attribute in _WIDTHS & vars(module).keys():
                value = vars(module)[attribute]
                if _counts(value):
                    vars(module)[attribute] = Size(value, Whole(attribute=(name, attribute)))
            continue
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("_") or attribute == "training":
                continue
            if _counts(value):
                vars(module)[attribute] = Size(value, Whole(attribute=(name, attribute)))
            elif type(value) in (tuple, list, torch.Size) and any(_counts(v) for v in value):
                vars(module)[attribute] = type(value)(
                    Size(v, Whole(attribute=(name, f"{attribute}[{i}]"))) if _counts(v) else v
                    for i, v in enumerate(value)
                )
            else:
                fields = _fields(value)
                for key, v in fields.items():
                    if isinstance(key, str) and _counts(v):
                        fields[key] = Size(v, Whole(attribute=(name, f"{attribute}.{key}")))


def _fields(value: Any) -> dict[Any, Any]:
    """Return what a dict or a plain object, such as a data class, holds by name."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        return cast(dict[Any, Any], value)
    copied = (
        kind is SimpleNamespace
        or kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
    )
    if copied and not callable(value) and not hasattr(kind, "__deepcopy__"):  # by its fields
        return getattr(value, "__dict__", {})
    return {}


def sized(out: Any, labels: Labels, chosen: tuple[Any, ...]) -> Any:
    """Let the sizes of channel dimensions know where they come from.

    Args:
        out: The shape of a tensor, or its size along one dimension.
        labels: Of the tensor.
        chosen: That dimension, where `out` is one size.
    """
    if isinstance(out, int):
        axis = labels[chosen[0]]
        return Size(out, Whole(axis)) if axis else out
    return torch.Size(
        Size(size, Whole(axis)) if axis else size for size, axis in zip(out, labels, strict=True)
    )


def counted(out: int, shape: Sequence[int], labels: Labels) -> Any:
    """Let the number of elements of a tensor know which channels it counts."""
    found = [(size, axis) for size, axis in zip(shape, labels, strict=True) if axis]
    if not out:
        return out
    number: Any = out // math.prod(size for size, _ in found)
    for size, axis in found:
        whole = Size(size, Whole(axis))
        number = whole if number == 1 else whole * number
    return number


def counted_dimension(module: nn.Module, attribute: str) -> tuple[str, int] | None:
    """Return the weight and its dimension that an attribute of one of PyTorch's layers counts."""
    transposed = isinstance(module, _ConvTransposeNd)
    if isinstance(module, _ConvNd) and attribute in ("in_channels", "out_channels"):
        dim = int((attribute == "in_channels") != transposed)
        return None if dim and module.groups > 1 else ("weight", dim)
    for kind, found in _COUNTED.items():
        if isinstance(module, kind):
            return found.get(attribute)
    return None


def get_size(module: nn.Module, attribute: str) -> Any:
    """Return an attribute of a module, or the part of one that "name[i]" or "name.key" names."""
    name, _, field = attribute.partition(".")
    if field:
        return _fields(getattr(module, name, None)).get(field)
    name, _, index = attribute.rstrip("]").partition("[")
    value = getattr(module, name, None)
    if not index:
        return value
    fits = isinstance(value, tuple | list) and int(index) < len(value)
    return value[int(index)] if fits else None  # type: ignore[index]


def set_size(module: nn.Module, attribute: str, value: int) -> None:
    """Set what `get_size` returns."""
    name, _, field = attribute.partition(".")
    if field:
        _fields(getattr(module, name))[field] = value
        return
    name, _, index = attribute.rstrip("]").partition("[")
    if index:
        items = list(getattr(module, name))
        items[int(index)] = value
        setattr(module, name, type(getattr(module, name))(items))
    else:
        setattr(module, name, value)


def _counts(value: object) -> bool:
    return type(value) is int and value > 0
