"""Where a forward pass is: the module that runs, and the calls of operations in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Spot:
    """The k-th call of an operation within a module, counted over one forward pass."""

    module: str
    operation: str
    index: int
    training: bool


class Place:
    """Which module of a network is running, and how often each operation ran in it."""

    def __init__(self) -> None:
        self.module = ""
        self.last = Spot("", "", 0, False)  # the call counted last, in evaluation mode
        self._counts: dict[tuple[str, str], int] = {}
        self._stack: list[str] = []

    def start(self) -> None:
        """Begin a forward pass."""
        self.module, self._counts, self._stack = "", {}, []

    def count(self, operation: str) -> None:
        """Count a call of an operation in the module that is running."""
        key = self.module, operation
        self._counts[key] = count = self._counts.get(key, 0) + 1
        self.last = Spot(*key, count, False)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how often each operation ran in each module, `{(module, operation): times}`."""
        return dict(self._counts)

    def spot(self, operation: str, training: bool) -> Spot:
        """Name the call that was counted last."""
        return Spot(self.module, operation, self._counts[self.module, operation], training)

    def watch(self, model: nn.Module) -> list[Any]:
        """Follow the modules of a model as they run; returns the handles of the hooks."""
        handles: list[Any] = []
        for name, module in model.named_modules():
            handles += [
                module.register_forward_pre_hook(self._enter(name), prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        return handles

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.append(self.module)
            self.module = name

        return hook

    def _leave(self, *_: Any) -> None:
        if self._stack:
            self.module = self._stack.pop()
