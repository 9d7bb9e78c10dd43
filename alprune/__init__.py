"""Active learning under a wall-clock budget, with learners pruned before training."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from alprune.acquire import ACQUISITIONS, Evidence
from alprune.asking import Asking, open_asking
from alprune.compare import compare
from alprune.config import RunConfig
from alprune.data import DATASETS, Dataset
from alprune.errors import AlpruneError
from alprune.experiment import run
from alprune.export import export
from alprune.history import RunHistory, load_run
from alprune.learned import load_learner
from alprune.loop import RunResult, Session
from alprune.models import MODELS, build
from alprune.prediction import predict
from alprune.prune import METHODS, Plan, Pruned, prune, rebuild
from alprune.reopen import resume
from alprune.store import read_events
from alprune.train.fold import fold

if TYPE_CHECKING:
    from alprune.estimator import PrunedClassifier

__all__ = [
    "ACQUISITIONS",
    "AlpruneError",
    "Asking",
    "DATASETS",
    "Dataset",
    "Evidence",
    "METHODS",
    "MODELS",
    "Plan",
    "Pruned",
    "PrunedClassifier",
    "RunConfig",
    "RunHistory",
    "RunResult",
    "Session",
    "build",
    "compare",
    "export",
    "fold",
    "load_learner",
    "load_run",
    "open_asking",
    "predict",
    "prune",
    "read_events",
    "rebuild",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """Load `PrunedClassifier` when it is asked for: scikit-learn takes a second to import."""
    if name != "PrunedClassifier":
        raise AttributeError(f"module 'alprune' has no attribute {name!r}.")
    from alprune.estimator import PrunedClassifier

    return PrunedClassifier
