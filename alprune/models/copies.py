"""Copies of networks, whose hooks and functions remember the copy instead of the original.

A deep copy leaves functions as they are. So a hook or a lambda that remembers the network around
it, or one of its layers, would run on the original's.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_any, tree_map

Network = TypeVar("Network", bound=nn.Module)
_REGISTRIES = frozenset(("_parameters", "_buffers", "_modules"))


def copy_network(network: Network) -> Network:
    """Deep copy a network, the functions that it holds among it."""
    twins = empty_twins(network)
    copied = copy.deepcopy(network, twins)
    follow_functions(copied, twins)
    keep_modes(network, copied)
    return copied


def empty_twins(network: nn.Module) -> dict[int, Any]:
    """Begin the memo of a deep copy with the containers of modules that hold nothing.

    A module has a dozen, for hooks that it mostly lacks: they are most of what copying would do.
    """
    values = (value for module in network.modules() for value in vars(module).values())
    kinds = (dict, set, OrderedDict)
    return {id(value): type(value)() for value in values if type(value) in kinds and not value}


def keep_modes(network: nn.Module, copied: nn.Module) -> None:
    """Set the mode of each module of a deep copy, in place: torch.fx's forget theirs."""
    modes = {name: module.training for name, module in network.named_modules()}
    for name, module in copied.named_modules():
        module.training = modes.get(name, module.training)


def follow_functions(model: nn.Module, twins: Mapping[int, Any]) -> None:
    """Let the functions that a copy holds, its hooks among them, refer to the copy, in place.

    Functions that `torch.compile` returned are replaced by what they compile.

    Args:
        model: A deep copy.
        twins: `{id of an object of the original: its copy}`, the memo of that deep copy.
    """
    follower = _Follower(twins)
    for module in model.modules():
        if "_orig_mod" in module._modules:  # what `torch.compile` made of a module copies itself
            continue
        for name, value in list(vars(module).items()):
            if name not in _REGISTRIES:
                found = follower.inside(value)
                if found is not value:
                    vars(module)[name] = found


class _Follower:
    def __init__(self, twins: Mapping[int, Any]) -> None:
        self._twins = twins
        self._made: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}
        self._seen: set[int] = set()

    def inside(self, value: Any) -> Any:
        """Return what stands for an attribute of the copy; dicts and lists change in place."""
        if isinstance(value, FunctionType | functools.partial | MethodType):
            return self._callable(value)
        if isinstance(value, dict | list) and id(value) not in self._seen:
            self._seen.add(id(value))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                if (found := self.inside(item)) is not item:
                    value[key] = found
        elif type(value) is tuple:
            found = tuple(map(self.inside, value))
            same = all(a is b for a, b in zip(found, value, strict=True))
            return value if same else found
        return value

    def _callable(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            function = self._callable(value.func)
            args = tuple(map(self._remembered, value.args))
            named = {key: self._remembered(item) for key, item in value.keywords.items()}
            return functools.partial(function, *args, **named)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._remembered(value.__self__))
        if id(value) in self._made:
            return self._made[id(value)]
        compiled = getattr(value, "_torchdynamo_orig_callable", None)
        self._made[id(value)] = value
        if compiled is not None:
            self._made[id(value)] = self._callable(compiled)
        elif self._reaches(value, set()):
            self._function(value)
        return self._made[id(value)]

    def _function(self, function: FunctionType) -> None:
        """Make a function anew, with cells of its own for what has a twin."""
        old = function.__closure__ or ()
        cells = tuple(map(self._cell, old))
        made = FunctionType(
            function.__code__, function.__globals__, function.__name__, None, cells or None
        )
        functools.update_wrapper(made, function)
        self._made[id(function)] = made
        for before, after in zip(old, cells, strict=True):
            if after is not before:
                after.cell_contents = self._remembered(before.cell_contents)
        if function.__defaults__ is not None:
            made.__defaults__ = tuple(map(self._remembered, function.__defaults__))
        if function.__kwdefaults__ is not None:
            named = function.__kwdefaults__.items()
            made.__kwdefaults__ = {key: self._remembered(value) for key, value in named}

    def _cell(self, cell: CellType) -> CellType:
        """Return the cell for the copy: one of its own, which functions share as before."""
        if id(cell) not in self._cells:
            reaches = self._reaches(_content(cell), set())
            self._cells[id(cell)] = CellType() if reaches else cell
        return self._cells[id(cell)]

    def _reaches(self, value: Any, seen: set[int]) -> bool:
        """Whether what a function remembers leads to something of the original."""
        if id(value) in self._twins:
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        held: list[Any] = []
        if isinstance(value, FunctionType):
            held += map(_content, value.__closure__ or ())
            held += value.__defaults__ or ()
            held += (value.__kwdefaults__ or {}).values()
        elif isinstance(value, functools.partial):
            held += (value.func, *value.args, *value.keywords.values())
        elif isinstance(value, MethodType):
            held.append(value.__self__)
        elif isinstance(value, dict | list | tuple):
            return bool(tree_any(self._has_twin, value))
        return any(self._reaches(item, seen) for item in held)

    def _remembered(self, value: Any) -> Any:
        """Return what stands in the copy for what a function remembers."""
        if id(value) in self._twins:
            return self._twins[id(value)]
        if isinstance(value, FunctionType | functools.partial | MethodType):
            return self._callable(value)
        if isinstance(value, dict | list | tuple) and self._reaches(value, set()):
            return tree_map(lambda x: self._twins.get(id(x), x), value)
        return value

    def _has_twin(self, value: Any) -> bool:
        return isinstance(value, Tensor | nn.Module) and id(value) in self._twins


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
