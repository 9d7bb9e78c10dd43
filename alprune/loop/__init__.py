"""The loop: fit, score, acquire, label, until the budget ends or a criterion says stop."""

from alprune.loop.session import Oracle, RunResult, Session

__all__ = ["Oracle", "RunResult", "Session"]
