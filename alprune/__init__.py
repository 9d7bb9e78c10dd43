"""Active learning under a wall-clock budget, with learners pruned before training."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alprune.acquisition import ACQUISITIONS, Evidence
    from alprune.data import DATASETS, Dataset
    from alprune.errors import AlpruneError
    from alprune.labelling import Asking, open_asking
    from alprune.loop.config import RunConfig
    from alprune.loop.estimator import PrunedClassifier
    from alprune.loop.events import read_events
    from alprune.loop.resume import resume
    from alprune.loop.session import RunResult, Session
    from alprune.loop.setup import run
    from alprune.models import MODELS, build
    from alprune.pruning import METHODS, Plan, Pruned, prune, rebuild
    from alprune.runs.compare import compare
    from alprune.runs.export import export
    from alprune.runs.history import RunHistory, load_run
    from alprune.runs.load import load_learner
    from alprune.runs.predict import predict
    from alprune.training.fold_batchnorm import fold

__version__ = "0.1.0"

# Where each public name is defined; nothing of it is imported before it is used (PEP 562).
_MODULES = {
    "ACQUISITIONS": "alprune.acquisition",
    "AlpruneError": "alprune.errors",
    "Asking": "alprune.labelling",
    "DATASETS": "alprune.data",
    "Dataset": "alprune.data",
    "Evidence": "alprune.acquisition",
    "METHODS": "alprune.pruning",
    "MODELS": "alprune.models",
    "Plan": "alprune.pruning",
    "Pruned": "alprune.pruning",
    "PrunedClassifier": "alprune.loop.estimator",
    "RunConfig": "alprune.loop.config",
    "RunHistory": "alprune.runs.history",
    "RunResult": "alprune.loop.session",
    "Session": "alprune.loop.session",
    "build": "alprune.models",
    "compare": "alprune.runs.compare",
    "export": "alprune.runs.export",
    "fold": "alprune.training.fold_batchnorm",
    "load_learner": "alprune.runs.load",
    "load_run": "alprune.runs.history",
    "open_asking": "alprune.labelling",
    "predict": "alprune.runs.predict",
    "prune": "alprune.pruning",
    "read_events": "alprune.loop.events",
    "rebuild": "alprune.pruning",
    "resume": "alprune.loop.resume",
    "run": "alprune.loop.setup",
}

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
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'alprune' has no attribute {name!r}")
    found = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
