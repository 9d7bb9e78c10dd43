"""Active learning under a wall-clock budget, with learners pruned before training."""

__version__ = "0.1.0"

from alprune.acquire import ACQUISITIONS, Evidence
from alprune.config import RunConfig
from alprune.data import DATASETS, Dataset
from alprune.errors import AlpruneError
from alprune.experiment import run
from alprune.models import MODELS, build
from alprune.prune import METHODS, Plan, Pruned, prune, rebuild
from alprune.session import RunResult, Session
from alprune.store import read_events

__all__ = [
    "ACQUISITIONS",
    "AlpruneError",
    "DATASETS",
    "Dataset",
    "Evidence",
    "METHODS",
    "MODELS",
    "Plan",
    "Pruned",
    "RunConfig",
    "RunResult",
    "Session",
    "build",
    "prune",
    "read_events",
    "rebuild",
    "run",
]
