"""How a run ended."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        path: The run folder.
        reason: "budget", "steps", "pool empty", "interrupted" or a criterion's, see
            `alprune.loop.stopping`.
        elapsed_s: Seconds on the budget clock.
        labelled: Labelled points at the end.
        steps: Acquisition steps made.
        test_accuracy: Of the final learner, 0 to 1; None if it was never tested.
    """

    path: Path
    reason: str
    elapsed_s: float
    labelled: int
    steps: int
    test_accuracy: float | None

    def summary(self) -> dict[str, Any]:
        """Return it as JSON values, without the folder."""
        return {name: value for name, value in asdict(self).items() if name != "path"}
