"""Networks of several inputs, given to everything else as networks of one.

The inputs of each example are laid side by side in one tensor `(b, n)`, and a subclass of the
network takes them apart again before its own forward. Names of modules and weights stay.
"""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alprune.errors import ModelError

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""What a network takes: one tensor `(b, ...)`, several by position, or several by name."""


@dataclass(frozen=True)
class Part:
    """One of several inputs.

    Attributes:
        name: Of the argument; "" if it is passed by position.
        shape: Of one example.
        dtype: Its name, "float32", "int64" ...
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


def parts_of(inputs: Inputs) -> tuple[Part, ...]:
    """Describe several inputs; () for a single tensor."""
    if isinstance(inputs, Tensor):
        return ()
    return tuple(
        Part(name, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch."))
        for name, x in _named(inputs)
    )


def packed(inputs: Inputs) -> Tensor:
    """Lay the inputs of each example side by side: `(b, n)`, or a single tensor as it is.

    Values are kept in float64 if any is an integer or of more than 32 bits, else in float32.
    """
    if isinstance(inputs, Tensor):
        return inputs
    tensors = [x for _, x in _named(inputs)]
    wide = any(x.element_size() > 4 or not x.is_floating_point() for x in tensors)
    kind = torch.float64 if wide else torch.float32
    return torch.cat([x.reshape(len(x), -1).to(kind) for x in tensors], 1)


def taking_one(model: nn.Module, parts: tuple[Part, ...]) -> nn.Module:
    """Return a network that shares everything with `model` and takes what `packed` returns.

    Raises:
        ModelError: Its forward is an attribute of the instance, which a subclass cannot replace,
            or takes other arguments.
    """
    if not parts:
        return model
    if "forward" in vars(model):
        raise ModelError(
            f"{type(model).__name__} has its forward set on the instance; several inputs need it "
            "to be a method of the class."
        )
    kind = type(model)
    signature = inspect.signature(kind.forward)
    names = [part.name for part in parts]
    try:
        signature.bind(model, *(n for n in names if not n), **{n: n for n in names if n})
    except TypeError as error:
        raise ModelError(
            f"the inputs do not fit {kind.__name__}.forward{signature}: {error}. Several inputs "
            "are a tuple in the order of its arguments, or a dict by their names."
        ) from error

    def forward(self: nn.Module, x: Tensor) -> Any:
        given, named = _apart(x, parts)
        return kind.forward(self, *given, **named)

    made = copy.copy(model)
    made.__class__ = type(
        kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__, _MARK: kind}
    )
    return made


def taking_several(model: nn.Module) -> nn.Module:
    """Undo `taking_one`, in place, for a network that was made from one of its networks."""
    for module in model.modules():
        kind = vars(type(module)).get(_MARK)
        if kind is not None:
            module.__class__ = kind
    return model


_MARK = "_takes_one_instead_of"


def _named(inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    if isinstance(inputs, Mapping):
        return list(inputs.items())
    return [("", x) for x in inputs]


def _apart(x: Tensor, parts: tuple[Part, ...]) -> tuple[list[Tensor], dict[str, Tensor]]:
    given: list[Tensor] = []
    named: dict[str, Tensor] = {}
    start = 0
    for part in parts:
        size = math.prod(part.shape)
        piece = x[:, start : start + size].reshape(len(x), *part.shape)
        piece = piece.to(getattr(torch, part.dtype))
        start += size
        if part.name:
            named[part.name] = piece
        else:
            given.append(piece)
    return given, named
