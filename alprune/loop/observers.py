"""What shows a run: the interface, and an observer that passes on to others."""

from typing import Any


class Observer:
    """Is told what a run does, to show it; does nothing itself."""

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Hear of an event as it is written to the run folder."""

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Hear how far a fit is."""


class Several(Observer):
    """Passes on to several observers what it is told.

    Args:
        *others: In the order in which they hear.
    """

    def __init__(self, *others: Observer) -> None:
        self._others = others

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Hear of an event."""
        for other in self._others:
            other.event(name, fields)

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        """Hear how far a fit is."""
        for other in self._others:
            other.tick(phase, done, planned, elapsed_s)
