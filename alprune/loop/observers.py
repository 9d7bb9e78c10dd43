"""What shows a run: the interface, and an observer that passes on to others."""

from typing import Any


class Observer:
    """Receives what a run does, to show it; does nothing itself."""

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Receive an event as it is written to the run folder."""

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Receive how far a fit is."""


class Several(Observer):
    """Passes everything on to several observers.

    Args:
        *others: In the order in which they receive it.
    """

    def __init__(self, *others: Observer) -> None:
        self._others = others

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Receive an event."""
        for other in self._others:
            other.event(name, fields)

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Receive how far a fit is."""
        for other in self._others:
            other.tick(phase, done, planned, elapsed_s)
