"""One run: options, session, record, checkpoints; fit, score, acquire, label until the end."""

from typing import TYPE_CHECKING

from alprune.registry import lazy

if TYPE_CHECKING:
    from alprune.loop.session import Oracle, RunResult, Session

__all__ = ["Oracle", "RunResult", "Session"]

# The command line reads the options without importing torch.
__getattr__ = lazy(
    __name__,
    {"alprune.loop.session": ["Oracle", "RunResult", "Session"]},
)
