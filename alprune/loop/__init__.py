"""The loop: fit, score, acquire, label, until the budget ends or a criterion says stop."""

from alprune.loop.result import RunResult
from alprune.loop.session import Oracle, Session

__all__ = ["Oracle", "RunResult", "Session"]
